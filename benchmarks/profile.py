"""Where a step of fnn spends its time, operator by operator: `python -m benchmarks.profile WORKLOAD`."""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import mean
from time import perf_counter
from typing import Any

from benchmarks.fnn_peer import SGD, operators, step_of
from benchmarks.machine import pin, usable_cores
from benchmarks.peers import PEERS
from benchmarks.report import NOTHING, table, time_text
from benchmarks.workloads import WORKLOADS, Step, Workload
from fnn import Op, cross_entropy, serial
from fnn.optim import Optimizer
from fnn.transforms import shard


class Watch:
    """Makes functions note how long their calls take; threads may do so at once, as a note is one append to a list."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float]] = []

    def timed(self, name: str, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, each of whose calls is noted as `part` of `name`."""

        def call(*args: Any) -> Any:
            start = perf_counter()
            result = function(*args)
            self.calls.append((name, part, perf_counter() - start))
            return result

        return call

    def pair(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which returns a result and its vjp as operators and losses do, with both of them timed."""
        forward = self.timed(name, "forward", function)

        def call(*args: Any) -> Any:
            result, vjp = forward(*args)
            return result, self.timed(name, "vjp", vjp)

        return call

    def spent(self) -> dict[tuple[str, str], float]:
        """The milliseconds noted so far, added up by name and part."""
        spent: dict[tuple[str, str], float] = defaultdict(float)
        for name, part, elapsed in self.calls:
            spent[name, part] += 1e3 * elapsed
        return spent

    def op(self, name: str, op: Op) -> Op:
        """The same operator, timed: an operator from an operator."""
        return Op(op.init, self.pair(name, op.apply), kind=op.kind, wraps=op, takes_key=True)

    def optimizer(self, optimizer: Optimizer) -> Optimizer:
        """The same optimizer, its update timed."""
        return Optimizer(optimizer.init, self.timed("update", "forward", optimizer.update))


def watched_step(workload: Workload, threads: int, watch: Watch) -> Step:
    """The step that the benchmark times, with each part of its network, its loss and its update noted in `watch`."""
    parts = serial(*operators(workload)).parts
    net = shard(serial(*(watch.op(name, op) for name, op in parts.items())), workers=threads)
    return step_of(net, workload, watch.pair("loss", cross_entropy), watch.optimizer(SGD))


def profile(workload: Workload, threads: int, seconds: float) -> str:
    """A Markdown table of the milliseconds that each part takes in a step.

    They are means over the faster half of the steps in some seconds: those that nothing else on the machine disturbed,
    and means add up. With several threads, a part's time is that of all of them together, and so is the whole.
    """
    watch = Watch()
    step = watched_step(workload, threads, watch)
    steps: list[tuple[float, dict[tuple[str, str], float]]] = []
    end = perf_counter() + seconds
    while (start := perf_counter()) < end or len(steps) < 3:
        watch.calls.clear()
        step()
        steps.append((1e3 * (perf_counter() - start), watch.spent()))
    faster = sorted(steps, key=lambda step: step[0])[: (len(steps) + 1) // 2]
    times = {key: mean(spent[key] for _, spent in faster) for key in faster[0][1]}
    return _told(times, mean(total for total, _ in faster), threads)


def _told(times: dict[tuple[str, str], float], total: float, threads: int) -> str:
    rows, whole = [], total * threads
    for name in dict.fromkeys(name for name, _ in times):
        parts = [times.get((name, part)) for part in ("forward", "vjp")]
        share = sum(filter(None, parts)) / whole
        rows.append([name, *(NOTHING if ms is None else time_text(ms) for ms in parts), f"{share:.1%}"])
    rest = whole - sum(times.values())
    rows.append(["all else", time_text(rest), NOTHING, f"{rest / whole:.1%}"])
    rows.append(["step", time_text(total), NOTHING, NOTHING])
    return table(["part", "forward, ms", "vjp, ms", "share"], rows)


def main(argv: Sequence[str]) -> None:
    """Profiles what the command line asks for."""
    parser = argparse.ArgumentParser("python -m benchmarks.profile", description="Times a step of fnn part by part.")
    parser.add_argument("workload", choices=WORKLOADS, metavar="WORKLOAD", help=f"one of {', '.join(WORKLOADS)}")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="the number of threads")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="for how long steps are timed")
    args = parser.parse_args(argv)
    if not 1 <= args.threads <= usable_cores():
        parser.error(f"--threads {args.threads}: this process may use 1 to {usable_cores()}")
    pin(args.threads)
    print(profile(WORKLOADS[args.workload], args.threads, args.seconds))


if __name__ == "__main__":
    held = PEERS["fnn"].environment(threads=1)
    if not held.items() <= os.environ.items():  # NumPy is imported by now: begin again where BLAS keeps to one thread
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.profile", *sys.argv[1:]], {**os.environ, **held})
    main(sys.argv[1:])
