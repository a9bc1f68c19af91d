"""Activations: elementwise functions, each a rule of one or two lines, and the two that work along the last axis."""

from collections.abc import Callable

import numpy as np

from fnn.op import Array, Op, Params, Vjp


def elementwise(kind: str, rule: Callable[[Array], tuple[Array, Callable[[], Array]]]) -> Op:
    """The operator of a function of one number. `rule(x)` is `(y, slope)`; `slope()` is dy/dx, a new array.

    What `slope` needs stays in memory until the vjp is dropped: best is a rule that needs `y` alone.
    """

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        y, slope = rule(x)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
            dx = slope()
            dx *= dy
            return {}, dx

        return y, vjp

    return Op(lambda key, shape: {}, apply, kind=kind)


def _tanh(x: Array) -> tuple[Array, Callable[[], Array]]:
    y = np.tanh(x)
    return y, lambda: 1 - y * y


def _relu(x: Array) -> tuple[Array, Callable[[], Array]]:
    y = np.maximum(x, 0)
    return y, lambda: (y > 0).astype(y.dtype)


def _sigmoid(x: Array) -> tuple[Array, Callable[[], Array]]:
    with np.errstate(over="ignore"):  # where exp(-x) is infinite, its reciprocal is the zero that is wanted
        y = np.exp(-x)
    y += 1
    np.reciprocal(y, out=y)
    return y, lambda: y * (1 - y)


tanh = elementwise("tanh", _tanh)
relu = elementwise("relu", _relu)
sigmoid = elementwise("sigmoid", _sigmoid)


def _softmax(params: Params, x: Array) -> tuple[Array, Vjp]:
    y = np.exp(x - x.max(-1, keepdims=True, initial=-np.inf))
    y /= y.sum(-1, keepdims=True)

    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
        dx = y * dy
        dx -= y * dx.sum(-1, keepdims=True)
        return {}, dx

    return y, vjp


def _log_softmax(params: Params, x: Array) -> tuple[Array, Vjp]:
    y = x - x.max(-1, keepdims=True, initial=-np.inf)
    y -= np.log(np.exp(y).sum(-1, keepdims=True))

    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
        return {}, dy - np.exp(y) * dy.sum(-1, keepdims=True)

    return y, vjp


softmax = Op(lambda key, shape: {}, _softmax, kind="softmax")
log_softmax = Op(lambda key, shape: {}, _log_softmax, kind="log_softmax")
