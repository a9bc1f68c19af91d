"""The arithmetic of normalisation: numbers less their mean, over their standard deviation, then scaled and shifted."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from numbers import Real
from typing import TypeAlias

import numpy as np

from fnn.init import Initialiser
from fnn.op import Array, OpError, Params, Shape, Vjp, fitting, told
from fnn.random import Key

Axes: TypeAlias = tuple[int, ...]
Adjoint: TypeAlias = Callable[[Array], Array]


def standardise(x: Array, axes: Axes, eps: float) -> tuple[Array, Adjoint]:
    """`x` less its mean over `axes`, over the root of its mean square there plus `eps`; and the adjoint."""
    count = max(1, prod(x.shape[axis] for axis in axes))
    normal = x - x.sum(axes, keepdims=True) / count
    std = np.sqrt(np.square(normal).sum(axes, keepdims=True) / count + eps)
    normal /= std

    def pull(d: Array) -> Array:
        dx: Array = d - d.sum(axes, keepdims=True) / count
        dx -= normal * ((d * normal).sum(axes, keepdims=True) / count)
        dx /= std
        return dx

    return normal, pull


def affine(params: Params, normal: Array, pull: Adjoint, axes: Axes) -> tuple[Array, Vjp]:
    """`normal` times `w` plus `b`, the same all over `axes`; `pull` takes the cotangent of `normal` to the input's."""
    w, b = (np.expand_dims(params[name], axes) for name in "wb")
    y = normal * w
    y += b

    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
        dparams = {"w": (dy * normal).sum(axes), "b": dy.sum(axes)}
        return dparams, pull(dy * w) if need_dx else None

    return y, vjp


def affine_init(key: Key, shape: Shape, w_init: Initialiser, b_init: Initialiser) -> Params:
    """The initial params of `affine`, of that shape; each number is wired to one input and one output."""
    return {"w": w_init(key.fold("w"), shape, 1, 1), "b": b_init(key.fold("b"), shape, 1, 1)}


def all_but_channels(x: Array) -> Axes:
    """The axes of (batch, channels, ...) but that of the channels."""
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
