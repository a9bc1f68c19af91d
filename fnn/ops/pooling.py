"""Pooling: the largest or the mean number of each window, or of a whole image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import check_no_params, input_error
from fnn.kernels.masks import drop_kept, keep
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.kernels.reductions import accurate_mean
from fnn.kernels.windows import Axis, pair
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, operator

Sizes: TypeAlias = int | Sequence[int]
Adjoint: TypeAlias = Callable[[Array], Array]

MANY = 32
"""More numbers than these are added in float64: their sum in float32 would not be exact to 1e-6."""


@operator
def maxpool(kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> Op:
    """The largest number of each window of (batch, channels, height, width); the stride defaults to the kernel's size.

    Padding, of at most half a window, counts as less than any number. The gradient goes to the first of equal maxima,
    in the order of reading. A rest that fills no window is left out.
    """
    return _pool(_largest, -np.inf, kernel_size, stride, padding)


@operator
def avgpool(kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> Op:
    """The mean of each window of (batch, channels, height, width), padding counted as zeros; else like `maxpool`."""
    return _pool(_mean, 0, kernel_size, stride, padding)


def _pool(
    along: Callable[[Array, Axis, int], tuple[Array, Adjoint]],
    blank: float,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
) -> Op:
    """The operator that pools `along` one dimension and then the other; padding is `blank`."""
    kernel = pair("kernel_size", kernel_size, 1)
    step = kernel if stride is None else pair("stride", stride, 1)
    top, left = margins = pair("padding", padding, 0)
    if 2 * top > kernel[0] or 2 * left > kernel[1]:
        raise OpError(f"padding: expected at most half of the kernel size {kernel}, got {margins}")

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        check_no_params(params)
        if x.ndim != 4:
            raise input_error(x, None, {"channels": None, "height": None, "width": None})
        down, across = Axis.pair(x.shape[2:], kernel, step, (1, 1), margins)
        h = to_wchn(x)
        if top or left:
            h = np.pad(h, ((left, left), (0, 0), (top, top), (0, 0)), constant_values=blank)
        u, pull_across = along(h, across, 0)
        y, pull_down = along(u, down, 2)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
            dx = pull_across(pull_down(to_wchn(dy)))
            return {}, from_wchn(dx[left : left + across.size, :, top : top + down.size])

        return from_wchn(y), vjp

    return Op(lambda key, shape: {}, apply)


def _largest(x: Array, windows: Axis, dim: int) -> tuple[Array, Adjoint]:
    """The largest along `dim`. First the width, then the height: so a tie goes to the first in reading order."""
    first, *others = _taps(x, windows, dim)
    y, larger, shape = first, [], x.shape
    for t, tap in enumerate(others, 1):
        larger.append(tap > y)  # the vjp keeps these masks, a byte for each number, and not the input
        for window in range(windows.out):
            if window * windows.stride + t == windows.low:  # all taps before this one are padding, even if equal
                larger[-1][(slice(None),) * dim + (window,)] = True
        y = np.maximum(y, tap)

    def pull(dy: Array) -> Array:
        def share(parts: list[Array]) -> None:
            rest = dy.copy("K") if others else dy
            for mask, part in zip(reversed(larger), reversed(parts[1:]), strict=True):
                drop_kept(rest, keep(rest, mask, out=part))
            parts[0][...] = rest

        return _gathered(shape, dy, windows, dim, share)

    return y, pull


def _mean(x: Array, windows: Axis, dim: int) -> tuple[Array, Adjoint]:
    """The mean along `dim`."""
    y, shape = _add(_taps(x, windows, dim)), x.shape
    y /= windows.taps

    def pull(dy: Array) -> Array:
        def share(parts: list[Array]) -> None:
            for part in parts:
                np.divide(dy, windows.taps, out=part)

        return _gathered(shape, dy, windows, dim, share)

    return y, pull


def _add(taps: list[Array]) -> Array:
    """The sum of the taps: a new array."""
    total = taps[0].astype(np.float64 if len(taps) > MANY else taps[0].dtype)
    for tap in taps[1:]:
        total += tap
    return total.astype(taps[0].dtype, copy=False)


def _taps(x: Array, windows: Axis, dim: int) -> list[Array]:
    """What each tap reads along `dim` of the padded `x`."""
    return [x[place] for place in _places(windows, dim)]


@lru_cache(maxsize=1000)
def _places(windows: Axis, dim: int) -> list[tuple[slice, ...]]:
    """Where each tap reads along `dim`: remembered, as finding it is a tenth of the time to pool a single image."""
    reach = (windows.out - 1) * windows.stride + 1
    return [(slice(None),) * dim + (slice(t, t + reach, windows.stride),) for t in range(windows.taps)]


def _gathered(shape: Shape, dy: Array, windows: Axis, dim: int, share: Callable[[list[Array]], None]) -> Array:
    """The cotangent of an array of that shape, when `share` writes each tap's part of it."""
    if windows.stride < windows.taps:  # windows overlap, and their parts add up
        parts = [np.empty_like(dy) for _ in range(windows.taps)]
        share(parts)
        dx = np.zeros(shape, np.float64 if windows.taps > MANY * windows.stride else dy.dtype)
        for tap, part in zip(_taps(dx, windows, dim), parts, strict=True):
            tap += part
        return dx.astype(dy.dtype, copy=False)
    covered = windows.stride == windows.taps and windows.out * windows.stride == shape[dim]
    dx = np.empty(shape, dy.dtype) if covered else np.zeros(shape, dy.dtype)
    share(_taps(dx, windows, dim))
    return dx


def _global_avgpool(params: Params, x: Array) -> tuple[Array, Vjp]:
    check_no_params(params)
    if x.ndim != 4:
        raise input_error(x, None, {"channels": None, "height": None, "width": None})
    if not x.shape[2] * x.shape[3]:
        raise OpError(f"expected at least one pixel, got {x.shape[2]} x {x.shape[3]}")
    batch, channels, height, width = x.shape

    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
        share = (dy / (height * width)).T[:, None]
        return {}, from_wchn(np.broadcast_to(share, (width, channels, height, batch)).copy())

    return accurate_mean(x, (2, 3)), vjp


global_avgpool = Op(lambda key, shape: {}, _global_avgpool, kind="global_avgpool")
"""The mean of each channel: (batch, channels, height, width) to (batch, channels). Lin, Chen & Yan, 2014."""
