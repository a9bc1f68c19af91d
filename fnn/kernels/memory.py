"""The memory order behind the arrays: why it makes NumPy fast, and conversions to it.

A batch of images has the shape (N, C, H, W). Its numbers usually lie in memory as (W, C, H, N), the batch innermost:

    index      x[n, c, h, w]
    in memory  w0: c0: h0: n0 n1 n2 ...
                       h1: n0 n1 n2 ...
                   c1: h0: n0 n1 n2 ...
               w1: ...

So elementwise work and pooling run over long stretches of memory, and the windows of a convolution overlap along the
width as views, without a copy. A batch of features, (N, features), keeps the order in which it comes, rows or columns,
so that no layer transposes it. A function here copies only if its argument has another order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import TypeVar

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.threads import idle_threads, parallel_map

T = TypeVar("T")

CACHED = 1 << 18  # so many numbers, and the few others that are computed with them, fit in a core's cache
MIN_BLOCKS = 4  # with fewer blocks, the calls and the handover to another thread take as long as the work


def map_blocks(f: Callable[..., T], *arrays: Array) -> list[T]:
    """Returns `f(*blocks)` for each block of about CACHED numbers of large arrays, cut along their first axis.

    Several operations on a block find it in the cache, and idle threads take some of the blocks. Arrays of length 1
    along the axis are not cut, and neither are small ones.
    """
    length, n = len(arrays[0]), arrays[0].size // CACHED
    if n < MIN_BLOCKS:
        return [f(*arrays)]
    n = min(length, n)

    def call(i: int) -> T:
        block = slice(length * i // n, length * (i + 1) // n)
        return f(*[a[block] if len(a) > 1 else a for a in arrays])

    return parallel_map(call, n, idle_threads())


@lru_cache(maxsize=1000)
def memory_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes from the outermost in memory to the innermost, those of length 1 last, and the axes that undo that."""
    order = sorted(range(len(shape)), key=lambda axis: (shape[axis] == 1, -abs(strides[axis])))
    return tuple(order), tuple(order.index(axis) for axis in range(len(shape)))


def fast_order(x: Array) -> Array:
    """The images `x`, (N, C, H, W), with memory in the order (W, C, H, N)."""
    return from_wchn(to_wchn(x))


def to_wchn(x: Array) -> Array:
    """The images `x`, (N, C, H, W), as a contiguous (W, C, H, N) array."""
    return np.ascontiguousarray(x.transpose(3, 1, 2, 0))


def from_wchn(memory: Array) -> Array:
    """The (N, C, H, W) view of a (W, C, H, N) array."""
    return memory.transpose(3, 1, 2, 0)


def as_items(x: Array) -> Array:
    """Views the last axis of `x` as one item, because NumPy copies few numbers at a time slowly."""
    return x.view(np.dtype((np.void, x.shape[-1] * x.itemsize))) if x.shape[-1] > 1 else x


def match_order(x: Array, like: Array) -> Array:
    """The matrix `x` in rows or in columns, as `like`."""
    return np.ascontiguousarray(x) if like.flags.c_contiguous else np.asfortranarray(x)


def to_features(x: Array) -> Array:
    """The batch `x`, (N, *shape), as (N, features): a view if `x` is C-contiguous, otherwise contiguous columns."""
    if x.flags.c_contiguous:
        return x if x.ndim == 2 else x.reshape(len(x), prod(x.shape[1:]))
    return _to_columns(x).T


def from_features(features: Array, shape: tuple[int, ...]) -> Array:
    """The (N, *shape) batch of (N, features). Images made of columns come in the order of `fast_order`."""
    if len(shape) == 1:
        return features
    if features.flags.c_contiguous:
        return features.reshape(len(features), *shape)
    batch = _to_columns(features).reshape(*shape, len(features)).transpose(len(shape), *range(len(shape)))
    return fast_order(batch) if len(shape) == 3 else batch


def _to_columns(x: Array) -> Array:
    """The batch `x`, (N, *shape), as a contiguous (features, N)."""
    return np.ascontiguousarray(x.transpose(*range(1, x.ndim), 0)).reshape(prod(x.shape[1:]), len(x))
