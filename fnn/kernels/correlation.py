"""Convolutions: cross-correlation and its two adjoints, as matrix products.

Images are (N, C, H, W); see `memory.py` for what lies behind. There is one product for each column of windows. Only the
rows of the windows are copied; their columns overlap in memory as views. So an image is copied kh times, not kh * kw.
The copies are made for a block of columns at a time, so that they stay in the cache.
"""

from __future__ import annotations

from functools import lru_cache, partial
from itertools import pairwise
from math import prod
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.memory import fast_order as fast_order
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.kernels.products import batched_matmul, sum_products
from fnn.kernels.reductions import accurate_sum as accurate_sum
from fnn.kernels.threads import idle_threads, parallel_map
from fnn.kernels.threads import run_both as run_both
from fnn.kernels.windows import Axis as Axis
from fnn.kernels.windows import Windows as Windows

Index: TypeAlias = tuple[slice, ...]
Blocks: TypeAlias = list[tuple[slice, Windows]]

BLOCK = 1 << 18  # at most this many numbers are copied at a time, unless one column of windows needs more
PIXEL = 16  # images of at most this many examples are copied pixel by pixel if the stride leaves gaps


def correlate(x: Array, w: Array, b: Array | None, windows: Windows, groups: int) -> Array:
    """For each window, the sum over channels and taps of `x` times `w` (out, channels / groups, kh, kw), plus `b`."""
    (down, across), out = windows, len(w)
    if down.taps > 1 and _has_few_outputs(w.shape, x, down):
        y = _add_rows(x, w, windows, groups, [down.reads(tap) for tap in range(down.taps)], down.out)
        if b is not None:
            y += b[:, None, None]
        return from_wchn(y)
    memory, kernels, blocks = to_wchn(x), _kernels(w, b, groups), _blocks(windows, x.shape[:2])
    y = np.empty((across.out, groups, out // groups, down.out * len(x)), x.dtype)

    def fill(i: int) -> None:
        columns, part = blocks[i]
        batched_matmul(kernels, _patches(memory, part, groups, b is not None), y[columns])

    parallel_map(fill, len(blocks), idle_threads())
    return from_wchn(y.reshape(across.out, out, down.out, len(x)))


def correlate_weights(x: Array, dy: Array, shape: tuple[int, ...], windows: Windows, groups: int) -> Array:
    """The gradient of `correlate` with respect to `w`, which has that shape."""
    (down, across), (out, channels, kh, kw) = windows, shape
    if across.stride == 1 and _has_few_outputs(shape, x, down):
        back = Windows(*(axis.phases()[0][2] for axis in windows))
        dw = correlate_weights(dy, x, (groups * channels, out // groups, kh, kw), back, groups)
        return np.ascontiguousarray(_transpose(dw, groups))
    memory, blocks, threads = to_wchn(x), _blocks(windows, x.shape[:2]), idle_threads()
    d = to_wchn(dy).reshape(across.out, groups, out // groups, down.out * len(x)).swapaxes(-1, -2)

    def multiply(start: int, i: int) -> Array:
        columns, part = blocks[start + i]
        # With some dozens of channels this is a tenth faster than with the cotangent as the left factor.
        return sum_products(_patches(memory, part, groups, False), d[columns])

    sums = multiply(0, 0)
    for start in range(1, len(blocks), threads):  # few at a time, because the sums of many channels are large
        for other in parallel_map(partial(multiply, start), min(threads, len(blocks) - start), threads):
            sums = np.add(sums, other, dtype=float)
    dw = sums.swapaxes(-1, -2).reshape(out, kw, kh, channels).transpose(0, 3, 2, 1)
    return dw.astype(x.dtype, "C")


def correlate_input(dy: Array, w: Array, windows: Windows, groups: int) -> Array:
    """The gradient of `correlate` with respect to `x`: correlates `dy` with flipped `w`.

    A stride makes several correlations: one for each phase, the columns that are read by the same taps.
    """
    (down, across), channels = windows, groups * w.shape[1]
    if across.stride == 1:
        ((_, _, right),) = across.phases()
        return from_wchn(_correlate_columns(dy, _transpose(w, groups), Windows(down, right), groups))
    dx = np.zeros((across.size, channels, down.size, len(dy)), dy.dtype)
    for columns, taps, right in across.phases():
        dx[columns] = _correlate_columns(dy, _transpose(w[..., taps], groups), Windows(down, right), groups)
    return from_wchn(dx)


def _correlate_columns(dy: Array, w: Array, windows: Windows, groups: int) -> Array:
    """The columns of a phase in the gradient with respect to `x`, as (W, C, H, N). `w` is flipped."""
    down, right = windows
    if down.stride == 1 and down.size < 2 * down.out:
        ((_, _, below),) = down.phases()
        return to_wchn(correlate(dy, w, None, Windows(below, right), groups))
    places = [(pixels, rows) for rows, pixels in map(down.reads, reversed(range(down.taps)))]
    return _add_rows(dy, w, windows, groups, places, down.size, down.stride if down.dilation == 1 else 1)


def _has_few_outputs(shape: tuple[int, ...], x: Array, down: Axis) -> bool:
    """Whether to copy or add rows of the outputs, because they are fewer than the rows of the images."""
    return down.stride == 1 and shape[0] < x.shape[1] and prod(shape) < x.size and down.size < 2 * down.out


def _add_rows(
    x: Array, w: Array, windows: Windows, groups: int, places: list[tuple[slice, slice]], size: int, apart: int = 1
) -> Array:
    """Correlates with each row of taps alone, and adds the results from rows to other rows of a (W, C, size, N) array.

    So many rows are `apart`...
    """
    (out, channels, kh, kw), across, height = w.shape, windows.across, x.shape[2]
    kernels = w.reshape(groups, out // groups, channels, kh, kw).transpose(0, 3, 1, 2, 4)
    rows = Windows(Axis(height, height, 1, 1, 1, 0), across)
    terms = to_wchn(correlate(x, kernels.reshape(kh * out, channels, 1, kw), None, rows, groups))
    terms = terms.reshape(across.out, groups, kh, out // groups, height, len(x))
    y = np.zeros((across.out, groups, out // groups, size, len(x)), x.dtype)
    for tap, (to, seen) in enumerate(places):
        if tap < apart:
            y[..., to, :] = terms[:, :, tap, :, seen]
        else:
            y[..., to, :] += terms[:, :, tap, :, seen]
    return y.reshape(across.out, out, size, len(x))


def _transpose(w: Array, groups: int) -> Array:
    """The weights of the transposed convolution: (channels, out / groups, kh, kw), with the taps flipped."""
    out, channels, kh, kw = w.shape
    swapped = w.reshape(groups, out // groups, channels, kh, kw).swapaxes(1, 2)[..., ::-1, ::-1]
    return swapped.reshape(groups * channels, out // groups, kh, kw)


@lru_cache(maxsize=1000)
def _blocks(windows: Windows, size: tuple[int, ...]) -> Blocks:
    """Blocks of columns of windows over images (N, C, ...): which columns, and their windows."""
    (down, across), (batch, channels) = windows, size
    numbers = across.out * min(across.stride, across.taps) * down.taps * channels * down.out * batch
    shared = max(0, (across.taps - 1) * across.dilation + 1 - across.stride)  # pixel columns that two blocks copy
    n = max(1, min(-(-numbers // BLOCK), across.out // max(1, 4 * shared // across.stride)))
    ends = [across.out * i // n for i in range(n + 1)]
    return [(slice(*span), Windows(down, across.part(*span))) for span in pairwise(ends)]


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
    to, seen = padded, x
    if down.stride > 1 and 1 < batch <= PIXEL:  # NumPy copies few numbers at a time slowly, so let them be one item
        pixel = np.dtype((np.void, batch * x.itemsize))
        to, seen = padded.view(pixel), x.view(pixel)
    for place, source in copies:
        to[place] = seen[source]
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
