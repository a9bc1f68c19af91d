"""The arithmetic of windows that slide over images, one axis at a time."""

from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fnn.checks.errors import describe_value
from fnn.checks.values import as_int, check_int
from fnn.op import OpError, Shape

Pair: TypeAlias = tuple[int, int]


def pair(name: str, value: Any, least: int) -> Pair:
    """`value` for height and width, as ints of Python's: an int, a pair or an array of two.

    Raises OpError unless they are ints of at least `least`.
    """
    one_each = isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.ndim == 1)
    both = [n for n in map(as_int, value if one_each else (value, value)) if n is not None and n >= least]
    if len(both) != 2 or (one_each and len(value) != 2):
        raise OpError(f"{name}: expected an int or a pair of ints of at least {least}, got {describe_value(value)}")
    return both[0], both[1]


def check_out_channels(out_channels: Any, groups: Any) -> Pair:
    """Both as ints of Python's. Raises OpError unless `out_channels` is a multiple of `groups`, both of at least 1."""
    out_channels = check_int("out_channels", out_channels, 1, OpError)
    groups = check_int("groups", groups, 1, OpError)
    if out_channels % groups:
        raise OpError(f"out_channels: expected a multiple of groups={groups}, got {out_channels}")
    return out_channels, groups


def check_image_shape(shape: Shape, groups: int = 1) -> None:
    """Raises OpError unless the shape is (channels, height, width) with a multiple of `groups` channels, at least 1."""
    if len(shape) != 3 or not shape[0] or shape[0] % groups:
        multiple = f" with a multiple of {groups} channels" if groups > 1 else ""
        raise OpError(f"expected shape (channels, height, width){multiple}, got {shape}")


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
