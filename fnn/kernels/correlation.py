"""Convolutions: cross-correlation and its two adjoints, as matrix products.

Images are (N, C, H, W); see `memory.py` for what lies behind. There is one product for each column of windows. Only the
rows of the windows are copied; their columns overlap in memory as views. So an image is copied kh times, not kh * kw.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.memory import fast_order as fast_order
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.kernels.products import batched_matmul, sum_products
from fnn.kernels.reductions import accurate_sum as accurate_sum
from fnn.kernels.threads import run_both as run_both
from fnn.kernels.windows import Axis as Axis
from fnn.kernels.windows import Windows as Windows

Index: TypeAlias = tuple[slice, ...]


def correlate(x: Array, w: Array, b: Array | None, windows: Windows, groups: int) -> Array:
    """For each window, the sum over channels and taps of `x` times `w` (out, channels / groups, kh, kw), plus `b`."""
    down, across = windows
    y = np.empty((across.out, groups, len(w) // groups, down.out * len(x)), x.dtype)
    batched_matmul(_kernels(w, b, groups), _patches(to_wchn(x), windows, groups, b is not None), y)
    return from_wchn(y.reshape(across.out, len(w), down.out, len(x)))


def correlate_weights(x: Array, dy: Array, shape: tuple[int, ...], windows: Windows, groups: int) -> Array:
    """The gradient of `correlate` with respect to `w`, which has that shape."""
    (down, across), (out, channels, kh, kw) = windows, shape
    patches = _patches(to_wchn(x), windows, groups, False)
    d = to_wchn(dy).reshape(across.out, groups, out // groups, down.out * len(x))
    # With some dozens of channels this is a tenth faster than with the cotangent as the left factor.
    sums = sum_products(patches, d.swapaxes(-1, -2)).swapaxes(-1, -2)
    dw = sums.reshape(out, kw, kh, channels).transpose(0, 3, 2, 1)
    return np.ascontiguousarray(dw)


def correlate_input(dy: Array, w: Array, windows: Windows, groups: int) -> Array:
    """The gradient of `correlate` with respect to `x`: correlates `dy`, spread by the stride, with flipped `w`."""
    (down, across), (out, channels, kh, kw) = windows, w.shape
    flipped = w.reshape(groups, out // groups, channels, kh, kw).swapaxes(1, 2)[..., ::-1, ::-1]
    flipped = flipped.reshape(groups * channels, out // groups, kh, kw)
    transposed = windows.transposed()
    if down.stride > 1 or across.stride > 1:
        spread = np.zeros((transposed.across.size, out, transposed.down.size, len(dy)), dy.dtype)
        spread[:: across.stride, :, :: down.stride] = to_wchn(dy)
        dy = from_wchn(spread)
    return correlate(dy, flipped, None, transposed, groups)


def _kernels(w: Array, b: Array | None, groups: int) -> Array:
    """`w` as the left factor of a product with patches. `b` is in the column for their row of ones."""
    out, channels, kh, kw = w.shape
    rows = kh * channels + (b is not None)
    kernels = np.zeros((out, kw, rows), w.dtype)
    kernels[:, :, : kh * channels].reshape(out, kw, kh, channels)[...] = w.transpose(0, 3, 2, 1)
    if b is not None:
        kernels[:, 0, -1] = b
    return kernels.reshape(groups, out // groups, kw * rows)


def _patches(x: Array, windows: Windows, groups: int, ones: bool) -> Array:
    """A matrix for each column of windows and each group: what each tap reads, by window row and batch.

    `x` is (W, C, H, N). With `ones`, the matrix also has a row of ones, so that a product adds the bias.
    """
    down, across = windows
    width, channels, height, batch = x.shape
    channels //= groups
    x = x.reshape(width, groups, channels, height, batch).swapaxes(0, 1)
    rows = down.taps * channels + ones
    span = (across.out - 1) * across.stride + (across.taps - 1) * across.dilation + 1
    length = down.out * batch
    line = 64 // x.itemsize
    pitch = (-(-length // line) | 1) * line  # odd, so that the rows of a column spread over the cache
    memory = np.empty((groups, span, rows, pitch), x.dtype)
    padded = memory[..., :length].reshape(groups, span, rows, down.out, batch)
    copies, blanks = _plan(windows, span, channels)
    for place in blanks:
        padded[place] = 0
    for place, seen in copies:
        padded[place] = x[seen]
    if ones:
        padded[:, :, -1] = 1
    group, column, row, item = memory.strides
    shape = (groups, across.out, across.taps, rows, length)
    strides = (group, across.stride * column, across.dilation * column, row, item)
    patches: Array = np.ndarray(shape, x.dtype, memory, 0, strides)
    return patches.reshape(groups, across.out, across.taps * rows, length).swapaxes(0, 1)  # a copy only if dilated


@lru_cache(maxsize=1000)
def _plan(windows: Windows, span: int, channels: int) -> tuple[list[tuple[Index, Index]], list[Index]]:
    """Which parts of the patches are copies of which parts of the images, and which parts are padding.

    It is cached, because to find it takes longer than to copy a single small image.
    """
    down, across = windows
    every = slice(None)
    columns, columns_seen = across._replace(taps=1, out=span, stride=1).reads(0)
    copies: list[tuple[Index, Index]] = []
    blanks: list[Index] = [(every, beside, slice(down.taps * channels)) for beside in _outside(columns, span)]
    for tap in range(down.taps):
        rows, rows_seen = down.reads(tap)
        place = (every, columns, slice(tap * channels, (tap + 1) * channels))
        copies.append(((*place, rows), (every, columns_seen, every, rows_seen)))
        blanks += [(*place, above) for above in _outside(rows, down.out)]
    return copies, blanks


def _outside(inside: slice, size: int) -> list[slice]:
    """What is left of a range of that size, at its beginning and its end."""
    return [rest for rest in (slice(0, inside.start), slice(inside.stop, size)) if rest.start < rest.stop]
