"""Where a network meets a loss: the gradient of a batch, or of each example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fnn.checks.errors import describe, describe_value, is_constructor_of
from fnn.checks.values import MISSING
from fnn.kernels.underflow import allow_underflow
from fnn.losses import Loss, LossError
from fnn.op import Array, Op, OpError, Params, check_operator
from fnn.random import Rng, as_key
from fnn.tree import tree_leaves, tree_map


def value_and_grad(net: Op, loss: Loss = MISSING) -> Callable[..., tuple[tuple[Any, Array], Params]]:
    """The function `(params, x, y[, key]) -> ((value, out), grads)`.

    `value` is the loss of the network's output `out` for the batch `x` with targets `y`, and `grads` its gradient, a
    tree like `params`. Random operators such as dropout use the key. For a network that has one, a call without a key
    raises OpError; `key=None` trains without randomness.
    """
    _check_loss(net, loss)

    def step(params: Params, x: Array, y: Array, key: Rng | None) -> tuple[tuple[Any, Array], Params]:
        out, vjp = net.apply(params, x, key)
        result = loss(out, y)
        try:
            value, loss_vjp = result
        except (TypeError, ValueError):
            raise _result_error(loss, result) from None
        if not callable(loss_vjp):
            raise _result_error(loss, result)
        grads, _ = vjp(loss_vjp(), False)
        return (value, out), grads

    def of(params: Params, x: Array, y: Array, key: Rng | None = MISSING) -> tuple[tuple[Any, Array], Params]:
        if key is MISSING:
            check_needs_no_key(net)
            key = None
        return allow_underflow(step, params, x, y, key)

    return of


def check_needs_no_key(net: Op) -> None:
    """Raises OpError, with the path, if an operator in the network needs a key in training."""
    if net.needs_key:
        raise _key_error(*_find_random(net))


def _key_error(path: tuple[str, ...], kind: str) -> OpError:
    error = OpError("expected a key in training, got none; pass a key, or key=None to train without randomness", kind)
    error.path = path
    return error


def _find_random(op: Op, path: tuple[str, ...] = ()) -> tuple[tuple[str, ...], str]:
    """The path and the kind of the first operator in `op` that needs a key: of a part, or of `op` itself."""
    for name, part in op.parts.items():
        if part.needs_key:
            return _find_random(part, (*path, name) if name else path)
    return path, op.kind


def _check_loss(net: Op, loss: Loss) -> None:
    """Raises OpError or LossError for what is no net and no loss, and says how to fix it."""
    if isinstance(loss, Op) and not isinstance(net, Op):
        raise LossError("value_and_grad: expected (net, loss), got (loss, net); swap the arguments")
    check_operator(net, "value_and_grad")
    name = getattr(loss, "__name__", "")
    if is_constructor_of(loss, Loss, "Loss"):
        came, fix = f"the function {name}", f"; call it: {name}(...)"
    elif isinstance(loss, Op):
        came, fix = f"the operator {loss!r}", ""
    elif not callable(loss):
        came, fix = "none" if loss is MISSING else describe_value(loss), ""
    else:
        return
    raise LossError(f"value_and_grad: expected a loss such as cross_entropy, got {came}{fix}")


def _result_error(loss: Loss, result: Any) -> LossError:
    name = getattr(loss, "__name__", "loss")
    return LossError(f"{name}: expected to return (value, vjp), got {describe(result)}")


def per_example(net: Op, loss: Loss) -> Callable[..., tuple[tuple[Array, Array], Params]]:
    """The function `(params, x, y[, key]) -> ((values, outs), grads)`: `value_and_grad` for each example by itself.

    `values` are the examples' losses, `outs` the outputs, and `grads` is a tree like `params` whose arrays have the
    batch for a first axis; the mean over that is `value_and_grad`'s gradient. A batch of n costs what n batches of one
    do. Each example folds its number into the key. Raises OpError where a key is missing, as `value_and_grad` does, and
    LossError unless `y` has one target for each example of `x`, at least one. What is done with their norms: Abadi et
    al., "Deep learning with differential privacy", 2016.
    """
    one = value_and_grad(net, loss)

    def of(params: Params, x: Array, y: Array, key: Rng | None = MISSING) -> tuple[tuple[Array, Array], Params]:
        if key is MISSING:
            check_needs_no_key(net)
            key = None
        if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.shape[:1] == y.shape[:1] > (0,)):
            raise LossError(
                f"per_example: expected a target for each example, at least one, got {describe(y)} for {describe(x)}"
            )
        rng = None if key is None else as_key(key, "key")
        values, outs = [], []
        grads: Params = {}
        for i in range(len(x)):
            (value, out), own = one(params, x[i : i + 1], y[i : i + 1], rng and rng.fold(i))
            values.append(value)
            outs.append(out)
            grads = grads or tree_map(lambda g: np.empty((len(x), *g.shape), g.dtype), own)
            for each, g in zip(tree_leaves(grads), tree_leaves(own), strict=True):
                each[i] = g  # at once: to stack them in the end would be to hold them twice
        return (np.stack(values), np.concatenate(outs)), grads

    return of
