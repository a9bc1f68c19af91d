"""Pooling, first across the width of the images and then down the height, with the gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.masks import drop_kept, keep
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.kernels.reductions import accurate_mean
from fnn.kernels.windows import Axis, Pair
from fnn.kernels.windows import Windows as Windows

Adjoint: TypeAlias = Callable[[Array], Array]
Share: TypeAlias = Callable[[Array, list[Array]], None]  # writes each tap's part of a cotangent to a list of arrays

MAX_FLOAT32_TERMS = 32  # more numbers than this are added in float64: their sum in float32 would not be exact to 1e-6


def pool_max(x: Array, windows: Windows, padding: Pair) -> tuple[Array, Adjoint]:
    """The maximum of each window of `x` (N, C, H, W), and the map from the cotangent to that of `x`."""
    return _pool(_max_along, -np.inf, x, windows, padding)


def pool_mean(x: Array, windows: Windows, padding: Pair) -> tuple[Array, Adjoint]:
    """The mean of each window of `x` (N, C, H, W) and its padding, and the map from the cotangent to that of `x`."""
    return _pool(_mean_along, 0, x, windows, padding)


def image_mean(x: Array) -> tuple[Array, Adjoint]:
    """The mean of each image of `x` (N, C, H, W), and the map from the cotangent to that of `x`."""
    height, width = x.shape[2:]

    def adjoint(dy: Array) -> Array:
        share = np.repeat((dy / (height * width)).T[:, None], height, 1)
        return from_wchn(np.repeat(share[None], width, 0))

    return accurate_mean(x, (2, 3)), adjoint


def _pool(
    along: Callable[[Array, Axis, int], tuple[Array, Share]], blank: float, x: Array, windows: Windows, padding: Pair
) -> tuple[Array, Adjoint]:
    (down, across), (top, left) = windows, padding
    h = to_wchn(x)
    if top or left:
        h = np.pad(h, ((left, left), (0, 0), (top, top), (0, 0)), constant_values=blank)
    u, share_across = along(h, across, 0)
    y, share_down = along(u, down, 2)
    h_shape, u_shape = h.shape, u.shape  # the arrays themselves need not stay in memory

    def adjoint(dy: Array) -> Array:
        du = _add_taps(u_shape, to_wchn(dy), down, 2, share_down)
        dx = _add_taps(h_shape, du, across, 0, share_across)
        return from_wchn(dx[left : left + across.size, :, top : top + down.size])

    return from_wchn(y), adjoint


def _max_along(x: Array, windows: Axis, dim: int) -> tuple[Array, Share]:
    """The maximum along `dim`. The first of equal maxima counts, and padding never does."""
    first, *others = _taps(x, windows, dim)
    y, is_larger = first, []
    for t, tap in enumerate(others, 1):
        is_larger.append(tap > y)  # the vjp keeps these masks, a byte for each number, and not the input
        window, rest = divmod(windows.low - t, windows.stride)
        if not rest and 0 <= window < windows.out:  # all taps of this window before this one are padding
            is_larger[-1][(slice(None),) * dim + (window,)] = True
        y = np.maximum(y, tap)

    def share(dy: Array, parts: list[Array]) -> None:
        rest = dy.copy("K") if is_larger else dy
        for mask, part in zip(reversed(is_larger), reversed(parts[1:]), strict=True):
            drop_kept(rest, keep(rest, mask, out=part))
        parts[0][...] = rest

    return y, share


def _mean_along(x: Array, windows: Axis, dim: int) -> tuple[Array, Share]:
    taps = _taps(x, windows, dim)
    total = taps[0].astype(np.float64 if len(taps) > MAX_FLOAT32_TERMS else x.dtype)
    for tap in taps[1:]:
        total += tap
    y = total.astype(x.dtype, copy=False)
    y /= windows.taps

    def share(dy: Array, parts: list[Array]) -> None:
        for part in parts:
            np.divide(dy, windows.taps, out=part)

    return y, share


def _taps(x: Array, windows: Axis, dim: int) -> list[Array]:
    """What each tap reads along `dim` of the padded `x`."""
    return [x[place] for place in _places(windows, dim)]


@lru_cache(maxsize=1000)
def _places(windows: Axis, dim: int) -> list[tuple[slice, ...]]:
    """Where each tap reads along `dim`. It is cached: to find it takes a tenth of the time to pool a single image."""
    reach = (windows.out - 1) * windows.stride + 1
    return [(slice(None),) * dim + (slice(t, t + reach, windows.stride),) for t in range(windows.taps)]


def _add_taps(shape: tuple[int, ...], dy: Array, windows: Axis, dim: int, share: Share) -> Array:
    """The cotangent of the array of that shape that was pooled along `dim`."""
    if windows.stride < windows.taps:  # windows overlap, and their parts are added
        parts = [np.empty_like(dy) for _ in range(windows.taps)]
        share(dy, parts)
        dx = np.zeros(shape, np.float64 if windows.taps > MAX_FLOAT32_TERMS * windows.stride else dy.dtype)
        for tap, part in zip(_taps(dx, windows, dim), parts, strict=True):
            tap += part
        return dx.astype(dy.dtype, copy=False)
    is_covered = windows.stride == windows.taps and windows.out * windows.stride == shape[dim]
    dx = np.empty(shape, dy.dtype) if is_covered else np.zeros(shape, dy.dtype)
    share(dy, _taps(dx, windows, dim))
    return dx
