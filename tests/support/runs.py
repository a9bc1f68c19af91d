"""Small training runs for the tests of fnn.run."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fnn
from fnn import conv, dense, dropout, maxpool, run, serial, sgd, tanh
from fnn.data import Dataset, compose, digits, shift

NET = serial(conv(2, 3), maxpool(4), tanh, dense(8), dropout(0.2), tanh, dense(10))
DATA = Dataset(digits(70, 0), digits(30, 1), "digits")
RATE = fnn.one_cycle(0.1, 21)


def make_step(net: fnn.Op, loss: fnn.losses.Loss, optimizer: fnn.Optimizer) -> run.Step:
    """Returns the training step that `train.py` shows."""
    gradient = fnn.value_and_grad(net, loss)

    def step(params: fnn.Params, state: dict[str, Any], x: fnn.Array, y: fnn.Array, key: fnn.Key) -> Any:
        (value, outputs), grads = gradient(params, x, y, key)
        return *optimizer.update(params, grads, state), value, outputs

    return step


def make_task(**changes: Any) -> run.Task:
    """Returns a task that uses every part of a state: momentum, an average, dropout, augmentation in several shards."""
    task = run.Task(
        net=fnn.shard(NET, 1, 4),
        loss=fnn.cross_entropy,
        optimizer=fnn.averaged(sgd(RATE, 0.9), 0.9),
        make_step=make_step,
        rate=RATE,
        data=DATA,
        augment=compose(shift(2)),
        epochs=3,
        batch_size=10,
        shard_size=4,
        key=fnn.Key(0),
    )
    return task._replace(**changes)


def write_small_mnist(folder: Path) -> Path:
    """Writes 300 training and 100 test images in MNIST's format; returns the folder."""
    for part, n in (("train", 300), ("t10k", 100)):
        images, labels = digits(n, n)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return folder


def no_log(line: str) -> None:
    """A log that prints nothing."""


def stop_after(n: int) -> Callable[[], bool]:
    """Returns a `should_stop` that is true from its n-th call on."""
    count = iter(range(1, 1 << 30))
    return lambda: next(count) >= n


def bits(state: run.State) -> list[tuple[str, Any]]:
    """Returns everything in a state that must be reproducible: all but the times."""
    return [
        (path, (leaf.dtype, leaf.shape, leaf.tobytes()) if isinstance(leaf, np.ndarray) else (type(leaf), leaf))
        for path, leaf in sorted(fnn.tree_items(state))
        if "seconds" not in path
    ]


def metrics_without_times(folder: Path) -> list[dict[str, float]]:
    """Returns the metrics of the run in the folder, without the columns that contain times."""
    return [{name: x for name, x in line.items() if "second" not in name} for line in run.read_metrics(folder)]
