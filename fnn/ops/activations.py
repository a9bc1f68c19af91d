"""Activations: elementwise functions, each defined by one short rule."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import check_no_params
from fnn.checks.values import check_real
from fnn.kernels.sigmoids import keep, multiply_by_sigmoid, one_plus_exp
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


@elementwise
def sigmoid(x: Array) -> tuple[Array, Slope]:
    """Logistic function: 1 / (1 + exp(-x))."""
    y = 1 / one_plus_exp(x)
    return y, lambda: y * (1 - y)


@elementwise
def silu(x: Array) -> tuple[Array, Slope]:
    """Swish: x * sigmoid(x). Elfwing, Uchibe & Doya, 2018."""
    return multiply_by_sigmoid(x, 1000, lambda u: u, None)


@elementwise
def gelu(x: Array) -> tuple[Array, Slope]:
    """Tanh form of GELU: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2. Hendrycks & Gimpel, 2016."""
    scale, cubic = 2 * GELU_SCALE, 2 * GELU_SCALE * GELU_CUBIC  # (1 + tanh(v)) / 2 is sigmoid(2 * v)
    return multiply_by_sigmoid(x, 30, lambda u: u * (scale + cubic * u * u), lambda u: scale + 3 * cubic * u * u)


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
