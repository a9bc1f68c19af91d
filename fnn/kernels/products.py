"""Matrix products: exact for long sums, and shared between threads."""

from __future__ import annotations

from functools import cache, lru_cache
from math import prod
from typing import Any

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.memory import from_features as from_features
from fnn.kernels.memory import match_order as match_order
from fnn.kernels.memory import to_features as to_features
from fnn.kernels.reductions import accurate_sum as accurate_sum
from fnn.kernels.reductions import wide_sum
from fnn.kernels.threads import MIN_SHARED_MACS, idle_threads, parallel_map
from fnn.kernels.threads import run_both as run_both

# Longest inner axis that BLAS may sum by itself, because its rounding error grows with the length:
MAX_INNER = 4096  # in products of matrices
MAX_INNER_SMALL = 256  # in small ones, unless both factors are contiguous along the inner axis: summed number by number
MAX_INNER_DOT = 1024  # in products with a vector, if the matrix is contiguous along the inner axis
MAX_INNER_SUM = 128  # in other products with a vector

SMALL_MACS = 1_000_000  # maximum multiply-adds of a small product
MAX_TERMS = 1 << 22  # at most this many numbers of partial products are in memory before they are added
MIN_COLUMNS = 64  # minimum columns of a part of a product
ROWS = 48  # a product is cut at multiples of this: OpenBLAS then computes the same bits as for the whole product


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
        return sum_products(a[None], b[None]).astype(a.dtype)
    parts = min(idle_threads(), rows // ROWS, rows * inner * columns // MIN_SHARED_MACS)
    if parts < 2 or columns == 1:
        whole: Array = np.dot(a, b)  # a little faster than np.matmul
        return whole
    y = np.empty((rows, columns), a.dtype)
    ends = [rows * i // parts // ROWS * ROWS for i in range(parts)] + [rows]

    def fill(i: int) -> None:
        np.matmul(a[ends[i] : ends[i + 1]], b, out=y[ends[i] : ends[i + 1]])

    parallel_map(fill, parts, parts)
    return y


def batched_matmul(a: Array, b: Array, out: Array) -> None:
    """Writes the products of two stacks of matrices, which broadcast, to the stack `out`. Idle threads take a part.

    If `a` is one matrix with far more rows than `b` has columns, most of the time would go into reading `a` again and
    again. Then there is one product with all of `b` side by side.
    """
    n, rows, columns = len(out), *out.shape[-2:]
    if n > 1 and rows > 2 * columns > 0 and a.size == rows * a.shape[-1] > 0:
        product = matmul(a.reshape(rows, a.shape[-1]), _join_columns(b))
        out[...] = product.reshape(rows, -1, columns).swapaxes(0, 1).reshape(out.shape)
        return
    parts = min(idle_threads(), n, out.size * a.shape[-1] // MIN_SHARED_MACS)
    if parts < 2:
        np.matmul(a, b, out=out)
        return

    def cut(x: Array, start: int, stop: int) -> Array:
        return x[start:stop] if x.ndim == out.ndim and len(x) > 1 else x

    def fill(i: int) -> None:
        start, stop = n * i // parts, n * (i + 1) // parts
        np.matmul(cut(a, start, stop), cut(b, start, stop), out=out[start:stop])

    parallel_map(fill, parts, parts)


def batched_matmul_in_parts(a: Array, b: Array, out: Array) -> None:
    """`batched_matmul` for stacks of the same length, with `b` and `out` cut into parts where that is faster."""
    parts = _parts(*a.shape[-2:], b.shape[-1])
    if parts > 1:
        a, b, out = a[..., None, :, :], _cut_columns(b, parts), _cut_columns(out, parts)
    batched_matmul(a, b, out)


@lru_cache(maxsize=1000)
def _parts(rows: int, inner: int, columns: int) -> int:
    """Into how many parts to cut the columns of the right factor of a product.

    With AVX-512, OpenBLAS multiplies small matrices without packing, up to 1.5 times as fast. Elsewhere, parts are 5 %
    slower.
    """
    least = max(MIN_COLUMNS, rows // 2)  # `batched_matmul` joins fewer columns
    counts = range(1, columns // least + 1) if _has_avx512() else ()
    return next((n for n in counts if columns % n == 0 and rows * inner * columns <= n * SMALL_MACS), 1)


@cache
def _has_avx512() -> bool:
    """Whether NumPy finds a processor with AVX-512. OpenBLAS then usually does as well."""
    found = np.show_config("dicts")["SIMD Extensions"].get("found", ())
    return "X86_V4" in found or "AVX512_SKX" in found  # the name since NumPy 2.4, and before


def _cut_columns(matrices: Array, parts: int) -> Array:
    """A view of the matrices (..., rows, columns) as (..., parts, rows, columns / parts)."""
    *shape, columns = matrices.shape
    return matrices.reshape(*shape, parts, columns // parts).swapaxes(-3, -2)


def sum_products(a: Array, b: Array) -> Array:
    """The matrix products of two stacks of matrices, summed over the first axis.

    BLAS sums along the inner axis in the dtype of the arrays. A long inner axis is cut into parts, whose products are
    added in float64; then the result is float64 too.
    """
    (*_, inner), shape = a.shape, (*a.shape[:-1], b.shape[-1])
    if len(a) > 1 and 0 < 2 * inner < shape[-1] and prod(shape[1:]) == shape[-2] * shape[-1]:  # as in `batched_matmul`
        left, right = _join_columns(b.swapaxes(-1, -2)), _join_columns(a).T
        return sum_products(left[None], right[None]).T.reshape(shape[1:])
    if len(a) == 1 and 0 < inner <= _max_inner(a, b):
        only = np.empty(shape, a.dtype)
        batched_matmul(a, b, only)
        return only.reshape(shape[1:])
    length = _part_length(inner, _max_inner(a, b))
    parts = inner // length
    at_once = max(1, MAX_TERMS // max(1, prod(shape)))
    total: Any = 0.0
    for begin in range(0, max(1, parts), at_once):
        n = min(at_once, parts - begin)
        span = slice(begin * length, (begin + n) * length)
        lefts = _to_front(a[..., span].reshape(*a.shape[:-1], n, length), a.ndim - 1)
        rights = _to_front(b[..., span, :].reshape(*b.shape[:-2], n, length, b.shape[-1]), b.ndim - 2)
        terms = np.empty((n, *shape), a.dtype)
        batched_matmul(lefts, rights, terms)
        total = total + wide_sum(terms, (0, 1))
    if parts * length < inner:
        terms = np.empty(shape, a.dtype)
        batched_matmul(a[..., parts * length :], b[..., parts * length :, :], terms)
        total = total + wide_sum(terms, 0)
    wide: Array = total
    return wide


@lru_cache(maxsize=1000)
def _part_length(inner: int, longest: int) -> int:
    """The length of the parts into which an inner axis is cut. It divides the axis, so nothing is left, if it can."""
    n = -(-max(1, inner) // longest)
    return next((inner // i for i in range(n, 2 * n) if inner % i == 0), -(-inner // n)) or 1


def _join_columns(x: Array) -> Array:
    """The matrices of a stack side by side, contiguous."""
    rows, columns = x.shape[-2:]
    n = prod(x.shape[:-2])
    return x.reshape(n, rows, columns).swapaxes(0, 1).reshape(rows, n * columns)


def _to_front(x: Array, axis: int) -> Array:
    """The view of `x` with this axis first: `np.moveaxis` in a fifth of the time."""
    return x.transpose(axis, *range(axis), *range(axis + 1, x.ndim))


def _max_inner(a: Array, b: Array) -> int:
    """The longest inner axis that BLAS may sum by itself in the product of these matrices."""
    rows, columns = a.shape[-2], b.shape[-1]
    a_is_contiguous, b_is_contiguous = a.strides[-1] == a.itemsize, b.strides[-2] == b.itemsize  # along the inner axis
    if rows > 1 and columns > 1:
        is_exact = a_is_contiguous and b_is_contiguous
        return MAX_INNER if is_exact or rows * columns * a.shape[-1] > SMALL_MACS else MAX_INNER_SMALL
    return MAX_INNER_DOT if (a_is_contiguous if columns == 1 else b_is_contiguous) else MAX_INNER_SUM
