"""Pooling, first across the width of the images and then down the height, with the gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.masks import drop_kept, keep
from fnn.kernels.memory import as_items, from_wchn, to_wchn
from fnn.kernels.reductions import SMALL, accurate_mean
from fnn.kernels.threads import idle_threads, parallel_map
from fnn.kernels.windows import Axis, cut
from fnn.kernels.windows import Windows as Windows

Index: TypeAlias = tuple[slice, ...]
Phase: TypeAlias = tuple[Index, Index, int, list[Index]]  # pixels, their places in the phase, its length, padding
Adjoint: TypeAlias = Callable[[Array], Array]
Along: TypeAlias = Callable[[list[Array], Axis, int], tuple[Array, "Share"]]  # pools along one axis
Share: TypeAlias = Callable[[Array, list[Array]], None]  # writes each tap's part of a cotangent to a list of arrays

BLOCK = 1 << 20  # about so many pixels are pooled at a time, to save memory; fewer would take more time
LONG_RUN = 32  # runs of memory of at least so many numbers are long
MAX_FLOAT32_TERMS = 32  # more numbers than this are added in float64: their sum in float32 would not be exact to 1e-6


def pool_max(x: Array, windows: Windows) -> tuple[Array, Adjoint]:
    """The maximum of each window of `x` (N, C, H, W), and the map from the cotangent to that of `x`."""
    return _pool(_max_along, -np.inf, x, windows)


def pool_mean(x: Array, windows: Windows) -> tuple[Array, Adjoint]:
    """The mean of each window of `x` (N, C, H, W) and its padding, and the map from the cotangent to that of `x`."""
    return _pool(_mean_along, 0, x, windows)


def image_mean(x: Array) -> tuple[Array, Adjoint]:
    """The mean of each image of `x` (N, C, H, W), and the map from the cotangent to that of `x`."""
    height, width = x.shape[2:]

    def adjoint(dy: Array) -> Array:
        share = np.repeat((dy / (height * width)).T[:, None], height, 1)
        return from_wchn(np.repeat(share[None], width, 0))

    return accurate_mean(x, (2, 3)), adjoint


def _pool(along: Along, blank: float, x: Array, windows: Windows) -> tuple[Array, Adjoint]:
    h = to_wchn(x)
    h_shape, parts = h.shape, cut(h.shape[1], h.size // BLOCK)
    pooled = parallel_map(lambda i: _pool_part(along, blank, h[:, parts[i]], windows), len(parts), idle_threads())
    y, pulls = pooled[0][0], [pull for _, pull in pooled]
    if len(parts) > 1:
        y = np.concatenate([y for y, _ in pooled], 1)

    def adjoint(dy: Array) -> Array:
        dy, dx = to_wchn(dy), np.empty(h_shape, dy.dtype)
        parallel_map(lambda i: pulls[i](dy[:, parts[i]], dx[:, parts[i]]), len(parts), idle_threads())
        return from_wchn(dx)

    return from_wchn(y), adjoint


def _pool_part(along: Along, blank: float, h: Array, windows: Windows) -> tuple[Array, Callable[[Array, Array], None]]:
    """Pools some channels. The second result writes the cotangent of `h`."""
    (down, across), height = windows, h.shape[2]
    u, share_across = along(_taps(h, across, 0, blank), across, 0)
    y, share_down = along(_taps(u, down, 2, blank), down, 2)

    def pull(dy: Array, dx: Array) -> None:
        du = np.empty((*dy.shape[:2], height, dy.shape[3]), dy.dtype)
        _add_taps(dy, down, 2, share_down, du)
        _add_taps(du, across, 0, share_across, dx)

    return y, pull


def _max_along(taps: list[Array], windows: Axis, dim: int) -> tuple[Array, Share]:
    """The maximum of the taps. The first of equal maxima counts, and padding never does."""
    y, winners = taps[0], np.zeros(1, np.uint8)  # the vjp keeps the numbers of the taps, and not the input
    dtype = np.min_scalar_type(len(taps))
    for t, tap in enumerate(taps[1:], 1):
        is_larger = tap > y
        window, rest = divmod(windows.low - t, windows.stride)
        if not rest and 0 <= window < windows.out:  # all taps of this window before this one are padding
            is_larger[_at(dim, window, window + 1)] = True
        winners = is_larger.view(np.uint8) if t == 1 else np.maximum(winners, is_larger * dtype.type(t))
        y = np.maximum(y, tap)

    def share(dy: Array, parts: list[Array]) -> None:
        for t, part in enumerate(parts[1:], 1):
            dy = drop_kept(dy, keep(dy, winners == t, out=part), out=parts[0])
        if len(parts) == 1:
            parts[0][...] = dy

    return y, share


def _mean_along(taps: list[Array], windows: Axis, dim: int) -> tuple[Array, Share]:
    total = np.multiply(taps[0], 1, dtype=np.float64 if len(taps) > MAX_FLOAT32_TERMS else None)  # as in `_copy`
    for tap in taps[1:]:
        total += tap
    y = total.astype(taps[0].dtype, copy=False)
    y /= windows.taps

    def share(dy: Array, parts: list[Array]) -> None:
        for part in parts:
            np.divide(dy, windows.taps, out=part)

    return y, share


def _taps(x: Array, windows: Axis, dim: int, blank: float) -> list[Array]:
    """For each tap, what it reads of `x` in all windows along `dim`. Padding is `blank`."""
    phases, is_copied = [], _has_short_runs(x, windows, dim)
    plan, taps = _plan(windows, dim)
    for pixels, inside, size, blanks in plan:
        if blanks or is_copied:
            phase = np.empty((*x.shape[:dim], size, *x.shape[dim + 1 :]), x.dtype)
            for place in blanks:
                phase[place] = blank
            _copy(x, pixels, phase, inside)
            phases.append(phase)
        else:
            phases.append(x[pixels])
    if len(phases) == len(taps):  # one tap for each phase
        return phases
    return [phases[tap % windows.stride][place] for tap, place in enumerate(taps)]


def _add_taps(dy: Array, windows: Axis, dim: int, share: Share, dx: Array) -> None:
    """Writes the cotangent of the array that was pooled along `dim` to `dx`."""
    (plan, taps), step, parts = _plan(windows, dim), windows.stride, []
    reach = (windows.out - 1) * step + windows.taps - windows.low
    if step > windows.taps or reach < windows.size:  # no tap reads some of the pixels
        dx[...] = 0
    is_copied = _has_short_runs(dx, windows, dim)
    for tap in range(windows.taps):
        pixels, _, size, blanks = plan[tap % step]
        is_direct = size == windows.out and not blanks and not is_copied
        parts.append(dx[pixels] if is_direct else np.empty_like(dy))
    share(dy, parts)
    for first, (pixels, inside, size, blanks) in enumerate(plan):
        total, *others = parts[first::step]
        if others:  # windows overlap
            dtype = np.dtype(float) if len(others) >= MAX_FLOAT32_TERMS else dy.dtype
            total = np.zeros((*dx.shape[:dim], size, *dx.shape[dim + 1 :]), dtype)
            for place, part in zip(taps[first::step], parts[first::step], strict=True):
                total[place] += part
            total = total.astype(dy.dtype, copy=False)
        if others or blanks or is_copied:
            _copy(total, inside, dx, pixels)


@lru_cache(maxsize=1000)
def _plan(windows: Axis, dim: int) -> tuple[list[Phase], list[Index]]:
    """The phases along `dim`, and for each tap the part of a phase that it reads.

    A phase has every `stride`-th pixel and the padding beside them. Tap t reads phase t. If there are more taps than
    the stride, tap t + stride reads the same phase as tap t, one number later.
    """
    at = partial(_at, dim)
    phases = []
    for first in range(min(windows.stride, windows.taps)):
        size = windows.out + (windows.taps - 1 - first) // windows.stride
        inside, pixels = windows._replace(out=size, taps=1, low=windows.low - first).reads(0)
        beside = [at(*ends) for ends in ((0, inside.start), (inside.stop, size)) if ends[0] < ends[1]]
        phases.append((at(pixels.start, pixels.stop, pixels.step), at(inside.start, inside.stop), size, beside))
    starts = [tap // windows.stride for tap in range(windows.taps)]
    return phases, [at(start, start + windows.out) for start in starts]


def _at(dim: int, start: int, stop: int, step: int = 1) -> Index:
    """The index of a range along `dim`."""
    return (*[slice(None)] * dim, slice(start, stop, step))


def _has_short_runs(x: Array, windows: Axis, dim: int) -> bool:
    """Whether to copy each phase, because NumPy works several times as fast on long runs of memory."""
    return dim > 0 and windows.stride > 1 and x.shape[-1] < LONG_RUN and x.size > SMALL


def _copy(x: Array, part: Index, y: Array, to: Index) -> None:
    """Writes `x[part]` to `y[to]`."""
    if len(part) > 1:  # short runs of memory
        as_items(y)[to] = as_items(x)[part]
    else:  # for some addresses, the copy of glibc takes ten times as long as a product on Zen 3
        np.multiply(x[part], 1, out=y[to])
