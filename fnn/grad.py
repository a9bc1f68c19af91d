"""The one place where a network meets a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fnn.kernels.underflow import allow_underflow
from fnn.losses import Loss
from fnn.op import Array, Op, Params
from fnn.random import Rng


def value_and_grad(net: Op, loss: Loss) -> Callable[..., tuple[tuple[Any, Array], Params]]:
    """The function `(params, x, y, key=None) -> ((value, out), grads)`.

    `value` is the loss of the network's output `out` for the batch `x` with targets `y`, and `grads` its gradient, a
    tree like `params`. With a key, what draws in the network draws.
    """

    def step(params: Params, x: Array, y: Array, key: Rng | None) -> tuple[tuple[Any, Array], Params]:
        out, vjp = net.apply(params, x, key)
        value, loss_vjp = loss(out, y)
        grads, _ = vjp(loss_vjp(), False)
        return (value, out), grads

    def of(params: Params, x: Array, y: Array, key: Rng | None = None) -> tuple[tuple[Any, Array], Params]:
        return allow_underflow(step, params, x, y, key)

    return of
