"""Labelled images, their conversion to a network's input, and shuffled batches."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fnn.checks.arrays import array_fault
from fnn.checks.errors import describe
from fnn.checks.values import check_int
from fnn.kernels.memory import from_wchn
from fnn.random import Rng, as_key


class Examples(NamedTuple):
    """Images of digits with their labels."""

    images: NDArray[np.uint8]
    """(N, 28, 28): grey levels from 0 (background) to 255."""

    labels: NDArray[np.int64]
    """(N,): the digit in each image, 0 to 9."""


class Dataset(NamedTuple):
    """Training examples, test examples, and their source: one line of text to print, such as a folder.

    `validation` has examples that choose between settings or epochs, if there are any.
    """

    train: Examples
    test: Examples
    source: str
    validation: Examples | None = None


SCALING = {"divide_by": 127.5, "subtract": 1.0}
"""How `as_float` scales: pixels / 127.5 - 1."""


def as_float(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Converts grey levels (N, 28, 28) from 0 to 255 to a network's input (N, 1, 28, 28), float32 from -1 to 1.

    Raises ValueError for anything but uint8 images, so that scaled images are not scaled again.
    """
    if array_fault("images", images, integers=True) or images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(f"images: expected uint8 (N, height, width), got {describe(images)}")
    levels = np.ascontiguousarray(images.transpose(2, 1, 0))  # reordered before the conversion: bytes are smaller
    pixels = np.divide(levels, SCALING["divide_by"], dtype=np.float32)
    pixels -= SCALING["subtract"]
    return from_wchn(pixels[:, np.newaxis])


def batches(n: int, size: int, rng: Rng) -> Iterator[NDArray[np.intp]]:
    """Shuffles the indices 0 to n - 1 and returns them as arrays of `size`; the last one may be shorter.

    Equal keys give equal batches, so fold the number of the epoch into the key. Raises ValueError at the call, not at
    the first batch, unless n is an int of at least 0 and size an int of at least 1.
    """
    n, size = check_int("n", n), check_int("size", size, 1)
    order = as_key(rng).generator().permutation(n).astype(np.intp, copy=False)
    return (order[start : start + size] for start in range(0, n, size))
