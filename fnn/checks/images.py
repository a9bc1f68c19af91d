"""Checks of the arguments and inputs of operators on images."""

from __future__ import annotations

from typing import Any

import numpy as np

from fnn.checks.arrays import Array, input_error
from fnn.checks.errors import OpError, describe_value
from fnn.checks.values import as_ints, check_int


def check_pair(name: str, value: Any, minimum: int) -> tuple[int, int]:
    """Returns `value`, an int or a pair for height and width, as two ints. Raises OpError if one is below `minimum`."""
    is_pair = isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.ndim == 1)
    both = as_ints(value if is_pair else (value, value), minimum)
    if both is None or len(both) != 2:
        raise OpError(f"{name}: expected an int or a pair of ints of at least {minimum}, got {describe_value(value)}")
    return both[0], both[1]


def check_channels_and_groups(out_channels: Any, groups: Any) -> tuple[int, int]:
    """Returns both as ints. Raises OpError unless `out_channels` is a multiple of `groups`, both at least 1."""
    out_channels = check_int("out_channels", out_channels, 1, OpError)
    groups = check_int("groups", groups, 1, OpError)
    if out_channels % groups:
        raise OpError(f"out_channels: expected a multiple of groups={groups}, got {out_channels}")
    return out_channels, groups


def check_image_shape(shape: tuple[int, ...], groups: int = 1) -> None:
    """Raises OpError unless the shape is (channels, height, width) with a multiple of `groups` channels."""
    if len(shape) != 3 or not shape[0] or shape[0] % groups:
        multiple = f" with a multiple of {groups} channels" if groups > 1 else ""
        raise OpError(f"expected shape (channels, height, width){multiple}, got {shape}")


def check_images(x: Array, dtype: Any = None, channels: int | None = None) -> None:
    """Raises OpError unless `x` is (batch, channels, height, width), with that dtype and those channels if given."""
    if x.ndim != 4 or dtype not in (None, x.dtype) or channels not in (None, x.shape[1]):
        raise input_error(x, dtype, {"channels": channels, "height": None, "width": None})
