"""What lies behind the arrays: the memory orders that make NumPy fast, and an allocator that keeps its pages.

A batch of images is NCHW to the eye. Behind it lies (W, C, H, N), the batch innermost: elementwise work and pooling run
over long stretches of memory, and a convolution's windows overlap along the width as views. A batch of features,
(batch, features) to the eye, stays as it came, so that no layer transposes it: in rows, or in columns if it was made of
images. An operator brings its input into the order that it wants, which costs nothing where it has it already, and
returns views of arrays in that order.
"""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_wchn(x: NDArray[Any]) -> NDArray[Any]:
    """The images `x`, (N, C, H, W), as a contiguous (W, C, H, N): `x`'s own memory where that is its order."""
    return np.ascontiguousarray(x.transpose(3, 1, 2, 0))


def from_wchn(memory: NDArray[Any]) -> NDArray[Any]:
    """The (N, C, H, W) view of a (W, C, H, N) array."""
    return memory.transpose(3, 1, 2, 0)


def to_columns(x: NDArray[Any]) -> NDArray[Any]:
    """The batch `x`, (N, *shape), as a contiguous (features, N), the features in the order of `shape`."""
    if x.ndim == 2:
        return np.ascontiguousarray(x.T)
    return np.ascontiguousarray(x.transpose(*range(1, x.ndim), 0)).reshape(prod(x.shape[1:]), len(x))


def to_features(x: NDArray[Any]) -> NDArray[Any]:
    """The batch `x`, (N, *shape), as (N, features): a view of `x` where that is C-contiguous, else of its columns."""
    if not x.flags.c_contiguous:
        return to_columns(x).T
    return x if x.ndim == 2 else x.reshape(len(x), prod(x.shape[1:]))


def from_columns(columns: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The (N, *shape) batch of a (features, N) array; images come in the memory order of images."""
    if len(shape) == 1:
        return columns.T
    batch = columns.reshape(*shape, columns.shape[-1]).transpose(len(shape), *range(len(shape)))
    return from_wchn(to_wchn(batch)) if len(shape) == 3 else batch


def from_features(features: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The (N, *shape) batch of (N, features): a view where these are C-contiguous, else made of their columns."""
    if len(shape) == 1:
        return features
    if features.flags.c_contiguous:
        return features.reshape(len(features), *shape)
    return from_columns(to_columns(features), shape)


def keep_pages() -> None:
    """Makes the allocator keep the memory of freed arrays.

    By default glibc gives arrays of megabytes back to the system at once, and a training step then spends most of its
    time in page faults. Its thresholds follow the largest block that was freed: one of just under 32 MB, the most that
    it heeds, raises them for good. The block's pages are never touched, so none is taken.
    """
    np.empty((32 << 20) - 8192, np.uint8)
