"""The program that `benchmarks.scaling` runs on the ranks of MPI: `mpiexec -n 2 python -m benchmarks.ranks '{...}'`.

The argument is JSON: `nets`, and the other arguments of `measure`. Rank 0 prints its results for each net as JSON.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from time import sleep
from typing import Any, TypeAlias

import numpy as np

import fnn
from benchmarks.fnn_peer import step_of
from benchmarks.worker import time_steps
from benchmarks.workloads import FAMILIES, Workload
from fnn.mpi import program, spread, spread_loss, world

Action: TypeAlias = Callable[[], object]
Turn: TypeAlias = Callable[[float], float]
"""Runs something for about that many seconds on all ranks and returns its median seconds."""


def main() -> int:
    """Measures each net in turn."""
    plan: dict[str, Any] = json.loads(sys.argv[1])
    print(json.dumps([measure(net, world(), **plan) for net in plan.pop("nets")]))
    return 0


def measure(net: str, comm: Any, images: list[int], shared: list[int], rounds: int, seconds: float) -> dict[str, Any]:
    """Returns `times`, the seconds of each turn by name, one per round, and the `bytes` of the gradients.

    `one 64` is a step of one rank with 64 images, for each number in `images`. `all 64` is a step of all ranks with 64
    images in total, for each number in `shared`. `swap` exchanges one number, and `swap all` a message as long as the
    gradients. `packing` copies the gradients into a message and adds another message.
    """
    work = FAMILIES[net][0]
    turns: dict[str, Turn] = {}
    for n in sorted({*images, *shared}):
        if n in images:
            turns[f"one {n}"] = partial(time_one, single_step(work, n), comm)
        if n in shared:
            turns[f"all {n}"] = partial(time_all, shared_step(work, n // comm.size, comm), comm)
    leaves = fnn.tree_leaves(work.net.init(0, work.shape))
    message = np.concatenate([leaf.ravel("K") for leaf in leaves])
    turns["swap"] = partial(time_all, swap(message[:1], comm), comm)
    turns["swap all"] = partial(time_all, swap(message, comm), comm)
    turns["packing"] = partial(time_one, lambda: np.concatenate([a.ravel("K") for a in leaves]) + message, comm)
    times = {what: [0.0] * rounds for what in turns}
    for nth in range(rounds):
        for what, turn in turns.items():
            times[what][nth] = turn(seconds)
    return {"net": net, "bytes": message.nbytes, "times": times}


def single_step(work: Workload, images: int) -> Action:
    """Returns a step of one rank, in one thread."""
    return step_of(fnn.shard(work.net, workers=1), work._replace(batch=images))


def shared_step(work: Workload, images: int, comm: Any) -> Action:
    """Returns a step of all ranks, with that many images and one thread each."""
    net = spread(work.net, comm, workers=1)
    return step_of(net, work._replace(batch=images), spread_loss(fnn.cross_entropy, comm))


def swap(message: fnn.Array, comm: Any) -> Action:
    """Returns an exchange of a message between the first and the last rank."""
    partner, received = comm.size - 1 - comm.rank, np.empty_like(message)
    if comm.rank not in (0, comm.size - 1):
        return lambda: None
    return lambda: comm.Sendrecv(message, partner, recvbuf=received, source=partner)


def time_one(step: Action, comm: Any, seconds: float) -> float:
    """Times a step on rank 0 while the others sleep; waiting for a message would keep their cores busy."""
    took = 0.0
    if comm.rank == 0:
        time_steps(step, seconds / 10)
        took = median(time_steps(step, seconds))
    done = comm.Ibarrier()
    while not done.Test():
        sleep(0.001)
    return took


def time_all(step: Action, comm: Any, seconds: float) -> float:
    """Times a step on all ranks, which take the same number of steps."""
    warm = median(time_steps(step, 0))
    threes = comm.bcast(max(1, int(seconds / (3 * warm))))  # time_steps takes three steps at least
    return median(took for _ in range(threes) for took in time_steps(step, 0))


if __name__ == "__main__":
    sys.exit(program(main))
