"""The linear algebra of convolutions: cross-correlation and its two adjoints, on images in (W, C, H, N) memory.

Each is a batch of matrix products, one for each column of windows. Only the kernel's rows are copied apart; its columns
overlap in memory as views, so that an image is copied kh times and not kh * kw times.
"""

from functools import lru_cache
from typing import TypeAlias

import numpy as np

from fnn.kernels.products import batched_matmul, sum_products
from fnn.kernels.windows import Axis
from fnn.op import Array, Shape

Index: TypeAlias = tuple[slice, ...]

FEW = 20_000
"""So few patches, as of a single image, are set to zero as a whole: less work than their edges, 0.7 for 1.7 µs."""


def correlate(x: Array, w: Array, b: Array | None, down: Axis, across: Axis, groups: int) -> Array:
    """At each window: the sum over channel and taps of `w` (out, channels / groups, kh, kw) times `x`, plus `b`."""
    y = np.empty((across.out, groups, len(w) // groups, down.out * x.shape[-1]), x.dtype)
    batched_matmul(_kernels(w, b, groups), _patches(x, down, across, groups, b is not None), y)
    return y.reshape(across.out, len(w), down.out, x.shape[-1])


def correlate_weights(x: Array, dy: Array, shape: Shape, down: Axis, across: Axis, groups: int) -> Array:
    """The adjoint of `correlate` in `w`, which has that shape."""
    out, (channels, kh, kw) = shape[0], shape[1:]
    patches = _patches(x, down, across, groups, False)
    dy = dy.reshape(across.out, groups, out // groups, down.out * x.shape[-1])
    # The patches on the left: with some dozens of channels that is a tenth faster than the cotangent on the left.
    sums = sum_products(patches, dy.swapaxes(-1, -2)).swapaxes(-1, -2)
    dw = sums.reshape(out, kw, kh, channels).transpose(0, 3, 2, 1)
    return np.ascontiguousarray(dw)


def correlate_input(dy: Array, w: Array, down: Axis, across: Axis, groups: int) -> Array:
    """The adjoint of `correlate` in `x`: the cotangent, spread by the stride, meets the kernels turned round."""
    out, channels, kh, kw = w.shape
    turned = w.reshape(groups, out // groups, channels, kh, kw).swapaxes(1, 2)[..., ::-1, ::-1]
    turned = turned.reshape(groups * channels, out // groups, kh, kw)
    if down.stride > 1 or across.stride > 1:
        spread = np.zeros((across.transposed().size, out, down.transposed().size, dy.shape[-1]), dy.dtype)
        spread[:: across.stride, :, :: down.stride] = dy
        dy = spread
    return correlate(dy, turned, None, down.transposed(), across.transposed(), groups)


def _kernels(w: Array, b: Array | None, groups: int) -> Array:
    """`w` as the left factor of a product with patches, `b` in the column that meets their row of ones."""
    out, channels, kh, kw = w.shape
    rows = kh * channels + (b is not None)
    kernels = np.zeros((out, kw, rows), w.dtype)
    kernels[:, :, : kh * channels].reshape(out, kw, kh, channels)[...] = w.transpose(0, 3, 2, 1)
    if b is not None:
        kernels[:, 0, -1] = b
    return kernels.reshape(groups, out // groups, kw * rows)


def _patches(x: Array, down: Axis, across: Axis, groups: int, ones: bool) -> Array:
    """For each column of windows and group a matrix: what each tap reads, by window row and batch.

    With `ones` there is a row of ones beside the taps, so that a product adds the bias, or sums a cotangent for it.
    """
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
    copies, blanks = _plan(down, across, span, channels)
    if memory.size < FEW:
        memory.fill(0)
    else:
        for place in blanks:
            padded[place] = 0
    for place, seen in copies:
        padded[place] = x[seen]
    if ones:
        padded[:, :, -1] = 1
    group, column, row, item = memory.strides
    shape = (groups, across.out, across.taps, rows, length)
    strides = (group, across.stride * column, across.dilation * column, row, item)
    windows = np.ndarray(shape, x.dtype, memory, 0, strides)
    return windows.reshape(groups, across.out, across.taps * rows, length).swapaxes(0, 1)  # a copy only if dilated


@lru_cache(maxsize=1000)
def _plan(down: Axis, across: Axis, span: int, channels: int) -> tuple[list[tuple[Index, Index]], list[Index]]:
    """Which parts of the patches are copies of which parts of the images, and which are padding.

    It is remembered, as it takes longer to find than a single small image takes to copy.
    """
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
    """What is left of a range of that size, at its beginning and at its end."""
    return [rest for rest in (slice(0, inside.start), slice(inside.stop, size)) if rest.start < rest.stop]
