"""Activations: elementwise functions, each defined by one short rule."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import check_no_params
from fnn.checks.values import check_real
from fnn.kernels.masks import keep
from fnn.kernels.reductions import are_moderate
from fnn.op import Array, Op, OpError, Params, Vjp, operator

Slope: TypeAlias = Callable[[], Array]
GELU_SCALE, GELU_CUBIC = sqrt(2 / pi), 0.044715


def elementwise(rule: Callable[[Array], tuple[Array, Slope]]) -> Op:
    """The operator of a function of one number. `rule(x)` returns `(y, slope)`; `slope()` is dy/dx, a new array.

    The operator has the name and the docstring of the rule. What `slope` uses stays in memory until the vjp is dropped,
    so a rule that uses only `y` is best.
    """

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        check_no_params(params)
        y, slope = rule(x)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
            dx = slope()
            dx *= dy
            return {}, dx

        return y, vjp

    return Op(lambda key, shape: {}, apply, kind=rule.__name__, doc=rule.__doc__)


@elementwise
def tanh(x: Array) -> tuple[Array, Slope]:
    """Hyperbolic tangent."""
    y = np.tanh(x)
    return y, lambda: 1 - y * y


def _one_plus_exp(x: Array) -> Array:
    """1 + exp(-x): the reciprocal of the logistic function. It may be infinity, and the function then 0."""
    d = np.negative(x)
    with np.errstate(over="ignore"):
        np.exp(d, out=d)
    d += 1
    return d


@elementwise
def sigmoid(x: Array) -> tuple[Array, Slope]:
    """Logistic function: 1 / (1 + exp(-x))."""
    y = 1 / _one_plus_exp(x)
    return y, lambda: y * (1 - y)


def _gate(
    x: Array, limit: float, v: Callable[[Array], Array], v_slope: Callable[[Array], Array] | None
) -> tuple[Array, Slope]:
    """The rule x * sigmoid(v(x)). `v_slope` is the derivative of v, or None if it is 1."""
    if are_moderate(x):
        u = low = x
    else:  # beyond the limits the sigmoid is 0 or 1, and infinity times 0 would be nan
        u, low = np.clip(x, -limit, limit), np.clip(x, -limit, np.inf)
    d = _one_plus_exp(v(u))

    def slope() -> Array:
        t = u / d
        np.subtract(u, t, out=t)  # u * (1 - sigmoid)
        if v_slope:
            t *= v_slope(u)
        t += 1
        t /= d
        return t

    return low / d, slope


@elementwise
def silu(x: Array) -> tuple[Array, Slope]:
    """Swish: x * sigmoid(x). Elfwing, Uchibe & Doya, 2018."""
    return _gate(x, 1000, lambda u: u, None)


@elementwise
def gelu(x: Array) -> tuple[Array, Slope]:
    """Tanh form of GELU: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2. Hendrycks & Gimpel, 2016."""
    scale, cubic = 2 * GELU_SCALE, 2 * GELU_SCALE * GELU_CUBIC  # (1 + tanh(v)) / 2 is sigmoid(2 * v)
    return _gate(x, 30, lambda u: u * (scale + cubic * u * u), lambda u: scale + 3 * cubic * u * u)


@elementwise
def softplus(x: Array) -> tuple[Array, Slope]:
    """Softplus: log(1 + exp(x))."""
    y = np.maximum(x, 0)
    y += np.log1p(np.exp(-np.abs(x)))
    return y, lambda: -np.expm1(-y)


def _relu(params: Params, x: Array) -> tuple[Array, Vjp]:
    check_no_params(params)
    y = np.clip(x, 0, np.inf)  # a third of the time of np.maximum(x, 0), for which NumPy has no vector loop
    return y, lambda dy, need_dx=True: ({}, keep(dy, y > 0))


relu = Op(lambda key, shape: {}, _relu, kind="relu", doc="max(x, 0). The slope at 0 is 0. Nair & Hinton, 2010.")


@operator
def leaky_relu(slope: float = 0.01) -> Op:
    """Leaky rectifier: x if x > 0, otherwise `slope` * x. Maas, Hannun & Ng, 2013."""
    slope = check_real("slope", slope, OpError)

    def rule(x: Array) -> tuple[Array, Slope]:
        factor = np.where(x > 0, 1, slope).astype(x.dtype)
        return x * factor, factor.copy

    return elementwise(rule)


@operator
def elu(alpha: float = 1.0) -> Op:
    """Exponential linear unit: x if x > 0, otherwise `alpha` * (exp(x) - 1). Clevert et al., 2016."""
    alpha = check_real("alpha", alpha, OpError)

    def rule(x: Array) -> tuple[Array, Slope]:
        low = np.minimum(x, 0)
        return np.maximum(x, 0) + alpha * np.expm1(low), lambda: np.where(x > 0, 1, alpha * np.exp(low))

    return elementwise(rule)
