"""The arithmetic that optimizers share. Results have the dtype and memory order of the first argument."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fnn.checks.arrays import Array as Array


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
    add = axpy(weight)
    return lambda x, y: add(x * (1 - weight), y)
