"""The arithmetic of windows that slide over images, one axis at a time."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from fnn.op import OpError, Shape

Pair: TypeAlias = tuple[int, int]


def pair(name: str, value: int | Sequence[int] | str, least: int) -> Pair:
    """`value` for height and width: an int means both. Raises OpError for anything but ints of at least `least`."""
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or not all(type(n) is int and n >= least for n in both):
        raise OpError(f"{name} is {value!r}, wanted an int or a pair of ints, at least {least}")
    return both[0], both[1]


class Axis(NamedTuple):
    """Windows along one axis: tap `t` of window `o` reads the input at `o * stride + t * dilation - low`."""

    size: int
    out: int
    taps: int
    stride: int
    dilation: int
    low: int

    @classmethod
    def over(cls, size: int, taps: int, stride: int, dilation: int, padding: int | str) -> "Axis":
        """The windows over `size` pixels with `padding` zeros at both ends, or "same" or "valid" as `conv` has it."""
        span = (taps - 1) * dilation + 1
        if padding == "same" and size:
            out = -(-size // stride)
            return cls(size, out, taps, stride, dilation, max(0, (out - 1) * stride + span - size) // 2)
        low = 0 if isinstance(padding, str) else padding
        out = (size + 2 * low - span) // stride + 1
        if out < 1:
            raise OpError(f"a window of {span} does not fit into {size} pixels with a padding of {low}")
        return cls(size, out, taps, stride, dilation, low)

    @classmethod
    @lru_cache(maxsize=1000)
    def pair(
        cls, size: Shape, taps: Pair, stride: Pair, dilation: Pair, padding: tuple[int | str, int | str]
    ) -> tuple["Axis", "Axis"]:
        """The windows down the height and across the width of images of that size."""
        down, across = zip(size, taps, stride, dilation, strict=True)
        return cls.over(*down, padding[0]), cls.over(*across, padding[1])

    def transposed(self) -> "Axis":
        """The windows by which an input pixel sees the outputs that it went into, these being `stride` apart."""
        low = (self.taps - 1) * self.dilation - self.low
        return Axis((self.out - 1) * self.stride + 1, self.size, self.taps, 1, self.dilation, low)

    def reads(self, tap: int) -> tuple[slice, slice]:
        """The windows whose `tap` lies inside the input, and what these read there."""
        offset = tap * self.dilation - self.low
        first = max(0, -(offset // self.stride))
        count = max(0, min(self.out, (self.size - 1 - offset) // self.stride + 1) - first)
        start = max(0, first * self.stride + offset)
        return slice(first, first + count), slice(start, start + count * self.stride, self.stride)
