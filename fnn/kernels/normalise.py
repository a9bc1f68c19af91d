"""The arithmetic of norm layers: subtract the mean, divide by the standard deviation, scale by w, shift by b.

    y = z * w + b, where z = (x - mean(x)) / sqrt(var(x) + eps)
    dx = (g - mean(g) - z * mean(g * z)) / sqrt(var(x) + eps), where g = dy * w

Means are over the given axes. Both functions return `y` and a function `(dy, need_dx) -> (dw, db, dx)`, all with as
many axes as `x`. Statistics are float64. Inside, all arrays have their axes in memory order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, TypeAlias

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.memory import map_blocks, memory_order
from fnn.kernels.reductions import SMALL
from fnn.kernels.reductions import accurate_sum as accurate_sum
from fnn.kernels.reductions import wide_mean as wide_mean
from fnn.kernels.reductions import wide_sum as wide_sum

Ints: TypeAlias = tuple[int, ...]
Adjoint: TypeAlias = Callable[[Array, bool], tuple[Array, Array, Array | None]]

OFFSET = 3
"""If the squared mean is more than this many times the variance, the mean is subtracted first, for exact variances."""


def normalise_channels(
    x: Array, w: Array, b: Array, axes: Ints, eps: float, statistics: tuple[Array, Array] | None = None
) -> tuple[Array, Adjoint]:
    """Normalises `x` over `axes`. `w` and `b` have one number for each channel.

    With `statistics`, the mean and variance are these constants. Neither z nor g, which are as large as `x`, is
    computed: y is a multiple of x plus a constant of the channel, and dx one of x plus one of dy plus a constant.
    """
    order, back = memory_order(x.shape, x.strides)
    axes = tuple(back[axis] for axis in axes)
    x, w, b, *constants = (np.ascontiguousarray(a.transpose(order)) for a in (x, w, b, *(statistics or ())))
    base, offset, scale, slope = _standardise_by(constants, x, eps) if constants else _standardise(x, axes, eps)
    y = np.empty_like(base)
    map_blocks(_add_multiple, base, _repeat(w * scale, base), _repeat(b - offset * scale * w, base), y)

    def pull(dy: Array, need_dx: bool) -> tuple[Array, Array, Array | None]:
        dy = np.ascontiguousarray(dy.transpose(order))
        even = tuple(axis for axis in axes if w.shape[axis] == 1)
        sums, products = _sums(dy, base, even)
        products = (products - offset * sums) * scale
        dw, db = (_sum_to(s, w).transpose(back) for s in (products, sums))
        if not need_dx:
            return dw, db, None
        if constants:
            return dw, db, (dy * _repeat(w * slope, base)).transpose(back)
        count = max(1, prod(base.shape[axis] for axis in axes))
        mean, mean_product = ((w * s).sum(axes, keepdims=True) / count for s in (sums, products))
        factor = slope * scale * mean_product
        dx = np.empty_like(base)
        small = (_repeat(s, base) for s in (w * slope, -factor, factor * offset - slope * mean))
        map_blocks(_add_multiples, base, dy, *small, dx)
        return dw, db, dx.transpose(back)

    return y.transpose(back), pull


def normalise_examples(x: Array, w: Array, b: Array, axes: Ints, eps: float) -> tuple[Array, Adjoint]:
    """Normalises `x` over `axes`. `w` and `b` have a number for each position along these axes."""
    order, back = memory_order(x.shape, x.strides)
    axes = tuple(back[axis] for axis in axes)
    x, w, b = (np.ascontiguousarray(a.transpose(order)) for a in (x, w, b))
    base, offset, scale, slope = _standardise(x, axes, eps)
    z = base * _repeat(scale, base)
    z -= _repeat(offset * scale, base)
    y = z * _repeat(w, base)
    y += _repeat(b, base)

    def pull(dy: Array, need_dx: bool) -> tuple[Array, Array, Array | None]:
        dy = np.ascontiguousarray(dy.transpose(order))
        g = dy * z
        dw, db = _sum_to(g, w).transpose(back), _sum_to(dy, b).transpose(back)
        if not need_dx:
            return dw, db, None
        np.multiply(dy, _repeat(w, z), out=g)
        mean, mean_product = wide_mean(g, axes, True), wide_mean(g, axes, True, times=z)
        g *= _repeat(slope, z)
        g -= z * _repeat(slope * mean_product, z)
        g -= _repeat(slope * mean, z)
        return dw, db, g.transpose(back)

    return y.transpose(back), pull


def _standardise(x: Array, axes: Ints, eps: float) -> tuple[Array, Any, Array, Array]:
    """Returns `base, offset, scale, slope`: z is `(base - offset) * scale`, and `slope` is the derivative of z by `x`.

    Only `base` is as large as `x`. In most cases it is `x` itself.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        count = max(1, prod(x.shape[axis] for axis in axes))
        mean, square = (total / count for total in _sums(x, x, axes))
        var = square - mean * mean
        if _is_near(mean, var) and var.max(initial=0) < np.inf:
            scale = 1 / np.sqrt(var + eps)
            return x, mean, scale, scale
        return _standardise_centred(x, axes, eps)


def _standardise_by(statistics: list[Array], x: Array, eps: float) -> tuple[Array, Any, Array, Array]:
    """`_standardise` with this mean and this variance instead of those of `x`."""
    mean, var = (a.astype(float) for a in statistics)
    scale = 1 / np.sqrt(var + eps)
    if _is_near(mean, var):
        return x, mean, scale, scale
    return x - _repeat(mean, x), 0.0, scale, scale


def _is_near(mean: Array, var: Array) -> bool:
    """Whether the means are so near to zero that they need not be subtracted first."""
    return bool((mean * mean <= OFFSET * var).all())


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


def _sums(x: Array, times: Array, axes: Ints) -> list[Array]:
    """The sums over `axes` of `x` and of `x * times`, in float64."""
    parts = map_blocks(lambda x, times: (wide_sum(x, axes, True), wide_sum(x, axes, True, times)), x, times)
    join = partial(np.add.reduce, axis=0) if 0 in axes else np.concatenate
    return [sums[0] if len(sums) == 1 else join(sums) for sums in zip(*parts, strict=True)]


def _add_multiple(x: Array, factor: Array, shift: Array, out: Array) -> None:
    np.multiply(x, factor, out=out)
    out += shift


def _add_multiples(x: Array, dy: Array, slope: Array, factor: Array, shift: Array, out: Array) -> None:
    np.multiply(x, factor, out=out)
    out += shift
    out += dy * slope


def _repeat(s: Array, like: Array) -> Array:
    """`s` in the dtype of `like`, repeated along all axes of `like` except the first.

    NumPy then works on long runs of memory, so norm layers on images take half the time. Without gain, `s` stays small.
    """
    if len(s) > 1 or len(like) < 3 or like.ndim < 3 or like.size <= SMALL:
        return s.astype(like.dtype, copy=False)
    repeated = np.empty((1, *like.shape[1:]), like.dtype)
    repeated[...] = s
    return repeated
