"""What `benchmarks.scaling` has the ranks of MPI measure: `mpiexec -n 2 python -m benchmarks.ranks '{...}'`.

The argument is JSON: `nets`, and what else `measure` takes. Rank 0 answers with JSON, what `measure` returns for each.
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
from benchmarks.fnn_peer import operators, step_of
from benchmarks.worker import time_steps
from benchmarks.workloads import FAMILIES, Step, Workload
from fnn.mpi import program, spread, spread_loss, world

Turn: TypeAlias = Callable[[float], float]
"""The median seconds of something that is done for about so many seconds; every rank takes its turn together."""


def main() -> int:
    """Measures each net in turn."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    print(json.dumps([measure(net, world(), **asked) for net in asked.pop("nets")]))
    return 0


def measure(net: str, comm: Any, images: list[int], shared: list[int], rounds: int, seconds: float) -> dict[str, Any]:
    """The seconds of each turn, one a round: `times[what]`; and the `bytes` of the gradients.

    `one 64` is a step of one rank with 64 images, for each number in `images`, and `all 64` one of all ranks with 64 in
    all, for each in `shared`. `swap` and `swap all` are exchanges of a number and of a message as long as the
    gradients; `packing` is to make a message of these and to add another to it.
    """
    work = FAMILIES[net][0]
    turns: dict[str, Turn] = {}
    for n in sorted({*images, *shared}):
        if n in images:
            turns[f"one {n}"] = partial(by_one, alone(work, n), comm)
        if n in shared:
            turns[f"all {n}"] = partial(by_all, together(work, n // comm.size, comm), comm)
    leaves = fnn.tree_leaves(fnn.serial(*operators(work)).init(0, work.shape))
    message = np.concatenate([leaf.ravel("K") for leaf in leaves])
    turns["swap"] = partial(by_all, swap(message[:1], comm), comm)
    turns["swap all"] = partial(by_all, swap(message, comm), comm)
    turns["packing"] = partial(by_one, lambda: np.concatenate([a.ravel("K") for a in leaves]) + message, comm)
    times = {what: [0.0] * rounds for what in turns}
    for nth in range(rounds):
        for what, turn in turns.items():
            times[what][nth] = turn(seconds)
    return {"net": net, "bytes": message.nbytes, "times": times}


def alone(work: Workload, images: int) -> Step:
    """A step of one rank by itself, in one thread."""
    return step_of(fnn.shard(fnn.serial(*operators(work)), workers=1), work._replace(batch=images))


def together(work: Workload, images: int, comm: Any) -> Step:
    """A step of all ranks, with so many images and in one thread each."""
    net = spread(fnn.serial(*operators(work)), comm, workers=1)
    return step_of(net, work._replace(batch=images), spread_loss(fnn.cross_entropy, comm))


def swap(message: fnn.Array, comm: Any) -> Step:
    """The first rank and the last send each other a message."""
    partner, received = comm.size - 1 - comm.rank, np.empty_like(message)
    if comm.rank not in (0, comm.size - 1):
        return lambda: None
    return lambda: comm.Sendrecv(message, partner, recvbuf=received, source=partner)


def by_one(step: Step, comm: Any, seconds: float) -> float:
    """A turn of rank 0; the others sleep, which they would not while they wait for a message."""
    took = 0.0
    if comm.rank == 0:
        time_steps(step, seconds / 10)
        took = median(time_steps(step, seconds))
    done = comm.Ibarrier()
    while not done.Test():
        sleep(0.001)
    return took


def by_all(step: Step, comm: Any, seconds: float) -> float:
    """A turn of all ranks, which take as many steps each."""
    warm = median(time_steps(step, 0))
    threes = comm.bcast(max(1, int(seconds / (3 * warm))))  # as many steps as time_steps takes without any time
    return median(took for _ in range(threes) for took in time_steps(step, 0))


if __name__ == "__main__":
    sys.exit(program(main))
