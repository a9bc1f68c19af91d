"""The workloads: networks and batches, independent of any framework."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Step: TypeAlias = Callable[[], object]
"""Runs a workload once: the forward pass, or forward, loss, gradients and update. Its result is ignored."""

RATE = 1e-3
"""The learning rate: small, so that thousands of steps on one batch stay finite."""


class Layer(NamedTuple):
    """One layer: a 3 x 3 convolution with padding 1, a max-pooling, a dense layer, or an activation by its name."""

    kind: str
    size: int = 0
    """The output channels of a convolution, the kernel of a pooling, the output features of a dense layer."""

    def output(self, shape: Shape) -> Shape:
        """Returns the shape of one example's output."""
        if self.kind == "conv":
            return (self.size, *shape[1:])
        if self.kind == "maxpool":
            return (shape[0], shape[1] // self.size, shape[2] // self.size)
        return (self.size,) if self.kind == "dense" else shape


class Workload(NamedTuple):
    """A network and a batch, for training or for inference."""

    name: str
    layers: tuple[Layer, ...]
    shape: Shape
    batch: int
    train: bool = True

    @property
    def images(self) -> bool:
        """Whether the input has channels; frameworks may choose their memory order."""
        return len(self.shape) == 3

    def inputs(self) -> Iterator[tuple[Layer, Shape]]:
        """Yields each layer with the shape of one example of its input."""
        shape = self.shape
        for layer in self.layers:
            yield layer, shape
            shape = layer.output(shape)

    def data(self) -> tuple[Array, Array]:
        """Returns the inputs (batch, *shape) in [-1, 1), and labels below the number of classes."""
        rng = np.random.default_rng(0)
        inputs = rng.random((self.batch, *self.shape), np.float32) * 2 - 1
        return inputs, rng.integers(0, self.layers[-1].size, self.batch)


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
        return lambda: np.matmul(a, b, out=out)


def _conv(channels: int, activation: str) -> tuple[Layer, ...]:
    return Layer("conv", channels), Layer("maxpool", 2), Layer(activation)


def _dense(activation: str, *features: int) -> tuple[Layer, ...]:
    """Dense layers with an activation after each but the last."""
    hidden = (layer for size in features[:-1] for layer in (Layer("dense", size), Layer(activation)))
    return (*hidden, Layer("dense", features[-1]))


IMAGE = (1, 28, 28)
CNN = (*_conv(6, "tanh"), *_conv(12, "tanh"), *_dense("tanh", 512, 128, 10))
FC = _dense("sigmoid", 512, 128, 10)
TINY = _dense("tanh", 32, 4)
LENET = (
    *(Layer("conv", 32), Layer("relu"), Layer("maxpool", 2)),
    *(Layer("conv", 64), Layer("relu"), Layer("maxpool", 2)),
    *_dense("relu", 128, 10),
)

FAMILIES: dict[str, tuple[Workload, ...]] = {
    "cnn": tuple(Workload(f"cnn-{n}", CNN, IMAGE, n) for n in (32, 100, 256)),
    "fc": (Workload("fc", FC, (784,), 100),),
    "tiny": (Workload("tiny", TINY, (16,), 32),),
    "lenet": (Workload("lenet", LENET, IMAGE, 100),),
    "infer": tuple(Workload(f"infer-{n}", CNN, IMAGE, n, train=False) for n in (1, 256)),
}
"""The workloads by family; the command line accepts these names."""

GROWTH = tuple(Workload(f"cnn-{n}", CNN, IMAGE, n) for n in (64, 256, 1024, 4096))
"""The same step for batches up to 64 times as large."""

MEMORY = Workload("cnn-256", CNN, IMAGE, 256)
"""The workload for the memory measurement."""

SGEMM = {"sgemm-1024": Product(1, 1024, 1024, 1024), "sgemm-small": Product(64, 64, 96, 128)}
"""A large product, which OpenBLAS packs, and small ones below the million multiply-adds from which it packs."""

WORKLOADS = {work.name: work for work in (*(w for family in FAMILIES.values() for w in family), *GROWTH)}


def select(names: list[str]) -> list[Workload]:
    """Returns the workloads with these names or families, each once, in the order of FAMILIES.

    Raises ValueError for an unknown name.
    """
    known = {work.name for family in FAMILIES.values() for work in family}
    if wrong := [name for name in names if name not in FAMILIES and name not in known]:
        singles = sorted(known - FAMILIES.keys())
        raise ValueError(f"expected workloads from {', '.join([*FAMILIES, *singles])}, got {wrong[0]!r}")
    return [work for family, works in FAMILIES.items() for work in works if family in names or work.name in names]
