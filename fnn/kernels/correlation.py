"""Convolutions: cross-correlation and its two adjoints, as matrix products.

Images are (N, C, H, W); see `memory.py` for what lies behind. There is one product for each column of windows and each
group of channels. Only the rows of the windows are copied; their columns overlap in memory as views. So an image is
copied kh times, not kh * kw. One block of groups and columns is copied at a time, so that the copies stay in the cache.
"""

from __future__ import annotations

from functools import lru_cache, partial
from math import prod
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.memory import as_items, from_wchn, to_wchn
from fnn.kernels.memory import fast_order as fast_order
from fnn.kernels.products import batched_matmul_in_parts, sum_products
from fnn.kernels.reductions import accurate_sum as accurate_sum
from fnn.kernels.threads import idle_threads, parallel_map
from fnn.kernels.threads import run_both as run_both
from fnn.kernels.windows import Axis as Axis
from fnn.kernels.windows import Windows as Windows
from fnn.kernels.windows import cut

Index: TypeAlias = tuple[slice, ...]
Block: TypeAlias = tuple[slice, slice, slice, Windows]  # columns of windows, groups, columns of pixels

BLOCK = 1 << 19  # at most this many numbers are copied at a time, unless one column of windows needs more


def correlate(x: Array, w: Array, b: Array | None, windows: Windows, groups: int) -> Array:
    """For each window, the sum over channels and taps of `x` times `w` (out, channels / groups, kh, kw), plus `b`."""
    (down, across), out = windows, len(w)
    if down.taps > 1 and _has_few_outputs(w.shape, x, down):
        y = np.zeros((across.out, out, down.out, len(x)), x.dtype)
        _add_rows(x, w, across, groups, [down.reads(tap) for tap in range(down.taps)], y)
        if b is not None:
            y += b[:, None, None]
        return from_wchn(y)
    memory, kernels, blocks = _split(x, groups), _kernels(w, b, groups), _blocks(windows, groups, x.shape[:2])
    y = np.empty((across.out, groups, out // groups, down.out * len(x)), x.dtype)

    def fill(i: int) -> None:
        columns, some, pixels, part = blocks[i]
        batched_matmul_in_parts(kernels[some], _patches(memory[pixels, some], part, b is not None), y[columns, some])

    parallel_map(fill, len(blocks), idle_threads())
    return from_wchn(y.reshape(across.out, out, down.out, len(x)))


def correlate_weights(x: Array, dy: Array, shape: tuple[int, ...], windows: Windows, groups: int) -> Array:
    """The gradient of `correlate` with respect to `w`, which has that shape."""
    (down, across), (out, channels, kh, kw) = windows, shape
    if across.stride == 1 and _has_few_outputs(shape, x, down):
        dw = correlate_weights(dy, x, (groups * channels, out // groups, kh, kw), windows.back(), groups)
        return np.ascontiguousarray(_transpose(dw, groups))
    memory, blocks, threads = _split(x, groups), _blocks(windows, groups, x.shape[:2]), idle_threads()
    d = to_wchn(dy).reshape(across.out, groups, out // groups, down.out * len(x)).swapaxes(-1, -2)

    def multiply(start: int, i: int) -> Array:
        columns, some, pixels, part = blocks[start + i]
        # With some dozens of channels this is a tenth faster than with the cotangent as the left factor.
        return sum_products(_patches(memory[pixels, some], part, False), d[columns, some])

    sums = {0: multiply(0, 0)}  # for each block of groups, by its first group
    for start in range(1, len(blocks), threads):  # few at a time, because the sums of many channels are large
        products = parallel_map(partial(multiply, start), min(threads, len(blocks) - start), threads)
        for (_, some, _, _), product in zip(blocks[start:], products, strict=False):
            before = sums.get(some.start)
            sums[some.start] = product if before is None else np.add(before, product, dtype=float)
    total = sums[0] if len(sums) == 1 else np.concatenate(list(sums.values()))
    dw = total.swapaxes(-1, -2).reshape(out, kw, kh, channels).transpose(0, 3, 2, 1)
    return dw.astype(x.dtype, "C")


def correlate_input(dy: Array, w: Array, windows: Windows, groups: int) -> Array:
    """The gradient of `correlate` with respect to `x`: correlates `dy` with flipped `w`.

    A stride makes several correlations: one for each phase, the columns that are read by the same taps.
    """
    (down, across), channels = windows, groups * w.shape[1]
    copies_rows = down.stride == 1 and down.size < 2 * down.out
    if copies_rows and across.stride == 1:
        return correlate(dy, _transpose(w, groups), None, windows.back(), groups)
    places = [(pixels, rows) for rows, pixels in map(down.reads, reversed(range(down.taps)))]
    dx = np.zeros((across.size, channels, down.size, len(dy)), dy.dtype)
    for columns, taps, right in across.phases():
        flipped = _transpose(w[..., taps], groups)
        if copies_rows:
            dx[columns] = to_wchn(correlate(dy, flipped, None, Windows(down.phases()[0][2], right), groups))
        else:
            _add_rows(dy, flipped, right, groups, places, dx[columns], down.stride if down.dilation == 1 else 1)
    return from_wchn(dx)


def _has_few_outputs(shape: tuple[int, ...], x: Array, down: Axis) -> bool:
    """Whether to copy or add rows of the outputs, because they are fewer than the rows of the images."""
    return down.stride == 1 and shape[0] < x.shape[1] and prod(shape) < x.size and down.size < 2 * down.out


def _add_rows(
    x: Array, w: Array, across: Axis, groups: int, places: list[tuple[slice, slice]], y: Array, disjoint: int = 1
) -> None:
    """Correlates with each row of taps alone, and adds the results to `y`, which is (W, C, H, N) and zero.

    For each row of taps, `places` has the rows of `y` that it adds to, and the rows of its results. The first
    `disjoint` rows of taps add to different rows.
    """
    (out, channels, kh, kw), height = w.shape, x.shape[2]
    kernels = w.reshape(groups, out // groups, channels, kh, kw).transpose(0, 3, 1, 2, 4)
    rows = Windows(Axis(height, height, 1, 1, 1, 0), across)
    terms = to_wchn(correlate(x, kernels.reshape(kh * out, channels, 1, kw), None, rows, groups))
    terms = terms.reshape(across.out, groups, kh, out // groups, height, len(x))
    y = y.reshape(across.out, groups, out // groups, *y.shape[2:])
    for tap, (to, results) in enumerate(places):
        if tap < disjoint:  # a copy is faster than a sum with zeros
            as_items(y)[..., to, :] = as_items(terms)[:, :, tap, :, results]
        else:
            y[..., to, :] += terms[:, :, tap, :, results]


def _transpose(w: Array, groups: int) -> Array:
    """The weights of the transposed convolution: (channels, out / groups, kh, kw), with the taps flipped."""
    out, channels, kh, kw = w.shape
    swapped = w.reshape(groups, out // groups, channels, kh, kw).swapaxes(1, 2)[..., ::-1, ::-1]
    return swapped.reshape(groups * channels, out // groups, kh, kw)


@lru_cache(maxsize=1000)
def _blocks(windows: Windows, groups: int, size: tuple[int, int]) -> list[Block]:
    """Cuts the windows over a batch of that size and channels into blocks: by groups first, then by columns."""
    (down, across), (batch, channels), phases = windows, size, windows.across.undilated()
    numbers = across.out * min(across.stride, across.taps) * down.taps * channels * down.out * batch
    pieces, blocks = -(-numbers // (BLOCK * len(phases))), []
    for some in cut(groups, pieces):
        for columns, pixels, part in phases:
            shared = max(0, part.taps - part.stride)  # columns of pixels that two blocks copy
            most = part.out // max(1, 4 * shared // part.stride)
            for piece in cut(part.out, min(-(-pieces // groups), most)):
                start, stop = (columns.start + i * columns.step for i in (piece.start, piece.stop))
                block = slice(start, stop, columns.step)
                blocks.append((block, some, pixels, Windows(down, part.part(piece.start, piece.stop))))
    return blocks


def _split(x: Array, groups: int) -> Array:
    """The images in memory with their channels in groups: (W, groups, channels / groups, H, N)."""
    batch, channels, height, width = x.shape
    return to_wchn(x).reshape(width, groups, channels // groups, height, batch)


def _kernels(w: Array, b: Array | None, groups: int) -> Array:
    """`w` as the left factor of a product with patches. `b` is in the column for their row of ones."""
    out, channels, kh, kw = w.shape
    rows = kh * channels + (b is not None)
    kernels = np.zeros((out, kw, rows), w.dtype)
    kernels[:, :, : kh * channels].reshape(out, kw, kh, channels)[...] = w.transpose(0, 3, 2, 1)
    if b is not None:
        kernels[:, 0, -1] = b
    return kernels.reshape(groups, out // groups, kw * rows)


def _patches(x: Array, windows: Windows, ones: bool) -> Array:
    """A matrix for each column of windows and each group: what each tap reads, by window row and batch.

    `x` is (W, groups, channels, H, N). With `ones`, the matrix also has a row of ones, so that a product adds the bias.
    """
    (down, across), (_, groups, channels, _, batch), x = windows, x.shape, x.swapaxes(0, 1)
    rows = down.taps * channels + ones
    span = (across.out - 1) * across.stride + across.taps
    length = down.out * batch
    line = 64 // x.itemsize
    # An odd number of lines, so that the rows of a column spread over the cache:
    pitch = (-(-length // line) | 1) * line if length > line else length
    memory = np.empty((groups, span, rows, pitch), x.dtype)
    padded = memory[..., :length].reshape(groups, span, rows, down.out, batch)
    copies, blanks = _plan(windows, span, channels)
    for place in blanks:
        padded[place] = 0
    to, seen = (as_items(padded), as_items(x)) if down.stride > 1 else (padded, x)
    for place, source in copies:
        to[place] = seen[source]
    if ones:
        padded[:, :, -1] = 1
    group, column, row, item = memory.strides
    shape, strides = (across.out, groups, across.taps * rows, length), (across.stride * column, group, row, item)
    return np.ndarray(shape, x.dtype, memory, 0, strides)


@lru_cache(maxsize=1000)
def _plan(windows: Windows, span: int, channels: int) -> tuple[list[tuple[Index, Index]], list[Index]]:
    """Plans `_patches`: which parts of the images are copied to which parts of the patches, and which parts are zero.

    The plan is cached. For one small image, it would take longer than the copies.
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
