"""Where a network meets a loss: the gradient of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fnn.checks.errors import describe
from fnn.checks.losses import check_arguments, check_needs_no_key
from fnn.checks.results import warn_uncalibrated
from fnn.checks.values import MISSING
from fnn.kernels.numerics import allow_underflow
from fnn.losses import Loss, LossError
from fnn.op import Array, Op, Params
from fnn.random import Rng


def value_and_grad(net: Op, loss: Loss = MISSING) -> Callable[..., tuple[tuple[Any, Array], Params]]:
    """Returns the function `(params, x, y[, key]) -> ((value, out), grads)`.

    `value` is the loss of the network's output `out` for the batch `x` with targets `y`. `grads` is its gradient, a
    tree like `params`. Random operators such as dropout use the key. If the network has one, a call without a key
    raises OpError; `key=None` trains without randomness.
    """
    check_arguments(net, loss, Op)

    def step(params: Params, x: Array, y: Array, key: Rng | None) -> tuple[tuple[Any, Array], Params]:
        out, vjp = net.apply(params, x, key)
        result = loss(out, y)
        if not isinstance(result, tuple) or len(result) != 2 or not callable(result[1]):
            name = getattr(loss, "__name__", "loss")
            raise LossError(f"{name}: expected to return (value, vjp), got {describe(result)}")
        value, loss_vjp = result
        grads, _ = vjp(loss_vjp(), False)
        return (value, out), grads

    def gradient(params: Params, x: Array, y: Array, key: Rng | None = MISSING) -> tuple[tuple[Any, Array], Params]:
        if key is MISSING:
            check_needs_no_key(net)
            key = None
        result = allow_underflow(step, params, x, y, key)
        if key is None:
            warn_uncalibrated(net, params, x)
        return result

    return gradient
