"""The tasks that `test_mpi` runs under mpiexec; the arguments are the name of a task and a path.

For example `mpiexec -n 2 python tests/support/mpi_program.py train_and_save params.pkl`.
"""

import argparse
import os
import signal
import sys
import time
import zlib
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import fnn
from fnn import conv, cross_entropy, dense, dropout, maxpool, serial, tanh, value_and_grad
from fnn.mpi import part, program, spread, spread_loss, totals, world
from fnn.testing import check_op

NET = serial(conv(3, 3, padding=1), maxpool(2), tanh, dropout(0.4), dense(20), tanh, dense(4))
SHAPE, N, SIZE, STEPS = (1, 6, 6), 91, 8, 3
"""91 examples make 16 shards of 5 or 6; with two or more ranks, parts have different sizes."""


def batch(rows: slice = slice(None)) -> tuple[fnn.Array, fnn.Array]:
    """Returns these rows of the batch; the batch is innermost in memory, as for images."""
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((*SHAPE, N)).astype(np.float32), rng.integers(0, 4, N)
    return np.moveaxis(images[..., rows].copy(), -1, 0), labels[rows]


def train(net: fnn.Op, loss: fnn.losses.Loss, rows: slice) -> fnn.Params:
    """Returns the params after a few steps, each with its own key."""
    (x, y), step, optimizer = batch(rows), value_and_grad(net, loss), fnn.sgd(0.1, momentum=0.9)
    params = net.init(0, SHAPE)
    state = optimizer.init(params)
    for i in range(STEPS):
        _, grads = step(params, x, y, fnn.Key(i))
        params, state = optimizer.update(params, grads, state)
    return params


def train_and_save(path: Path) -> int:
    comm = world()
    params = train(spread(NET, size=SIZE), spread_loss(cross_entropy), part(N, SIZE))
    bits = b"".join(leaf.tobytes("A") for leaf in fnn.tree_leaves(params))
    assert len(set(comm.allgather(zlib.crc32(bits)))) == 1
    assert totals(comm.rank, 1) == [sum(range(comm.size)), comm.size]
    assert comm.bcast({"w": np.asfortranarray(np.eye(2, 3))} if comm.rank == 0 else None)["w"].flags.fnc
    if comm.rank == 0:
        fnn.save(path, params)
        print(f"{comm.size} ranks")
    print(f"{comm.rank}", file=sys.stderr if comm.rank else sys.stdout)
    return 0


def check_spread(path: Path) -> int:
    check_op(spread(serial(dense(3), dropout(0.5)), size=2), (4,), batch=7, key=0)
    return 0


def fail_on_one_rank(path: Path) -> int:
    if world().rank == 1:
        raise RuntimeError("the disk is on fire")
    return wait_for_others(path)


def fail_on_all_ranks(path: Path) -> int:
    print(f"mpi_program.py: error: no such file: {path}", file=sys.stderr)
    return 3


def fail_on_a_flag(path: Path) -> int:
    argparse.ArgumentParser("mpi_program.py").error("a bad flag")


def pass_the_whole_batch(path: Path) -> int:
    """Rank 1 passes the whole batch instead of its part."""
    x, _ = batch(slice(None) if world().rank == 1 else part(N, SIZE))
    net = spread(NET, size=SIZE)
    net.apply(net.init(0, SHAPE), x)
    return 0


def kill_one_rank(path: Path) -> int:
    if world().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return wait_for_others(path)


def wait_for_others(path: Path) -> int:
    """Waits for ranks that never call `totals`."""
    totals(0)
    time.sleep(60)
    return totals(0) == [0]


def stop_on_a_signal(path: Path) -> int:
    """Counts steps until any rank gets a signal; all ranks must then have the same count."""
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    steps = 0
    while not totals(len(signals))[0]:
        steps += 1
        if steps == 3:
            print("three steps", flush=True)
    assert len(set(world().allgather(steps))) == 1
    print("all stopped after the same step")
    totals(0)
    return 143


if __name__ == "__main__":
    sys.exit(program(lambda: globals()[sys.argv[1]](Path(sys.argv[-1]))))
