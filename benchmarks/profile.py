"""Profiles a step of fnn by operator: `python -m benchmarks.profile WORKLOAD`."""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import mean
from time import perf_counter
from typing import Any

from benchmarks.catalogue import WORKLOADS
from benchmarks.fnn_peer import LOSSES, OPTIMIZERS, in_shards, step_of
from benchmarks.machine import pin, usable_cores
from benchmarks.peers import PEERS
from benchmarks.report import NOTHING, table, time_text
from benchmarks.workloads import Step, Workload
from fnn import Op, serial
from fnn.optim import Optimizer


class Stopwatch:
    """Records the time of each call of its functions. Threads may call them at once: a record is one list append."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float]] = []

    def timed(self, name: str, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `function` with each call recorded as `part` of `name`."""

        def call(*args: Any) -> Any:
            start = perf_counter()
            result = function(*args)
            self.calls.append((name, part, perf_counter() - start))
            return result

        return call

    def pair(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `function`, an operator's `apply` or a loss, with its calls and those of its vjp recorded."""
        forward = self.timed(name, "forward", function)

        def call(*args: Any) -> Any:
            result, vjp = forward(*args)
            return result, self.timed(name, "vjp", vjp)

        return call

    def spent(self) -> dict[tuple[str, str], float]:
        """Returns the total milliseconds so far, by name and part."""
        spent: dict[tuple[str, str], float] = defaultdict(float)
        for name, part, elapsed in self.calls:
            spent[name, part] += 1e3 * elapsed
        return spent

    def op(self, name: str, op: Op) -> Op:
        """The same operator, timed: an operator from an operator."""
        return Op(op.init, self.pair(name, op.apply), kind=op.kind, wraps=op, takes_key=True)

    def optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Returns the same optimizer with its update timed."""
        return Optimizer(optimizer.init, self.timed("update", "forward", optimizer.update))


def timed_step(workload: Workload, threads: int, watch: Stopwatch) -> Step:
    """Returns the benchmark's step; each operator, the loss and the update are timed by `watch`."""
    net = workload.net if workload.net.kind == "serial" else serial(workload.net)
    timed = serial(*(watch.op(name, op) for name, op in net.parts.items()))
    loss = watch.pair("loss", LOSSES[workload.loss]) if workload.loss else None
    optimizer = watch.optimizer(OPTIMIZERS[workload.optimizer])
    return step_of(in_shards(timed, workload, threads), workload._replace(net=timed), loss, optimizer)


def profile(workload: Workload, threads: int, seconds: float) -> str:
    """Returns a Markdown table of the milliseconds per part of a step.

    They are means over the faster half of the steps, which other programs disturbed less. With several threads, times
    are sums over all threads.
    """
    watch = Stopwatch()
    step = timed_step(workload, threads, watch)
    steps: list[tuple[float, dict[tuple[str, str], float]]] = []
    end = perf_counter() + seconds
    while (start := perf_counter()) < end or len(steps) < 3:
        watch.calls.clear()
        step()
        steps.append((1e3 * (perf_counter() - start), watch.spent()))
    faster = sorted(steps, key=lambda step: step[0])[: (len(steps) + 1) // 2]
    times = {key: mean(spent[key] for _, spent in faster) for key in faster[0][1]}
    return _format(times, mean(total for total, _ in faster), threads)


def _format(times: dict[tuple[str, str], float], total: float, threads: int) -> str:
    rows, all_threads = [], total * threads
    for name in dict.fromkeys(name for name, _ in times):
        parts = [times.get((name, part)) for part in ("forward", "vjp")]
        share = sum(filter(None, parts)) / all_threads
        rows.append([name, *(NOTHING if ms is None else time_text(ms) for ms in parts), f"{share:.1%}"])
    rest = all_threads - sum(times.values())
    rows.append(["rest", time_text(rest), NOTHING, f"{rest / all_threads:.1%}"])
    rows.append(["step", time_text(total), NOTHING, NOTHING])
    return table(["part", "forward, ms", "vjp, ms", "share"], rows)


def main(argv: Sequence[str]) -> None:
    """Profiles the workload of the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.profile", description="Times a step of fnn part by part.")
    parser.add_argument("workload", choices=WORKLOADS, metavar="WORKLOAD", help=f"one of {', '.join(WORKLOADS)}")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="seconds of measurement")
    args = parser.parse_args(argv)
    if not 1 <= args.threads <= usable_cores():
        parser.error(f"--threads: expected 1 to {usable_cores()}, got {args.threads}")
    pin(args.threads)
    print(profile(WORKLOADS[args.workload], args.threads, args.seconds))


if __name__ == "__main__":
    limits = PEERS["fnn"].environment(threads=1)
    if not limits.items() <= os.environ.items():  # NumPy reads them at its import, so restart the program with them
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.profile", *sys.argv[1:]], {**os.environ, **limits})
    main(sys.argv[1:])
