"""Matrix products: exact for long sums, shared between threads, and of the sizes that BLAS computes fastest."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from math import prod
from typing import Any

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.memory import from_features as from_features
from fnn.kernels.memory import to_features as to_features
from fnn.kernels.reductions import accurate_sum as accurate_sum
from fnn.kernels.reductions import wide_sum
from fnn.kernels.threads import idle_threads, parallel_map
from fnn.kernels.threads import run_both as run_both

MAX_INNER, MAX_INNER_DOT, MAX_INNER_SUM = 4096, 1024, 128
"""Longest inner axis that BLAS may sum by itself, because its rounding error grows with the length.

In products of matrices; in products with a vector whose numbers are neighbours in memory; and in other products with a
vector, which BLAS sums number by number.
"""

MAX_INNER_TRANSPOSED = 256
"""The same with `HAS_SMALL_KERNELS` if the left factor is transposed: its kernel sums number by number."""

MAX_TERMS = 1 << 22
"""At most this many numbers of partial products are in memory before they are added."""

MIN_SPLIT_MACS = 16_000_000
"""Minimum multiply-adds of a product for which it pays to share it between threads."""

FEATURES = import_module("numpy._core._multiarray_umath").__cpu_features__  # no public name has them
CORES = ("skylakex", "cooperlake", "sapphirerapids")  # the kernels of OpenBLAS for AVX-512
HAS_SMALL_KERNELS = os.environ.get("OPENBLAS_CORETYPE", CORES[0] * FEATURES.get("AVX512_SKX", False)).lower() in CORES
"""Whether OpenBLAS has special kernels for small products, which need no packing: only with AVX-512.

There, cutting large products into small ones makes small nets up to 12 % faster. Elsewhere it makes all nets 4 to 24 %
slower. `python -m benchmarks` shows it; with OPENBLAS_CORETYPE=Haswell, OpenBLAS works as without AVX-512.
"""

MAX_SMALL_MACS = 1_000_000
"""Up to this many multiply-adds, OpenBLAS uses these kernels..."""

MAX_SMALL_TRANSPOSED = 1_200
"""...and only up to this many results if the right factor is transposed, with contiguous columns."""

LANES = 16
"""float32 numbers in a register: a product whose columns do not fill the last register wastes time."""

MAX_DEPTH = 1_200
"""A longer inner axis is cut into products that are added: the first dense layer of LeNet takes 30 % less time."""


def map_features(x: Array, w: Array) -> Array:
    """The product `x @ w` for a batch of vectors. The result has the memory order of `x`."""
    return matmul(x, w) if x.flags.c_contiguous else matmul(w.T, x.T).T


def matmul(a: Array, b: Array) -> Array:
    """The product of two matrices, a C-contiguous array."""
    (rows, inner), columns = a.shape, b.shape[1]
    if inner == 1:  # NumPy takes a quarter of the time of BLAS
        outer: Array = a * b
        return outer
    if inner > MAX_INNER_SUM and inner > _max_inner(a, b):
        return sum_products(a[None], b[None])
    cuts = depth(rows, inner, columns)
    is_whole = cuts == 1 and tile(rows, inner, columns, is_transposed(b)) == (rows, columns)
    if is_whole and rows * inner * columns < MIN_SPLIT_MACS:
        whole: Array = np.dot(a, b)  # a little faster than np.matmul
        return whole
    if not (a.flags.forc and b.flags.forc):
        a, b = a.copy(), b.copy()  # BLAS must be able to read parts of them
    if cuts > 1:
        terms = np.empty((cuts, rows, columns), a.dtype)
        batched_matmul(a.reshape(rows, cuts, -1).swapaxes(0, 1), b.reshape(cuts, -1, columns), terms)
        return accurate_sum(terms, 0)
    y = np.empty((rows, columns), a.dtype)
    batched_matmul(a, b, y)
    return y


def sum_products(a: Array, b: Array) -> Array:
    """The matrix products of two stacks of matrices, summed over the first axis.

    BLAS sums along the inner axis in the dtype of the arrays. A long inner axis is cut into parts, whose products are
    added in float64.
    """
    inner, shape = a.shape[-1], (*a.shape[:-1], b.shape[-1])
    length = -(-inner // max(1, -(-inner // _max_inner(a, b))))
    parts = inner // max(1, length)
    at_once = max(1, MAX_TERMS // max(1, prod(shape)))
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


def _max_inner(a: Array, b: Array) -> int:
    """The longest inner axis that BLAS may sum by itself in the product of these matrices."""
    if a.shape[-2] > 1 and b.shape[-1] > 1:
        return MAX_INNER_TRANSPOSED if HAS_SMALL_KERNELS and is_transposed(a) else MAX_INNER
    neighbours = a.strides[-1] if b.shape[-1] == 1 else b.strides[-2]
    return MAX_INNER_DOT if neighbours == a.itemsize else MAX_INNER_SUM


def batched_matmul(a: Array, b: Array, out: Array) -> None:
    """Writes the products of two stacks of matrices, which broadcast, to the stack `out`.

    Idle threads compute a part of the columns. With `HAS_SMALL_KERNELS`, each product is computed in tiles.
    """
    (rows, inner), columns = a.shape[-2:], b.shape[-1]
    high, wide = tile(rows, inner, columns, is_transposed(b))
    # Cut where a register ends, and only if the parts use the same kernels as the whole: so no bit depends on threads.
    can_split = (high, wide) != (rows, columns) or not (HAS_SMALL_KERNELS or 1 in (rows, columns))
    unit = wide if wide < columns else LANES
    threads = min(idle_threads(), -(-columns // unit)) if can_split and out.size * inner >= MIN_SPLIT_MACS else 1
    if threads == 1 and (high, wide) == (rows, columns):
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

    ends = [min(-(-columns // unit) * i // threads * unit, columns) for i in range(threads + 1)]
    parallel_map(lambda i: fill(ends[i], ends[i + 1]), threads, threads)


@lru_cache(maxsize=1000)
def _cut(start: int, stop: int, size: int) -> list[tuple[slice, int, int]]:
    """The range in pieces of `size` and a rest: for both the slice, the number of pieces and their size."""
    size = min(size, stop - start)
    even = stop - (stop - start) % size if size else start
    parts = (slice(start, even), (even - start) // max(1, size), size), (slice(even, stop), 1, stop - even)
    return [part for part in parts if part[0].start < part[0].stop]


def is_transposed(b: Array) -> bool:
    """Whether the columns of a factor are contiguous, not its rows."""
    return b.strides[-1] != b.itemsize


@lru_cache(maxsize=1000)
def tile(rows: int, inner: int, columns: int, is_transposed: bool) -> tuple[int, int]:
    """How many rows and columns of a product to compute at a time.

    All of them if the product is small, if it could not be cut into small products, or without `HAS_SMALL_KERNELS`.
    """
    results = rows * columns
    is_small = results * inner <= MAX_SMALL_MACS and (not is_transposed or results <= MAX_SMALL_TRANSPOSED)
    if not HAS_SMALL_KERNELS or is_small or 1 in (rows, columns) or (is_transposed and inner < 32):
        return rows, columns
    limit = MAX_SMALL_MACS // max(inner, 1)
    if is_transposed:
        limit = min(limit, MAX_SMALL_TRANSPOSED)
    # These widths were the fastest of those tried. The kernels of OpenBLAS take four rows at a time.
    wide = _even_size(columns, LANES if is_transposed else 4 * LANES, LANES)
    max_rows = limit // wide // 4 * 4
    return (_even_size(rows, max_rows, 4), wide) if max_rows else (rows, columns)


@lru_cache(maxsize=1000)
def depth(rows: int, inner: int, columns: int) -> int:
    """The number of products to cut a product into along a long inner axis; each then has an inner axis of 256 to 512.

    It is 1 if the product is small or of a vector, if no such cut is even, or without `HAS_SMALL_KERNELS`.
    """
    is_small = inner <= MAX_DEPTH or rows * inner * columns <= MAX_SMALL_MACS or 1 in (rows, columns)
    if is_small or not HAS_SMALL_KERNELS:
        return 1
    return next((n for n in range(-(-inner // 512), inner // 256 + 1) if inner % n == 0), 1)


def _even_size(length: int, largest: int, unit: int) -> int:
    """The size of pieces, a multiple of `unit` and at most `largest`: even pieces, or the last one about as long."""
    sizes = range(largest // unit * unit, largest // 2, -unit)
    pieces = -(-length // largest)
    return next((n for n in sizes if length % n == 0), min(-(-length // pieces // unit) * unit, length))
