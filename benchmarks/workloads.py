"""The workloads: nets as operators of fnn, and batches for them. `torch_ops` and `jax_ops` compute the same nets."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fnn import Op, Params, calibrate, conv, dense, dropout, maxpool, relu, serial, sigmoid, tanh
from fnn.inspection.rebuild import rebuild

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Results: TypeAlias = tuple[Any, ...]
"""What a step computed: arrays, and lists of arrays, of any framework."""

Step: TypeAlias = Callable[[], Results]
"""Runs a workload once."""

RATES = {"sgd": 1e-3, "adam": 1e-4}
"""The learning rate of each optimizer: small, so that thousands of steps on one batch stay finite."""


class Workload(NamedTuple):
    """A net and a batch, and what to do with them."""

    name: str
    net: Op
    shape: Shape
    batch: int
    task: Literal["train", "predict", "vjp"] = "train"
    """`train`: forward, loss, gradients and update; the result is the loss. `predict`: forward; the result is the
    output. `vjp`: forward and vjp in training, without an update; results are the output, the gradient of the input
    (None for integers) and a list of the gradients of the params."""

    loss: str = "cross_entropy"
    """A loss of fnn; "" for none."""

    optimizer: str = "sgd"
    symbols: int = 0
    """If not 0, the input consists of integers below it."""

    @property
    def images(self) -> bool:
        """Whether the input, or that of a layer inside, has channels; frameworks may choose their memory order."""
        return len(self.shape) == 3 or contains(self.net, "conv_transpose")

    def data(self) -> tuple[Params, Array, Array]:
        """Returns the initial params, the inputs (batch, *shape), and targets for the loss or a cotangent for vjp.

        Inputs are in [-1, 1) or integers. All are the same in every process.
        """
        rng = np.random.default_rng(0)
        params, size = self.net.init(0, self.shape), (self.batch, *self.shape)
        x = rng.integers(0, self.symbols, size) if self.symbols else rng.random(size, np.float32) * 2 - 1
        if self.task == "predict" and self.net.statistics:
            params = calibrate(self.net, params, [x])
        out = (self.batch, *self.net.output_shape(params, self.shape))
        if self.loss == "cross_entropy":
            return params, x, rng.integers(0, out[-1], out[:-1])
        return params, x, rng.random(out, np.float32)


class Product(NamedTuple):
    """Matrix products of one size, (many, m, k) times (k, n), which show the peak speed of the machine."""

    many: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Multiplications and additions in all `many` products."""
        return 2 * self.many * self.m * self.k * self.n

    def step(self) -> Step:
        """Returns the products by NumPy."""
        a = np.ones((self.many, self.m, self.k), np.float32)
        b, out = np.ones((self.k, self.n), np.float32), np.empty((self.many, self.m, self.n), np.float32)
        return lambda: (np.matmul(a, b, out=out),)


def without_dropout(op: Op) -> Op:
    """Returns the net with a rate of 0 in each dropout. Other frameworks draw other random numbers."""
    return dropout(0.0) if op.kind == "dropout" else rebuild(op, without_dropout)


def contains(op: Op, kind: str) -> bool:
    """Whether the net contains an operator of this kind."""
    return op.kind == kind or any(contains(part, kind) for _, part in op.inside())


IMAGE = (1, 28, 28)
CNN = serial(
    *(conv(6, 3, padding=1), maxpool(2), tanh),
    *(conv(12, 3, padding=1), maxpool(2), tanh),
    *(dense(512), tanh, dense(128), tanh, dense(10)),
)
FC = serial(dense(512), sigmoid, dense(128), sigmoid, dense(10))
TINY = serial(dense(32), tanh, dense(4))
LENET = serial(
    *(conv(32, 3, padding=1), relu, maxpool(2)),
    *(conv(64, 3, padding=1), relu, maxpool(2)),
    *(dense(128), relu, dense(10)),
)

FAMILIES: dict[str, tuple[Workload, ...]] = {
    "cnn": tuple(Workload(f"cnn-{n}", CNN, IMAGE, n) for n in (32, 100, 256)),
    "fc": (Workload("fc", FC, (784,), 100),),
    "tiny": (Workload("tiny", TINY, (16,), 32),),
    "lenet": (Workload("lenet", LENET, IMAGE, 100),),
    "infer": tuple(Workload(f"infer-{n}", CNN, IMAGE, n, "predict") for n in (1, 256)),
}
"""The workloads by family; the command line accepts these names."""

GROWTH = tuple(Workload(f"cnn-{n}", CNN, IMAGE, n) for n in (64, 256, 1024, 4096))
"""The same step for batches up to 64 times as large."""

MEMORY = Workload("cnn-256", CNN, IMAGE, 256)
"""The workload for the memory measurement."""

SGEMM = {"sgemm-1024": Product(1, 1024, 1024, 1024), "sgemm-small": Product(64, 64, 96, 128)}
"""A large product, which OpenBLAS packs, and small ones below the million multiply-adds from which it packs."""


def select(names: Sequence[str]) -> list[Workload]:
    """Returns the workloads with these names or families, each once, in the order of FAMILIES.

    Raises ValueError for an unknown name.
    """
    known = {work.name for family in FAMILIES.values() for work in family}
    if wrong := [name for name in names if name not in FAMILIES and name not in known]:
        singles = sorted(known - FAMILIES.keys())
        raise ValueError(f"expected workloads from {', '.join([*FAMILIES, *singles])}, got {wrong[0]!r}")
    return [work for family, works in FAMILIES.items() for work in works if family in names or work.name in names]


def matching(patterns: Sequence[str], works: Iterable[Workload]) -> list[Workload]:
    """Returns the workloads whose name matches one of the patterns, such as `conv*`; all without patterns.

    Raises ValueError for a pattern that matches none.
    """
    works = list(works)
    for pattern in patterns:
        if not any(fnmatchcase(work.name, pattern) for work in works):
            raise ValueError(f"expected patterns of {', '.join(work.name for work in works)}, got {pattern!r}")
    return [work for work in works if not patterns or any(fnmatchcase(work.name, p) for p in patterns)]
