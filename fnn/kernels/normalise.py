"""The arithmetic of norm layers: subtract the mean, divide by the standard deviation, scale by w, shift by b.

    y = z * w + b, where z = (x - mean(x)) / sqrt(var(x) + eps)
    dx = (g - mean(g) - z * mean(g * z)) / sqrt(var(x) + eps), where g = dy * w

Means are over the given axes. Both functions return `y` and a function `(dy, need_dx) -> (dw, db, dx)`, all with as
many axes as `x`. Statistics are float64. Large arrays are read and written as few times as possible.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any, TypeAlias

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.reductions import accurate_sum as accurate_sum
from fnn.kernels.reductions import wide_mean as wide_mean
from fnn.kernels.reductions import wide_sum as wide_sum

Ints: TypeAlias = tuple[int, ...]
Adjoint: TypeAlias = Callable[[Array, bool], tuple[Array, Array, Array | None]]

OFFSET = 3
"""If the squared mean is more than this many times the variance, the mean is subtracted first, for exact variances."""


def normalise_channels(x: Array, w: Array, b: Array, axes: Ints, eps: float) -> tuple[Array, Adjoint]:
    """Normalises `x` over `axes`. `w` and `b` have one number for each channel.

    Only sums for each channel are needed, so z and g, which are as large as `x`, are never computed.
    """
    base, offset, scale, slope = _standardise(x, axes, eps)
    y = base * _repeat(w * scale, base)
    y += _repeat(b - offset * scale * w, base)
    even = tuple(axis for axis in axes if w.shape[axis] == 1)
    count = max(1, prod(x.shape[axis] for axis in axes))

    def pull(dy: Array, need_dx: bool) -> tuple[Array, Array, Array | None]:
        dy = _reorder(dy, base)
        sums = wide_sum(dy, even, True)
        products = (wide_sum(dy, even, True, times=base) - offset * sums) * scale
        dw, db = (_sum_to(s, w) for s in (products, sums))
        if not need_dx:
            return dw, db, None
        mean, mean_product = ((w * s).sum(axes, keepdims=True) / count for s in (sums, products))
        factor = slope * scale * mean_product
        dx = base * _repeat(-factor, base)
        dx += _repeat(factor * offset - slope * mean, base)
        dx += dy * _repeat(w * slope, base)
        return dw, db, dx

    return y, pull


def normalise_examples(x: Array, w: Array, b: Array, axes: Ints, eps: float) -> tuple[Array, Adjoint]:
    """Normalises `x` over `axes`. `w` and `b` have a number for each position along these axes."""
    base, offset, scale, slope = _standardise(x, axes, eps)
    z = base * _repeat(scale, base)
    z -= _repeat(offset * scale, base)
    y = z * _repeat(w, z)
    y += _repeat(b, z)

    def pull(dy: Array, need_dx: bool) -> tuple[Array, Array, Array | None]:
        dy = _reorder(dy, z)
        g = dy * z
        dw, db = _sum_to(g, w), _sum_to(dy, b)
        if not need_dx:
            return dw, db, None
        np.multiply(dy, _repeat(w, z), out=g)
        mean, mean_product = wide_mean(g, axes, True), wide_mean(g, axes, True, times=z)
        g *= _repeat(slope, z)
        g -= z * _repeat(slope * mean_product, z)
        g -= _repeat(slope * mean, z)
        return dw, db, g

    return y, pull


def _standardise(x: Array, axes: Ints, eps: float) -> tuple[Array, Any, Array, Array]:
    """Returns `base, offset, scale, slope`: z is `(base - offset) * scale`, and `slope` is the derivative of z by `x`.

    Only `base` is as large as `x`. In most cases it is `x` itself.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mean = wide_mean(x, axes, True)
        var = wide_mean(x, axes, True, times=x) - mean * mean
        if (mean * mean <= OFFSET * var).all() and var.max(initial=0) < np.inf:
            scale = 1 / np.sqrt(var + eps)
            return x, mean, scale, scale
        return _standardise_centred(x, axes, eps)


def _standardise_centred(x: Array, axes: Ints, eps: float) -> tuple[Array, Any, Array, Array]:
    """`_standardise` for numbers far from zero, or so large that their squares overflow.

    Such large numbers are first divided by a power of two. Then the derivative is less than the scale.
    """
    centred, square = _subtract_mean(x, axes)
    unit: Any = 1.0
    if not square.max(initial=0) < np.inf:
        largest = np.abs(x).max(axes, keepdims=True, initial=0)
        unit = np.where(np.isfinite(square), 1.0, np.ldexp(1.0, np.frexp(largest)[1] - 1))
        centred, square = _subtract_mean(x / unit.astype(x.dtype), axes)
    scale = 1 / np.sqrt(square + eps / unit / unit)
    return centred, 0.0, scale, scale / unit


def _subtract_mean(x: Array, axes: Ints) -> tuple[Array, Array]:
    """`x` minus its mean over `axes`, and the mean of the squares of that."""
    centred = x - _repeat(wide_mean(x, axes, True), x)
    centred -= _repeat(wide_mean(centred, axes, True), x)  # again, because the first mean was rounded to float32
    return centred, wide_mean(centred, axes, True, times=centred)


def _sum_to(x: Array, like: Array) -> Array:
    """Sums `x` over the axes along which `like` has length 1; the result has the dtype of `like`."""
    return accurate_sum(x, tuple(axis for axis, n in enumerate(like.shape) if n == 1), True).astype(like.dtype)


def _reorder(x: Array, like: Array) -> Array:
    """`x` in the memory order of `like`: NumPy combines arrays in different orders several times more slowly."""
    if x.strides == like.strides:
        return x
    copy = np.empty_like(like)
    copy[...] = x
    return copy


def _repeat(s: Array, like: Array) -> Array:
    """`s` in the dtype of `like`, repeated along all axes of `like` except the outermost one in memory.

    NumPy then works on long runs of memory, so norm layers on images take half the time. Without gain, `s` stays small.
    """
    s = s.astype(like.dtype, copy=False)
    shape, back = _plan_repeat(s.shape, like.shape, like.strides)
    if not shape:
        return s
    repeated = np.empty(shape, like.dtype).transpose(back)
    repeated[...] = s
    return repeated


@lru_cache(maxsize=1000)
def _plan_repeat(shape: Ints, like: Ints, strides: Ints) -> tuple[list[int], Ints]:
    """The repeated array's shape in memory order, and the axes that transpose it to `like`. No shape: no gain."""
    order = sorted(range(len(like)), key=lambda axis: (like[axis] != 1, -abs(strides[axis])))
    ones = sum(n == 1 for n in like)
    if len(like) - ones < 3 or shape[order[ones]] != 1:
        return [], ()
    back = tuple(order.index(axis) for axis in range(len(like)))
    return [1 if nth <= ones else like[axis] for nth, axis in enumerate(order)], back
