"""What the norm layers share: their scale and shift, and the checks of these and of the input."""

from __future__ import annotations

from numbers import Real
from typing import TypeAlias

import numpy as np

from fnn.init import Initialiser
from fnn.op import Array, OpError, Params, Shape, fitting, told
from fnn.random import Key

Axes: TypeAlias = tuple[int, ...]


def affine_init(key: Key, shape: Shape, w_init: Initialiser, b_init: Initialiser) -> Params:
    """Initial scale `w` and shift `b`. Each number belongs to one input and one output."""
    return {"w": w_init(key.fold("w"), shape, 1, 1), "b": b_init(key.fold("b"), shape, 1, 1)}


def all_but_channels(x: Array) -> Axes:
    """The axes of (batch, channels, ...) without the channels."""
    return 0, *range(2, x.ndim)


def check_channels(params: Params, x: Array, *names: str) -> None:
    """Refuses `x` unless it is (batch, channels, ...), and `w` and the params of these names have one number each."""
    w = fitting(params, "w", (None,))
    for name in names:
        fitting(params, name, w.shape, w.dtype)
    if x.ndim < 2 or x.shape[1] != len(w) or x.dtype != w.dtype:
        raise OpError(f"input is {told(x)}, wanted {w.dtype} (batch, {len(w)}, ...)")


def positive(eps: float) -> float:
    """`eps` as Python has it: a scalar of NumPy's would make float64 of float32."""
    if not (isinstance(eps, Real) and 0 < eps < np.inf):
        raise OpError(f"eps is {eps!r}, wanted a number greater than 0")
    return float(eps)
