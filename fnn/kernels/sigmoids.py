"""The logistic function, sigmoid(x) = 1 / (1 + exp(-x)), and products with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fnn.checks.arrays import Array
from fnn.kernels.masks import keep as keep  # for `relu`

MODERATE = 1e20  # the largest sum of squares of numbers that are far from overflow


def one_plus_exp(x: Array) -> Array:
    """1 + exp(-x): the reciprocal of the logistic function. It may be infinity, and the function then 0."""
    d = np.negative(x)
    with np.errstate(over="ignore"):
        np.exp(d, out=d)
    d += 1
    return d


def multiply_by_sigmoid(
    x: Array, limit: float, v: Callable[[Array], Array], v_slope: Callable[[Array], Array] | None
) -> tuple[Array, Callable[[], Array]]:
    """Returns x * sigmoid(v(x)) and a function that returns its derivative, a new array.

    `v_slope` is the derivative of v, or None if it is 1. Beyond `limit` and its negative, the sigmoid is 1 and 0.
    """
    flat = np.ravel(x, "K")
    if np.vdot(flat, flat) < MODERATE:
        u = low = x
    else:  # infinity times 0 would be nan
        u, low = np.clip(x, -limit, limit), np.clip(x, -limit, np.inf)
    d = one_plus_exp(v(u))

    def slope() -> Array:
        t = u / d
        np.subtract(u, t, out=t)  # u * (1 - sigmoid)
        if v_slope:
            t *= v_slope(u)
        t += 1
        t /= d
        return t

    return low / d, slope
