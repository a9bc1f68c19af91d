"""Matrix products of the sizes that BLAS is fastest at."""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import numpy as np

from fnn.op import Array
from fnn.threads import begin, each, spare

T = TypeVar("T")

SMALL = 1_000_000
"""A product of at most so many multiplications OpenBLAS makes without packing its factors first, which pays."""

SMALL_TURNED = 1_200
"""It does so for at most so many results where the right factor's columns, not its rows, are contiguous."""

LANES = 16
"""How many numbers a vector register holds: a product whose columns do not fill the last one wastes the rest."""

LARGE = 16_000_000
"""From so many multiplications on, it pays to hand a part of them to another thread."""


FAIR = 2_000_000
"""From so many multiplications on, it pays to have another thread do them meanwhile."""

DEEP = 1_200
"""Factors longer than that are cut, as the tiles would have too few rows."""


def product(a: Array, b: Array) -> Array:
    """The product of two matrices, in the order of rows."""
    (rows, inner), columns = a.shape, b.shape[1]
    if inner == 1:  # an outer product is not BLAS's affair: a quarter of the time
        outer: Array = a * b
        return outer
    if tile(rows, inner, columns, not b.flags.c_contiguous) == (rows, columns):
        whole: Array = np.dot(a, b)  # which is called a little faster than matmul
        return whole
    a, b = (m if m.flags.forc else m.copy() for m in (a, b))
    pieces = depth(inner)
    y: Array = np.empty((pieces, rows, columns), a.dtype)
    stack(a.reshape(rows, pieces, -1).swapaxes(0, 1), b.reshape(pieces, -1, columns), y)
    added: Array = y[0] if pieces == 1 else y.sum(0)
    return added


def stack(a: Array, b: Array, out: Array) -> None:
    """Puts the products of the matrices in `a` and `b`, stacks that broadcast, into the stack `out`.

    Each is made of tiles that are small products: for a layer of some hundred features or some dozen channels, and a
    batch of some dozen examples, 5 to 40 % faster. Threads that are spare take a part of the columns.
    """
    (rows, inner), columns = a.shape[-2:], b.shape[-1]
    high, wide = tile(rows, inner, columns, b.strides[-1] != b.itemsize)
    if (high, wide) == (rows, columns):
        np.matmul(a, b, out=out)
        return

    def some(columns: slice) -> None:
        for across, width in _cuts(columns, wide):
            right = _apart(b[..., across], width)[..., np.newaxis, :, :]
            for down, height in _cuts(slice(0, rows), high):
                left = a[..., down, :].reshape(*a.shape[:-2], 1, -1, height, inner)
                to = _apart(out[..., down, across], width)
                np.matmul(left, right, out=to.reshape(*to.shape[:-2], -1, height, width))

    tiles = -(-columns // wide)
    threads = min(spare(), tiles) if out.size * inner >= LARGE else 1
    if threads == 1:
        some(slice(0, columns))
    else:
        ends = [min(tiles * i // threads * wide, columns) for i in range(threads + 1)]
        each(lambda i: some(slice(ends[i], ends[i + 1])), threads, threads)


def later(f: Callable[[], T], work: int) -> T | Callable[[], T]:
    """`f()`, which takes so many multiplications, or a function that waits for it while a spare thread calls `f`."""
    return begin(f) if work >= FAIR and spare() > 1 else f()


def _cuts(whole: slice, size: int) -> list[tuple[slice, int]]:
    """The range in pieces of that size, and what is left, if anything is, as one: each with the size of its pieces."""
    even = whole.stop - (whole.stop - whole.start) % size
    parts = (slice(whole.start, even), size), (slice(even, whole.stop), whole.stop - even)
    return [part for part in parts if part[0].start < part[0].stop]


def _apart(matrices: Array, wide: int) -> Array:
    """The matrices in parts of so many columns: the view (..., number, rows, wide)."""
    *batch, rows, columns = matrices.shape
    return matrices.reshape(*batch, rows, columns // wide, wide).swapaxes(-3, -2)


@lru_cache(maxsize=1000)
def tile(rows: int, inner: int, columns: int, turned: bool) -> tuple[int, int]:
    """How many rows and columns of a product to make at a time; `turned` if the right factor's columns are contiguous.

    All of them, where that is small or no tile is.
    """
    work, results = rows * inner * columns, rows * columns
    if work <= SMALL and not (turned and results > SMALL_TURNED):
        return rows, columns
    limit, best = (min(SMALL // inner, SMALL_TURNED), LANES) if turned else (SMALL // inner, 4 * LANES)
    wide = _evenly(columns, best, LANES)
    most = limit // wide // 4 * 4
    if not most or 2 * wide < LANES or (turned and inner < 32):
        return rows, columns
    return _evenly(rows, most, 4), wide


@lru_cache(maxsize=1000)
def depth(inner: int) -> int:
    """In how many products, which add up, to cut one of factors so long that its tiles would be thin."""
    if inner <= DEEP:
        return 1
    return next((n for n in range(-(-inner // 512), inner // 256 + 1) if inner % n == 0), 1)


def _evenly(length: int, most: int, unit: int) -> int:
    """The size of pieces, a multiple of the unit and at most `most`, whose last one is about as long as the others."""
    pieces = -(-length // most)
    return min(-(-length // pieces // unit) * unit, length)
