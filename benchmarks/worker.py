"""A process that times the workloads of one peer: `python -m benchmarks.worker PEER THREADS`.

It reads requests from stdin and writes replies to stdout, one line of JSON each.
"""

import json
import os
import sys
from statistics import median
from time import perf_counter

from benchmarks.machine import peak_mb, pin
from benchmarks.peers import PEERS, Peer
from benchmarks.workloads import SGEMM, WORKLOADS, Step


def main(name: str, threads: int) -> None:
    """Answers requests until stdin ends."""
    pin(threads)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of a framework goes to stderr
    peer, steps = PEERS[name], dict[str, Step]()
    for line in sys.stdin:
        print(json.dumps(answer(peer, threads, steps, **json.loads(line))), file=replies)


def answer(peer: Peer, threads: int, steps: dict[str, Step], workload: str, seconds: float) -> dict[str, object]:
    """Returns `ms`, the median time of a workload's steps, and `peak_mb`, or the reason of a failure as `error`.

    `steps` caches the steps.
    """
    try:
        if workload not in steps:
            steps[workload] = SGEMM[workload].step() if workload in SGEMM else peer.step(WORKLOADS[workload], threads)
            time_steps(steps[workload], seconds / 2)  # compilers and caches
        time_steps(steps[workload], seconds / 10)
        return {"ms": 1e3 * median(time_steps(steps[workload], seconds)), "peak_mb": peak_mb()}
    except Exception as error:
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}


def time_steps(step: Step, seconds: float) -> list[float]:
    """Returns the seconds of each step, for as many steps as fit and at least three."""
    times: list[float] = []
    now = perf_counter()
    end = now + seconds
    while now < end or len(times) < 3:
        start, _ = perf_counter(), step()
        now = perf_counter()
        times.append(now - start)
    return times


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
