"""What the norm layers share: their scale and shift, and the checks of these and of the input."""

from __future__ import annotations

from typing import TypeAlias

from fnn.checks import get_params, input_error
from fnn.init import Initialiser
from fnn.op import Array, Params, Shape
from fnn.random import Key

Axes: TypeAlias = tuple[int, ...]


def affine_init(key: Key, shape: Shape, w_init: Initialiser, b_init: Initialiser) -> Params:
    """Initial scale `w` and shift `b`. Each number belongs to one input and one output."""
    return {"w": w_init(key.fold("w"), shape, 1, 1), "b": b_init(key.fold("b"), shape, 1, 1)}


def all_but_channels(x: Array) -> Axes:
    """The axes of (batch, channels, ...) without the channels."""
    return 0, *range(2, x.ndim)


def check_channels(params: Params, x: Array, *names: str) -> Params:
    """The params, as plain ndarrays. Raises OpError unless `x` is (batch, channels, ...) and they have that length."""
    arrays = get_params(params, dict.fromkeys(names, ("channels",)))
    w = arrays[0]
    if x.ndim < 2 or x.shape[1] != len(w) or x.dtype != w.dtype:
        raise input_error(x, w.dtype, {"channels": len(w), "...": None})
    return dict(zip(names, arrays, strict=True))
