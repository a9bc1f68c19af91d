"""What an optimizer is, and the arithmetic that optimizers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fnn.tree import Tree

Array: TypeAlias = NDArray[Any]

State: TypeAlias = dict[str, Any]
"""Nested dicts of arrays and step counts, which you can pickle, compare and map as you can parameters."""


class Optimizer(NamedTuple):
    """`init(params) -> state` and `update(params, grads, state) -> (params, state)`, unpacked by `init, update = opt`.

    Both are pure: they change none of their arguments. Parameters keep their dtype and their order in memory. For
    float16 parameters the state is float32, and an update is computed in float32 and rounded once. Gradients must have
    the structure and shapes of the parameters; otherwise `update` raises a ValueError with the path. Do not swap
    parameters and gradients: they look alike, so no error can tell you.
    """

    init: Callable[[Tree], State]
    update: Callable[[Tree, Tree, State], tuple[Tree, State]]

    def __repr__(self) -> str:
        """The call that returned the optimizer, which is the name of its `update`; see `named_by_call`."""
        name = getattr(self.update, "__name__", "update")
        return "Optimizer(init, update)" if name == "update" else name


def axpy(scale: float) -> Callable[[Array, Array], Array]:
    """Returns the function `x + scale * y` of arrays of one shape; its result has the dtype and memory order of x."""

    def add(x: Array, y: Array) -> Array:
        if y.shape != x.shape:
            raise ValueError(f"expected shape {x.shape}, got {y.shape}")
        out = np.empty_like(x)
        np.multiply(y, scale, out)
        return np.add(x, out, out)

    return add


def lerp(weight: float) -> Callable[[Array, Array], Array]:
    """Returns the function `(1 - weight) * x + weight * y`; its result has the dtype and memory order of x."""

    def mix(x: Array, y: Array) -> Array:
        if y.shape != x.shape:
            raise ValueError(f"expected shape {x.shape}, got {y.shape}")
        out, term = np.empty_like(x), np.empty_like(x)
        np.multiply(x, 1 - weight, out)
        np.multiply(y, weight, term)
        return np.add(out, term, out)

    return mix
