"""From times to what they say: ratios, shares, and tables in Markdown."""

from collections.abc import Mapping, Sequence
from statistics import median

NOTHING = "-"
"""What a cell says where there is nothing to say."""


def best_peer(times: Mapping[str, Sequence[float]]) -> str | None:
    """The peer whose median time over the run is the least, fnn aside; None when there is none."""
    return min((name for name in times if name != "fnn"), key=lambda name: median(times[name]), default=None)


def ratios(times: Mapping[str, Sequence[float]]) -> list[float]:
    """How many times as fast as the best peer fnn was, in each round; empty without fnn or without a peer.

    Times of one round stand next to each other on the clock, so that a slow moment of the machine strikes both.
    """
    best = best_peer(times)
    if best is None or "fnn" not in times:
        return []
    return [theirs / ours for ours, theirs in zip(times["fnn"], times[best], strict=True)]


def ratio_text(values: Sequence[float]) -> str:
    """The median, with the least and the greatest beside it."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else NOTHING


def time_text(ms: float) -> str:
    """Milliseconds, to three digits or to the microsecond's tenth."""
    return f"{ms:.4f}" if ms < 0.1 else f"{ms:.3f}" if ms < 1 else f"{ms:.2f}" if ms < 10 else f"{ms:.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are as wide as their cells, the first to the left and the others to the right."""
    lines = [header, *rows]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]

    def drawn(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(map(drawn, [header, rule, *rows]))


def left_out(failures: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A line for each peer and reason, from `failures[peer][workload]`: which workloads it was left out of, and why."""
    lines = []
    for peer, reasons in failures.items():
        for reason in dict.fromkeys(reasons.values()):
            where = [workload for workload, why in reasons.items() if why == reason]
            lines.append(f"Left out: {peer} ({', '.join(where)}): {reason}")
    return lines
