"""The sections of the report, each measured and formatted in Markdown: steps, memory, growth, imports."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.fnn_peer import flops
from benchmarks.harness import ROOT, Job, Outcome, Worker, run_rounds, start_worker
from benchmarks.peers import OLD, PEERS
from benchmarks.report import NOTHING, best_peer, geometric_mean, left_out, ratio_text, ratios, table, time_text
from benchmarks.workloads import GROWTH, MEMORY, SGEMM, Workload


class Plan(NamedTuple):
    """How to measure: the peers, the rounds, the seconds per turn, and a function that shows the progress."""

    peers: Sequence[str]
    rounds: int
    seconds: float
    log: Callable[[str], None]
    isa: str | None = None
    old: Path = ROOT
    """The checkout of the peer OLD."""

    def run(self, jobs: Sequence[Job]) -> Outcome:
        """Runs the jobs in rounds."""
        return run_rounds(jobs, self.rounds, self.seconds, self.log)

    def start(self, peer: str, threads: int) -> AbstractContextManager[Worker]:
        """Starts a worker for the peer."""
        return start_worker(peer, threads, self.isa, self.old if peer == OLD else ROOT)


class Section(NamedTuple):
    """A part of the report, and its ratios for the summary."""

    title: str
    text: str
    ratios: dict[str, dict[str, float]]
    """The median speed of fnn, relative to "best peer" or "old", by workload."""


def steps(plan: Plan, title: str, workloads: Sequence[Workload], threads: int) -> Section:
    """Measures each peer's time per workload, fnn's speed relative to the best peer, and relative to BLAS's peak."""
    peers = [peer for peer in plan.peers if any(PEERS[peer].takes(work) for work in workloads)]
    with ExitStack() as stack:
        workers = {peer: stack.enter_context(plan.start(peer, threads)) for peer in peers}
        jobs = [Job(workers["fnn"], name) for name in SGEMM if "fnn" in workers]
        jobs += [Job(workers[peer], work.name) for work in workloads for peer in peers if PEERS[peer].takes(work)]
        outcome = plan.run(jobs)
    core, title = core_gflops(outcome), f"{title}, {_threads(threads)}"
    found = {work.name: _compare(outcome.times(work.name)) for work in workloads}
    others = [other for other in ("best peer", OLD) if any(found[name][other] for name in found)]
    header = ["ms per step", *peers, *(f"speed of fnn / {other}" for other in others), "share of peak"]
    rows = []
    for work in workloads:
        cells = [ratio_text(found[work.name][other]) for other in others]
        rows.append(_step_row(peers, work, outcome.times(work.name), cells, core and core * threads))
    peak = f"The peak is {threads} x {core:.0f} GFLOP/s, NumPy's sgemm on one core." if core else ""
    text = _section(title, table(header, rows), peak, *left_out(outcome.failures))
    medians = {
        other: {name: median(values[other]) for name, values in found.items() if values[other]} for other in others
    }
    return Section(title, text, medians)


def _compare(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Returns the speed of fnn relative to others, one per round."""
    return {"best peer": ratios(times, best_peer(times)), OLD: ratios(times, OLD)}


def _step_row(
    peers: Sequence[str], work: Workload, times: dict[str, list[float]], compared: list[str], peak: float | None
) -> list[str]:
    best = best_peer(times)
    cells = {peer: time_text(median(values)) for peer, values in times.items()}
    if best:
        cells[best] = f"**{cells[best]}**"
    done = flops(work) if peak and "fnn" in times else 0
    share = f"{done / (median(times['fnn']) * 1e6) / peak:.0%}" if peak and done else NOTHING
    return [work.name, *(cells.get(peer, NOTHING) for peer in peers), *compared, share]


def summary(sections: Sequence[Section]) -> str:
    """Returns the geometric mean and the worst case of fnn's speed relative to others, for each section."""
    rows = []
    for section in sections:
        for other, speeds in section.ratios.items():
            worst = min(speeds, key=speeds.__getitem__)
            mean = f"{geometric_mean(speeds.values()):.2f}"
            rows.append([f"{section.title}, fnn / {other}", str(len(speeds)), mean, f"{speeds[worst]:.2f} ({worst})"])
    return _section("Summary", table(["speed", "workloads", "geometric mean", "worst"], rows))


def core_gflops(outcome: Outcome) -> float | None:
    """Returns the highest median rate of the matrix products, on one core."""
    speeds = [SGEMM[name].flops / median(outcome.times(name)["fnn"]) / 1e6 for name in SGEMM if outcome.times(name)]
    return max(speeds, default=None)


def memory(plan: Plan, threads: int) -> str:
    """Measures the peak memory of each peer's process with one workload."""
    with ExitStack() as stack:
        jobs = [Job(stack.enter_context(plan.start(peer, threads)), MEMORY.name) for peer in plan.peers]
        outcome = plan._replace(rounds=1).run(jobs)
    rows = [[peer, _megabytes(replies[-1].peak_mb)] for peer, replies in outcome.replies.get(MEMORY.name, {}).items()]
    title = f"Memory of a process that trains {MEMORY.name}, {_threads(threads)}"
    return _section(title, table(["peer", "peak MB"], rows), *left_out(outcome.failures))


def layer_memory(plan: Plan, workloads: Sequence[Workload]) -> str:
    """Measures the memory that a step of each workload adds to that of the process, on one thread."""
    peers = [peer for peer in plan.peers if any(PEERS[peer].takes(work) for work in workloads)]
    with ExitStack() as stack:
        workers = {peer: stack.enter_context(plan.start(peer, 1)) for peer in peers}
        jobs = [Job(workers[peer], work.name) for work in workloads for peer in peers]
        outcome = plan._replace(rounds=1, seconds=0.0).run(jobs)
    rows = []
    for work in workloads:
        found = outcome.replies.get(work.name, {})
        rows.append([work.name, *(_megabytes(found[peer][0].step_mb if peer in found else None) for peer in peers)])
    title = "Memory that a step adds, 1 thread"
    return _section(title, table(["peak MB", *peers], rows), *left_out(outcome.failures))


def growth(plan: Plan, threads: int) -> str:
    """Measures fnn's time per image and its memory for larger and larger batches, each in its own process."""
    with ExitStack() as stack:
        outcome = plan.run([Job(stack.enter_context(plan.start("fnn", threads)), work.name) for work in GROWTH])
    rows, first = [], None
    for work in GROWTH:
        if replies := outcome.replies.get(work.name, {}).get("fnn"):
            image = 1e3 * median(reply.ms for reply in replies) / work.batch
            first = first or image
            rows.append([str(work.batch), f"{image:.1f}", f"{image / first:.2f}", _megabytes(replies[-1].peak_mb)])
    header = ["batch", "µs per image", "relative to the first", "peak MB"]
    return _section(f"Growth of cnn, fnn, {_threads(threads)}", table(header, rows), *left_out(outcome.failures))


def imports(plan: Plan) -> str:
    """Measures the import time of each package in a new process: fnn without NumPy, the others with all they import."""
    packages = dict.fromkeys(["numpy", *(PEERS[peer].package for peer in plan.peers)])
    times: dict[str, list[float]] = {}
    for _ in range(1 + max(5, plan.rounds)):
        for package in packages:
            plan.log(f"import {package}")
            if (ms := _import_ms(package)) is not None:
                times.setdefault(package, []).append(ms)
    rows = [
        [package, f"{median(counted):.0f}"] for package, (_, *counted) in times.items()
    ]  # the first import fills caches
    missing = ", ".join(package for package in packages if package not in times)
    note = "fnn's time is without NumPy's."
    return _section("Imports", table(["import", "ms"], rows), note, missing and f"Left out: {missing}.")


def _import_ms(package: str) -> float | None:
    """Returns the milliseconds of one import, or None if the package is missing."""
    before = "import numpy" if package == "fnn" else "pass"
    code = f"{before}\nfrom time import perf_counter as now\nstart = now()\nimport {package}\nprint(now() - start)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return None if done.returncode else 1e3 * float(done.stdout.split()[-1])


def _megabytes(peak: float | None) -> str:
    return NOTHING if peak is None else f"{peak:.0f}"


def _threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"


def _section(title: str, *paragraphs: str) -> str:
    return "\n\n".join([f"### {title}", *filter(None, paragraphs)])
