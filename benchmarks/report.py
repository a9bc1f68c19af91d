"""Ratios of times, and tables in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from math import exp, log
from statistics import mean, median

from benchmarks.peers import PEERS

NOTHING = "-"
"""The text of an empty cell."""


def best_peer(times: Mapping[str, Sequence[float]]) -> str | None:
    """Returns the peer with the lowest median time, or None without peers; fnn and its old version are no peers."""
    peers = (name for name in times if PEERS[name].package != "fnn")
    return min(peers, key=lambda name: median(times[name]), default=None)


def ratios(times: Mapping[str, Sequence[float]], peer: str | None) -> list[float]:
    """Returns the peer's time divided by fnn's, for each round; empty without fnn or without the peer.

    Times of one round are measured right after each other, so that a slow moment of the machine affects both.
    """
    if peer is None or not times.keys() >= {"fnn", peer}:
        return []
    return [theirs / ours for ours, theirs in zip(times["fnn"], times[peer], strict=True)]


def geometric_mean(values: Iterable[float]) -> float:
    """Returns the geometric mean of ratios: half and twice the speed make 1."""
    return exp(mean(map(log, values)))


def ratio_text(values: Sequence[float]) -> str:
    """Formats the median, the minimum and the maximum."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else NOTHING


def time_text(ms: float) -> str:
    """Formats milliseconds with three digits, or to a tenth of a microsecond."""
    return f"{ms:.4f}" if ms < 0.1 else f"{ms:.3f}" if ms < 1 else f"{ms:.2f}" if ms < 10 else f"{ms:.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [header, *rows]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]

    def format_row(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(map(format_row, [header, rule, *rows]))


def left_out(failures: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns a line for each peer and reason in `failures[peer][workload]`, with the workloads that it lacks."""
    lines = []
    for peer, reasons in failures.items():
        for reason in dict.fromkeys(reasons.values()):
            where = [workload for workload, why in reasons.items() if why == reason]
            lines.append(f"Left out: {peer} ({', '.join(where)}): {reason}")
    return lines
