"""Sums that stay exact however long they are, in every memory order.

NumPy adds float32 numbers along an outer axis one after the other, so the error grows with the length of the axis: one
million equal numbers come out 1 % wrong. It is also slow where the contiguous runs of memory are short. The functions
here follow the memory order. They add short blocks in the array's own dtype, mostly as products with ones, at the speed
of memory, and then add the block sums in float64. The error stays below 1e-6 of the sum of magnitudes, for ten million
numbers and more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from math import isfinite, prod
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.numerics import allow_underflow as allow_underflow  # for losses and optimizers, which need both

Axes: TypeAlias = int | Sequence[int] | None

DOT = 256  # longest dot product in float32: longer ones are less exact, shorter ones take more time
BLOCK = 32  # most float32 rows that are added before float64 takes over: errors stay below 5e-7, even for equal rows
LANES = 256  # shorter rows are added several at a time, because the call costs more than the additions
SMALL = 8192  # up to this size, NumPy's own sum in float64 takes less time than planning a faster one
LONG_ROW = 64  # rows from this length are added as rows, shorter ones number by number
MAX_EXPONENT = 40  # exp of numbers up to this, and sums of millions of them, are far from overflow and underflow
SHORT = 64  # longest row that is multiplied by ones: seven times as fast as NumPy's sum for rows of ten numbers


def accurate_sum(x: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Sums `x` over `axes` (default: all); the result has the dtype of `x`.

    The error is at most 1e-6 of the sum of magnitudes for float32, in every memory order. float16 is added in float32
    or float64 and rounded once.
    """
    return wide_sum(x, axes, keepdims).astype(x.dtype)


def accurate_mean(x: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Averages `x` over `axes` (default: all), which hold at least one number; otherwise like `accurate_sum`."""
    return wide_mean(x, axes, keepdims).astype(x.dtype)


def wide_mean(x: Array, axes: Axes = None, keepdims: bool = False, times: Array | None = None) -> Array:
    """Averages like `accurate_mean`, but returns float64. With `times`, averages the products `x * times`."""
    total = wide_sum(x, axes, keepdims, times)
    return total / max(1, x.size // max(1, total.size))


def wide_sum(x: Array, axes: Axes = None, keepdims: bool = False, times: Array | None = None) -> Array:
    """Sums like `accurate_sum`, but returns float64. With `times`, sums the products `x * times`."""
    axes = (axes,) if isinstance(axes, int) else range(x.ndim) if axes is None else axes
    if x.size <= SMALL:
        small = x if times is None else x * times
        return np.add.reduce(small, tuple(axes), float, keepdims=keepdims)  # type: ignore[call-overload, no-any-return]
    if x.dtype.itemsize < 4:
        x, times = x.astype(np.float32), None if times is None else times.astype(np.float32)
    order, steps, shape, back = _plan(x.shape, x.strides, tuple(axes), keepdims)
    terms = [np.ascontiguousarray(a.transpose(order)) for a in (x, times) if a is not None]
    if steps and steps[-1][2] == 1 and (part := _divisor(steps[-1][1], DOT)) > SHORT // 2:  # the innermost axis first
        lines = [a.reshape(-1, part) for a in terms]
        total: Array = lines[0] @ np.ones(part, x.dtype) if times is None else np.vecdot(*lines)
    else:
        total = terms[0] if times is None else np.multiply(*terms)
    for kept, length, inner in steps:
        total = _sum_last(total.reshape(kept, -1)) if inner == 1 else _sum_rows(total.reshape(kept, length, -1))
    return total.astype(float, copy=False).reshape(shape).transpose(back)


@lru_cache(maxsize=1000)
def _plan(
    shape: tuple[int, ...], strides: tuple[int, ...], axes: tuple[int, ...], keepdims: bool
) -> tuple[list[int], list[tuple[int, int, int]], list[int], list[int]]:
    """Plans a sum: the axes in memory order, each step's (kept, length, inner), and the result's shape and axes.

    In memory, summed and kept axes alternate in runs. The outermost run is summed first, because the rest is smaller.
    """
    summed = {axis % len(shape) for axis in axes}
    order = sorted(range(len(shape)), key=lambda axis: -abs(strides[axis]))
    steps, kept, inner = [], 1, prod(shape)
    for is_summed, run in groupby(order, lambda axis: axis in summed):
        length = prod(shape[axis] for axis in run)
        inner //= length
        if is_summed:
            steps.append((kept, length, inner))
        else:
            kept *= length
    left = [axis for axis in order if keepdims or axis not in summed]
    return order, steps, [1 if axis in summed else shape[axis] for axis in left], [int(i) for i in np.argsort(left)]


def sum_at(places: Array, x: Array, n: int) -> Array:
    """Sums the rows of `x` (count, features) that have the same of `n` places: the inverse of `take`, (n, features)."""
    features = x.shape[1]
    if features < LONG_ROW:
        cells = places[:, None] * features + np.arange(features)
        return np.bincount(cells.ravel(), x.ravel(), n * features).reshape(n, features).astype(x.dtype)  # in float64
    x = x.take(np.argsort(places, kind="stable"), 0)
    counts = np.bincount(places, minlength=n)
    starts = np.cumsum(counts) - counts
    nth = np.arange(len(x)) - np.repeat(starts, counts)  # which of the rows of its place
    left, step = np.flatnonzero(nth), 1
    while left.size:  # adds in pairs, which is exact, each odd row to the one before
        is_odd = (nth[left] & step) > 0
        odd, left = left[is_odd], left[~is_odd]
        x[odd - step] += x[odd]
        step *= 2
    total, used = np.zeros((n, features), x.dtype), np.flatnonzero(counts)
    total[used] = x.take(starts[used], 0)
    return total


def exp_rows(x: Array) -> Array:
    """exp(x), divided by its maximum along the last axis if numbers are so large that it could overflow or vanish."""
    if x.size and x.min() > -MAX_EXPONENT and x.max() < MAX_EXPONENT:
        return np.exp(x)  # NumPy's maximum along a short axis takes twice as long as exp
    y: Array = np.exp(x - x.max(-1, keepdims=True))
    return y


def square_sum(x: Array) -> float:
    """Sums the squares of all numbers of `x`, also where a square overflows the dtype of `x`."""
    flat = np.ravel(x, "K")
    with np.errstate(over="ignore", under="ignore"):
        if flat.dtype.itemsize == 4:
            full = flat.size - flat.size % DOT
            rows, rest = flat[:full].reshape(-1, DOT), flat[full:].astype(float)
            total = float(np.add.reduce(np.matmul(rows[:, None], rows[:, :, None]), None, float)) + float(rest @ rest)
            if isfinite(total):
                return total
        flat = flat.astype(float)
        return float(flat @ flat)


def _sum_rows(x: Array) -> Array:
    """Sums an array of shape (kept, length, inner) over the middle axis, by products of ones with blocks of rows."""
    kept, length, inner = x.shape
    joined = 1 if length <= BLOCK else min(length, max(1, LANES // inner))  # rows that are added as one long row
    rows = length // joined
    block = _divisor(rows, BLOCK) or min(BLOCK, rows)
    blocks = rows // block
    done = blocks * block * joined
    total: Array = np.matmul(np.ones(block, x.dtype), x[:, :done].reshape(kept, blocks, block, joined * inner))
    if length <= BLOCK:  # exact enough, also if another step adds as rows
        return total[:, 0]
    total = np.add.reduce(total.reshape(kept, blocks, joined, inner), (1, 2), float)
    return total if done == length else total + _sum_rows(x[:, done:])


def _sum_last(x: Array) -> Array:
    """Sums a matrix along its rows."""
    kept = len(x)
    while kept > 1 and x.shape[1] > 1 and (part := _divisor(x.shape[1], SHORT)):
        x = (x.reshape(-1, part) @ np.ones(part, x.dtype)).reshape(kept, -1)
    total: Array = np.add.reduce(x, 1)
    return total


@lru_cache(maxsize=1000)
def _divisor(length: int, most: int) -> int:
    """The largest divisor of `length` from 8 to `most`, `length` itself if it is less than 8, or 0 if there is none."""
    return next((n for n in range(min(most, length), min(length, 8) - 1, -1) if length % n == 0), 0)
