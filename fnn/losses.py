"""Losses: `value, vjp = loss(outputs, targets)`, the mean over the batch; `vjp()` is the cotangent of the outputs."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from fnn.op import Array, told

LossVjp: TypeAlias = Callable[[], Array]
Loss: TypeAlias = Callable[[Array, Array], tuple[Any, LossVjp]]


class LossError(ValueError):
    """Bad input to a loss: says what came and what was wanted."""


def cross_entropy(logits: Array, labels: Array) -> tuple[Any, LossVjp]:
    """-log softmax(logits)[label], from logits (batch, classes) and integer labels (batch,) of 0 up to classes - 1.

    The value is a scalar of the logits' dtype. Raises LossError for labels that are no integers, not in that range or
    not as many as the logits, and for an empty batch, which has no mean.
    """
    _check("cross_entropy", logits, labels, 2, 1)
    if labels.dtype.kind not in "iu":
        raise LossError(f"cross_entropy: labels are {told(labels)}, wanted integers")
    batch, classes = logits.shape
    hot = labels == np.arange(classes)[:, None]  # (classes, batch), the memory order of a batch of features
    if np.count_nonzero(hot) != batch:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise LossError(f"cross_entropy: label {wrong} came with {classes} classes, wanted 0 to {classes - 1}")
    h = logits.T - logits.max(1)
    e = np.exp(h)
    total = e.sum(0)
    value: Any = (np.log(total).sum() - h.sum(where=hot)) / batch

    def vjp() -> Array:
        d: Array = e / total
        d -= hot
        d /= batch
        return d.T

    return value, vjp


def mse(predictions: Array, targets: Array) -> tuple[Any, LossVjp]:
    """The mean of (predictions - targets)², over all numbers of a batch of any shape.

    The value is a scalar of the predictions' dtype. Raises LossError for targets of another shape or dtype, and for an
    empty batch.
    """
    _check("mse", predictions, targets)
    if targets.dtype != predictions.dtype:
        raise LossError(f"mse: targets are {told(targets)}, wanted the predictions' {told(predictions)}")
    error = predictions - targets
    value: Any = (error * error).mean()
    return value, lambda: np.multiply(error, 2 / error.size)


def _check(loss: str, outputs: Array, targets: Array, ndim: int | None = None, shared: int | None = None) -> None:
    """Refuses what no loss is defined for: outputs of `ndim` axes, of which targets share the first ones, or all."""
    for name, array in (("outputs", outputs), ("targets", targets)):
        if not isinstance(array, np.ndarray):
            raise LossError(f"{loss}: {name} are {told(array)}, wanted an array")
    if ndim not in (None, outputs.ndim) or outputs.dtype.kind != "f" or not outputs.size:
        axes = f" of {ndim} axes" if ndim else ""
        raise LossError(f"{loss}: outputs are {told(outputs)}, wanted floats{axes}, at least one example")
    shape = outputs.shape[:shared]
    if targets.shape != shape:
        raise LossError(f"{loss}: targets are {told(targets)}, wanted the shape {shape} by outputs {told(outputs)}")
