"""Where a network meets a loss: gradients of a batch, or of each of its examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fnn.checks.errors import describe, describe_value, is_constructor_of
from fnn.checks.results import warn_uncalibrated
from fnn.checks.values import MISSING
from fnn.kernels.numerics import allow_underflow
from fnn.losses import Loss, LossError
from fnn.op import Array, Op, OpError, Params, check_operator
from fnn.random import Rng, as_key
from fnn.tree import tree_leaves, tree_map


def value_and_grad(net: Op, loss: Loss = MISSING) -> Callable[..., tuple[tuple[Any, Array], Params]]:
    """Returns the function `(params, x, y[, key]) -> ((value, out), grads)`.

    `value` is the loss of the network's output `out` for the batch `x` with targets `y`. `grads` is its gradient, a
    tree like `params`. Random operators such as dropout use the key. If the network has one, a call without a key
    raises OpError; `key=None` trains without randomness.
    """
    _check_loss(net, loss)

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
            _check_needs_no_key(net)
            key = None
        result = allow_underflow(step, params, x, y, key)
        warn_uncalibrated(net, params, x, key)
        return result

    return gradient


def per_example(net: Op, loss: Loss) -> Callable[..., tuple[tuple[Array, Array], Params]]:
    """Returns the function `(params, x, y[, key]) -> ((values, outs), grads)`: `value_and_grad` for each example.

    `values` are the losses of the examples, `outs` the outputs. `grads` is a tree like `params`; its arrays have the
    batch as first axis, and the mean over that axis is the gradient of `value_and_grad`. A batch of n takes as long as
    n batches of one. Each example folds its number into the key. Raises OpError if a key is missing, and LossError
    unless there is a target for each example, at least one. A use: Abadi et al., "Deep learning with differential
    privacy", 2016.
    """
    gradient = value_and_grad(net, loss)

    def gradients(params: Params, x: Array, y: Array, key: Rng | None = MISSING) -> tuple[tuple[Array, Array], Params]:
        if key is MISSING:
            _check_needs_no_key(net)
            key = None
        if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.shape[:1] == y.shape[:1] > (0,)):
            came = f"{describe(y)} for {describe(x)}"
            raise LossError(f"per_example: expected a target for each example, at least one, got {came}")
        rng = None if key is None else as_key(key, "key")
        values, outs = [], []
        grads: Params = {}
        for i in range(len(x)):
            (value, out), own = gradient(params, x[i : i + 1], y[i : i + 1], rng and rng.fold(i))
            values.append(value)
            outs.append(out)
            grads = grads or tree_map(lambda g: np.empty((len(x), *g.shape), g.dtype), own)
            for whole, g in zip(tree_leaves(grads), tree_leaves(own), strict=True):
                whole[i] = g
        return (np.stack(values), np.concatenate(outs)), grads

    return gradients


def _check_needs_no_key(net: Op, path: tuple[str, ...] = ()) -> None:
    """Raises OpError, with the path, for the first operator in the network that needs a key in training."""
    if net.needs_key:
        for names, part in net.inside():
            _check_needs_no_key(part, (*path, *names))
        error = OpError(
            "expected a key in training, got none; pass a key, or key=None to train without randomness", net.kind
        )
        error.path = path
        raise error


def _check_loss(net: Op, loss: Loss) -> None:
    """Raises OpError or LossError, with a fix, unless the arguments are a network and a loss."""
    if isinstance(loss, Op) and not isinstance(net, Op):
        raise LossError("value_and_grad: expected (net, loss), got (loss, net); swap the arguments")
    check_operator(net, "value_and_grad")
    name = getattr(loss, "__name__", "")
    if is_constructor_of(loss, Loss, "Loss"):
        came = f"the function {name}; call it: {name}(...)"
    elif isinstance(loss, Op):
        came = f"the operator {loss!r}"
    elif not callable(loss):
        came = "none" if loss is MISSING else describe_value(loss)
    else:
        return
    raise LossError(f"value_and_grad: expected a loss such as cross_entropy, got {came}")
