"""Windows that slide over images, one axis at a time."""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import NamedTuple, TypeAlias

from fnn.checks.errors import OpError

Pair: TypeAlias = tuple[int, int]


class Windows(NamedTuple):
    """The windows over images: down their height and across their width."""

    down: Axis
    across: Axis

    @classmethod
    @lru_cache(maxsize=1000)
    def over(
        cls, size: tuple[int, ...], taps: Pair, stride: Pair, dilation: Pair, padding: tuple[int | str, int | str]
    ) -> Windows:
        """The windows over images of that height and width; `padding` may be "same" or "valid" as in `conv`."""
        return cls(*map(Axis.over, size, taps, stride, dilation, padding))

    def back(self) -> Windows:
        """The windows over the outputs that each pixel adds, if the stride is 1."""
        return Windows(*(axis.phases()[0][2] for axis in self))


class Axis(NamedTuple):
    """Windows along one axis: tap `t` of window `o` reads the input at `o * stride + t * dilation - low`."""

    size: int
    out: int
    taps: int
    stride: int
    dilation: int
    low: int

    @classmethod
    def over(cls, size: int, taps: int, stride: int, dilation: int, padding: int | str) -> Axis:
        """The windows over `size` pixels with `padding` zeros at both ends."""
        span = (taps - 1) * dilation + 1
        if padding == "same" and size:
            out = -(-size // stride)
            return cls(size, out, taps, stride, dilation, max(0, (out - 1) * stride + span - size) // 2)
        low = 0 if isinstance(padding, str) else padding
        out = (size + 2 * low - span) // stride + 1
        if out < 1:
            raise OpError(f"expected at least {span - 2 * low} pixels for a window of {span}, got {size}")
        return cls(size, out, taps, stride, dilation, low)

    @classmethod
    def spread(cls, size: int, taps: int, stride: int, dilation: int, padding: int, extra: int) -> Axis:
        """The windows of the convolution whose input gradient maps `size` pixels to the output of `conv_transpose`."""
        out = (size - 1) * stride + (taps - 1) * dilation + 1 - 2 * padding + extra
        if size < 1 or out < 1:
            raise OpError(f"expected at least one pixel of input and of output, got {size} and {out}")
        return cls(out, size, taps, stride, dilation, padding)

    def part(self, start: int, stop: int) -> Axis:
        """The windows from `start` to `stop`."""
        return self._replace(out=stop - start, low=self.low - start * self.stride)

    @lru_cache(maxsize=1000)  # noqa: B019 - an axis is a small constant
    def phases(self) -> list[tuple[slice, slice, Axis]]:
        """Which pixels are read by which taps, and the windows over the outputs that each of these pixels adds.

        There is one phase for each remainder of the pixels divided by the stride. The windows read the taps in
        descending order.
        """
        step, found = self.stride // gcd(self.stride, self.dilation), []
        for first in range(min(step, self.taps)):
            offset = first * self.dilation - self.low
            pixel = offset % self.stride
            count = -(-(self.size - pixel) // self.stride)
            if count > 0:
                taps, dilation = len(range(first, self.taps, step)), step * self.dilation // self.stride
                low = (taps - 1) * dilation + (offset - pixel) // self.stride
                windows = Axis(self.out, count, taps, 1, dilation, low)
                found.append((slice(pixel, None, self.stride), slice(first, None, step), windows))
        return found

    @lru_cache(maxsize=1000)  # noqa: B019
    def undilated(self) -> list[tuple[slice, slice, Axis]]:
        """Which windows read which pixels, and the windows over these pixels alone, where they have no dilation."""
        gap = self.dilation if self.taps > 1 else self.stride  # a single tap reads every `stride`-th pixel
        common = gcd(self.stride, gap)
        step, found = gap // common, []
        for first in range(min(step, self.out)):
            offset = first * self.stride - self.low
            pixel = offset % gap
            size, out = max(0, -(-(self.size - pixel) // gap)), -(-(self.out - first) // step)
            windows = Axis(size, out, self.taps, self.stride // common, 1, (pixel - offset) // gap)
            found.append((slice(first, None, step), slice(pixel, None, gap), windows))
        return found

    def reads(self, tap: int) -> tuple[slice, slice]:
        """The windows whose `tap` lies inside the input, and what they read there."""
        offset = tap * self.dilation - self.low
        first = max(0, -(offset // self.stride))
        count = max(0, min(self.out, (self.size - 1 - offset) // self.stride + 1) - first)
        start = max(0, first * self.stride + offset)
        return slice(first, first + count), slice(start, start + count * self.stride, self.stride)


def cut(size: int, n: int) -> list[slice]:
    """Cuts a range of that size into `n` parts, or fewer if it is shorter."""
    n = max(1, min(n, size))
    return [slice(size * i // n, size * (i + 1) // n) for i in range(n)]
