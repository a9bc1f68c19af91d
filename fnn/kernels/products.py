"""Matrix products of the sizes that BLAS is fastest at."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from fnn.kernels.reductions import accurate_sum, wide_sum
from fnn.kernels.threads import idle_threads, parallel_map
from fnn.op import Array

SMALL = 1_000_000
"""A product of at most so many multiplications OpenBLAS makes without packing its factors first, which pays."""

SMALL_TURNED = 1_200
"""Where the right factor's columns are contiguous, and not its rows, it does so up to so many results only."""

LANES = 16
"""How many float32 a vector register holds: a product whose columns do not fill the last one wastes the rest."""

DEEP = 1_200
"""Factors longer than that are cut into products that add up: lenet's first dense layer took 1.4 times as long."""

LONG, LONG_DOT, LONG_SUM = 4096, 1024, 128
"""Longest inner axis that BLAS adds by itself: the rounding error grows with it.

In products of matrices; with a vector, where numbers along the inner axis are neighbours in memory; and where they are
not, as BLAS then adds them one after the other.
"""

MOST = 1 << 22
"""So many numbers of parts' products are held at most before they are added."""

MIN_SPLIT_MACS = 16_000_000
"""From so many multiplications on, it pays to hand a part of them to another thread."""


def matmul(a: Array, b: Array) -> Array:
    """The product of two matrices, a C-contiguous array."""
    (rows, inner), columns = a.shape, b.shape[1]
    if inner == 1:  # an outer product is not BLAS's affair: a quarter of the time
        outer: Array = a * b
        return outer
    if inner > LONG_SUM and inner > _longest(a, b):
        return sum_products(a[None], b[None])
    cuts = 1 if inner <= DEEP else depth(rows, inner, columns)
    if cuts == 1 and tile(rows, inner, columns, is_transposed(b)) == (rows, columns):
        whole: Array = np.dot(a, b)  # which is called a little faster than matmul
        return whole
    if not (a.flags.forc and b.flags.forc):
        a, b = a.copy(), b.copy()  # as tiles must be views that BLAS can read
    if cuts > 1:
        terms = np.empty((cuts, rows, columns), a.dtype)
        batched_matmul(a.reshape(rows, cuts, -1).swapaxes(0, 1), b.reshape(cuts, -1, columns), terms)
        return accurate_sum(terms, 0)
    y = np.empty((rows, columns), a.dtype)
    batched_matmul(a, b, y)
    return y


def sum_products(a: Array, b: Array) -> Array:
    """The sum of the matrix products of two stacks, over their first axis.

    BLAS adds along the inner axis one after the other. Where that is long, it is cut into parts, and the products of
    the parts are added in float64.
    """
    inner, shape = a.shape[-1], (*a.shape[:-1], b.shape[-1])
    length = -(-inner // max(1, -(-inner // _longest(a, b))))
    parts = inner // max(1, length)
    at_once = max(1, MOST // max(1, prod(shape)))
    total: Any = 0.0
    for begin in range(0, max(1, parts), at_once):
        n = min(at_once, parts - begin)
        span = slice(begin * length, (begin + n) * length)
        lefts = np.moveaxis(a[..., span].reshape(*a.shape[:-1], n, length), -2, 0)
        rights = np.moveaxis(b[..., span, :].reshape(*b.shape[:-2], n, length, b.shape[-1]), -3, 0)
        terms = np.empty((n, *shape), a.dtype)
        batched_matmul(lefts, rights, terms)
        total = total + wide_sum(terms, (0, 1))
    if parts * length < inner:
        terms = np.empty(shape, a.dtype)
        batched_matmul(a[..., parts * length :], b[..., parts * length :, :], terms)
        total = total + wide_sum(terms, 0)
    added: Array = total.astype(a.dtype)
    return added


def _longest(a: Array, b: Array) -> int:
    """The longest inner axis that BLAS adds by itself in the product of these matrices."""
    if a.shape[-2] > 1 and b.shape[-1] > 1:
        return LONG
    neighbours = a.strides[-1] if b.shape[-1] == 1 else b.strides[-2]
    return LONG_DOT if neighbours == a.itemsize else LONG_SUM


def batched_matmul(a: Array, b: Array, out: Array) -> None:
    """Puts the products of the matrices in `a` and `b`, stacks that broadcast, into the stack `out`.

    Each is made of tiles that are small products: for a layer of some hundred features or some dozen channels, and a
    batch of some dozen examples, 5 to 40 % faster. Threads that are spare take a part of the columns.
    """
    (rows, inner), columns = a.shape[-2:], b.shape[-1]
    high, wide = tile(rows, inner, columns, is_transposed(b))
    if (high, wide) == (rows, columns):
        np.matmul(a, b, out=out)
        return

    lefts, rights, outs = a.shape[:-2], b.shape[:-2], out.shape[:-2]

    def fill(start: int, stop: int) -> None:
        for down, m, height in _cut(0, rows, high):
            left = a[..., down, :].reshape(*lefts, m, 1, height, inner)
            for across, n, width in _cut(start, stop, wide):
                right = b[..., across].reshape(*rights, 1, inner, n, width).swapaxes(-3, -2)
                target = out[..., down, across].reshape(*outs, m, height, n, width).swapaxes(-3, -2)
                np.matmul(left, right, out=target)

    tiles = -(-columns // wide)
    threads = min(idle_threads(), tiles) if out.size * inner >= MIN_SPLIT_MACS else 1
    ends = [min(tiles * i // threads * wide, columns) for i in range(threads + 1)]
    parallel_map(lambda i: fill(ends[i], ends[i + 1]), threads, threads)


@lru_cache(maxsize=1000)
def _cut(start: int, stop: int, size: int) -> list[tuple[slice, int, int]]:
    """The range cut into even pieces of that size, and the rest that is left: where, how many, of what size each."""
    even = stop - (stop - start) % size
    parts = (slice(start, even), (even - start) // size, size), (slice(even, stop), 1, stop - even)
    return [part for part in parts if part[0].start < part[0].stop]


def is_transposed(b: Array) -> bool:
    """Whether a right factor's columns are contiguous, and not its rows."""
    return b.strides[-1] != b.itemsize


@lru_cache(maxsize=1000)
def tile(rows: int, inner: int, columns: int, turned: bool) -> tuple[int, int]:
    """How many rows and columns of a product to make at a time; `turned` if the right factor's columns are contiguous.

    All of them where the whole product is small, or where no tile would be made without packing.
    """
    results = rows * columns
    if results * inner <= SMALL and not (turned and results > SMALL_TURNED):
        return rows, columns
    if 1 in (rows, columns) or (turned and inner < 32):  # as a vector needs no packing, and such tiles would be packed
        return rows, columns
    limit = SMALL // max(inner, 1)
    if turned:
        limit = min(limit, SMALL_TURNED)
    # The best widths were found by trying; rows come in fours in OpenBLAS's kernels.
    wide = _evenly(columns, LANES if turned else 4 * LANES, LANES)
    most = limit // wide // 4 * 4
    return (_evenly(rows, most, 4), wide) if most else (rows, columns)


@lru_cache(maxsize=1000)
def depth(rows: int, inner: int, columns: int) -> int:
    """The number of products, which add up, to cut a product into along its long inner axis.

    It is 1 if the product is small or of a vector, or if no number makes even pieces of some 256 to 512.
    """
    if rows * inner * columns <= SMALL or 1 in (rows, columns):
        return 1
    return next((n for n in range(-(-inner // 512), inner // 256 + 1) if inner % n == 0), 1)


def _evenly(length: int, most: int, unit: int) -> int:
    """The size of pieces, a multiple of the unit and at most `most`: even pieces, or the last one about as long."""
    sizes = range(most // unit * unit, most // 2, -unit)
    pieces = -(-length // most)
    return next((n for n in sizes if length % n == 0), min(-(-length // pieces // unit) * unit, length))
