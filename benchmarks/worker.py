"""A process that times the workloads of one peer; `harness.start_worker` starts it.

It reads requests from stdin and writes replies to stdout, one line of JSON each.
"""

import json
import os
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np

from benchmarks.catalogue import WORKLOADS
from benchmarks.machine import peak_mb, pin, reset_peak, resident_mb
from benchmarks.peers import PEERS, Peer, missing
from benchmarks.workloads import SGEMM, Step, Workload, contains, without_dropout

CHECKED_STEPS = 5
"""So many losses of a training are compared."""


class Prepared(NamedTuple):
    """A step that ran, what it computed, and the memory that it adds to that of the process while it runs."""

    step: Step
    numbers: list[float]
    step_mb: float | None


def main(name: str, threads: int) -> None:
    """Answers requests until stdin ends."""
    pin(threads)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of a framework goes to stderr
    peer, prepared = PEERS[name], dict[str, Prepared]()
    for line in sys.stdin:
        print(json.dumps(answer(peer, threads, prepared, **json.loads(line))), file=replies)


def answer(peer: Peer, threads: int, prepared: dict[str, Prepared], workload: str, seconds: float) -> dict[str, object]:
    """Returns the fields of a `harness.Reply`, or the reason of a failure as `error`; `prepared` caches the steps.

    Steps are timed for that many seconds, or not at all if these are 0.
    """
    try:
        if workload not in prepared:
            product = SGEMM.get(workload)
            prepared[workload] = Prepared(product.step(), [], None) if product else prepare(peer, workload, threads)
            time_steps(prepared[workload].step, seconds / 2, 0)  # compilers and caches
        step, numbers, step_mb = prepared[workload]
        time_steps(step, seconds / 10, 0)
        ms = 1e3 * median(time_steps(step, seconds, 0) or [0.0])
        return {"ms": ms, "peak_mb": peak_mb(), "step_mb": step_mb, "numbers": numbers}
    except Exception as error:
        text = missing(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        return {"error": " ".join(text.split())[:200]}


def prepare(peer: Peer, name: str, threads: int) -> Prepared:
    """Returns the step of the workload, after it ran."""
    work = WORKLOADS[name]
    step = peer.step(work, threads)
    return Prepared(step, describe(peer, work, threads, step), measure_memory(step))


def describe(peer: Peer, work: Workload, threads: int, step: Step) -> list[float]:
    """Returns numbers that describe what the peer computes; they are the same for all peers, up to rounding.

    They are the losses of the first steps; otherwise two norms of each result.
    """
    if contains(work.net, "dropout"):
        step = peer.step(work._replace(net=without_dropout(work.net)), threads)
    if work.task == "train":
        return [float(step()[0]) for _ in range(CHECKED_STEPS)]
    return [norm for result in step() if result is not None for norm in norms(result)]


def norms(result: object) -> tuple[float, float]:
    """Returns the norm of an array, or of all arrays in a list, and that of its positive numbers.

    They do not depend on the order of the numbers, which frameworks choose differently.
    """
    arrays = result if isinstance(result, list) else [result]
    numbers = np.concatenate([np.asarray(array, float).ravel() for array in arrays] or [np.zeros(0)])
    return float(np.linalg.norm(numbers)), float(np.linalg.norm(np.maximum(numbers, 0)))


def measure_memory(step: Step) -> float | None:
    """Returns the megabytes that one more step adds to the memory of the process."""
    before = resident_mb() if reset_peak() else None
    step()
    after = peak_mb()
    return None if before is None or after is None else max(0.0, after - before)


def time_steps(step: Callable[[], object], seconds: float, least: int = 3) -> list[float]:
    """Returns the seconds of each step, for as many steps as fit and at least `least`."""
    times: list[float] = []
    now = perf_counter()
    end = now + seconds
    while now < end or len(times) < least:
        start, _ = perf_counter(), step()
        now = perf_counter()
        times.append(now - start)
    return times
