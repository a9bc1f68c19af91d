"""Labelled digit images: the one form in which all data comes, and how pixels become a network's input."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fnn.checks.arrays import array_fault
from fnn.checks.errors import describe
from fnn.kernels.memory import from_wchn


class Examples(NamedTuple):
    """Images of digits with their labels."""

    images: NDArray[np.uint8]
    """(N, 28, 28): grey levels from 0, the background, up to 255."""

    labels: NDArray[np.int64]
    """(N,): the digit that each image shows, 0 up to 9."""


class Dataset(NamedTuple):
    """Examples to train on, examples to test on, and where they came from."""

    train: Examples
    test: Examples
    source: str
    """One line that says where the examples were read, to be printed."""


def as_float(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The grey levels as a network's input: from (N, 28, 28) in 0..255 to (N, 1, 28, 28) in [-1, 1].

    Behind the view lies contiguous (W, C, H, N) memory, batch innermost, which convolutions read as it stands.
    Raises ValueError for anything but uint8 images: an already scaled image must not be scaled again.
    """
    if array_fault("images", images, integers=True) or images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(f"images: expected uint8 (N, height, width), got {describe(images)}")
    levels = np.ascontiguousarray(images.transpose(2, 1, 0))  # while they are bytes, a quarter of the floats to move
    pixels = np.divide(levels, 127.5, dtype=np.float32)
    pixels -= 1
    return from_wchn(pixels[:, np.newaxis])
