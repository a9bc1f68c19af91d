"""Losses: `value, vjp = loss(outputs, targets)`. The value is the mean over the batch, and `vjp()` its gradient.

The value is a scalar with the dtype of the outputs. All raise LossError for an empty batch, which has no mean, and for
targets of another shape or dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeAlias

import numpy as np

from fnn.checks.losses import LossError as LossError
from fnn.checks.losses import check_labels, check_probabilities, check_targets
from fnn.checks.values import MISSING, check_positive, check_real
from fnn.kernels.reductions import accurate_mean, allow_underflow, wide_mean, wide_sum
from fnn.op import Array
from fnn.tree import widen

MANY = 100  # from this number of classes, `cross_entropy` is faster without a transposed copy

LossVjp: TypeAlias = Callable[[], Array]
Loss: TypeAlias = Callable[[Array, Array], tuple[Any, LossVjp]]


def _loss(name: str, check: Callable[[str, Any, Any], tuple[Array, Array]]) -> Callable[[Loss], Loss]:
    """Decorates a formula: checks the arguments and gives the value the dtype of the outputs.

    float16 is computed in float32 and rounded once, because sums need its range. Results too small for a dtype are 0.
    """

    def decorate(formula: Loss) -> Loss:
        def run(outputs: Array, targets: Array) -> tuple[Any, LossVjp]:
            outputs, targets = check(name, outputs, targets)
            if outputs.dtype.itemsize == 2:
                value, vjp = formula(widen(outputs), widen(targets))
                return np.float16(value), partial(allow_underflow, lambda: vjp().astype(np.float16))
            value, vjp = formula(outputs, targets)
            return outputs.dtype.type(value), partial(allow_underflow, vjp)

        @wraps(formula)
        def loss(outputs: Array = MISSING, targets: Array = MISSING) -> tuple[Any, LossVjp]:
            return allow_underflow(run, outputs, targets)

        return loss

    return decorate


@_loss("cross_entropy", check_labels)
def cross_entropy(logits: Array, labels: Array) -> tuple[Any, LossVjp]:
    """The mean of -log softmax(logits)[label] over logits (batch, ..., classes) and integer labels (batch, ...)."""
    count, classes = labels.size, logits.shape[-1]
    flat, labels, example = logits.reshape(count, classes), labels.ravel(), np.arange(count)
    if classes < MANY:  # sums over classes then add long rows
        terms, axis, at_label = np.ascontiguousarray(flat.T), 0, labels * count + example
    else:
        terms, axis, at_label = np.ascontiguousarray(flat), 1, example * classes + labels
    shifted = terms - np.maximum.reduce(terms, axis, keepdims=True)
    e = np.exp(shifted)
    total = wide_sum(e, axis, True)  # in float64, because the logarithm of a number near 1 needs all its digits
    value = np.add.reduce(np.log(total).ravel() - shifted.take(at_label)) / count

    def vjp() -> Array:
        d: Array = e / total.astype(e.dtype)
        d.reshape(-1)[at_label] -= 1
        d /= count
        return (d.T if axis == 0 else d).reshape(logits.shape)

    return value, vjp


def smoothed_cross_entropy(smoothing: float) -> Loss:
    """Makes a `cross_entropy` with the targets smoothing / classes for every class, plus 1 - smoothing for the label.

    Raises LossError unless `smoothing` is from 0 to 1. Szegedy et al., "Rethinking the Inception Architecture for
    Computer Vision", 2016.
    """
    smoothing = check_real("smoothed_cross_entropy: smoothing", smoothing, at_least=0, at_most=1, error=LossError)
    if not smoothing:
        return cross_entropy  # below, a logit of -inf would give 0 times infinity

    @_loss("cross_entropy", check_labels)
    def loss(logits: Array, labels: Array) -> tuple[Any, LossVjp]:
        # Targets still add up to 1, so the loss changes by a linear term: the label's logit minus the mean logit.
        value, vjp = cross_entropy(logits, labels)
        count, classes = labels.size, logits.shape[-1]
        at_label = np.arange(count), labels.ravel()
        lead = logits.reshape(count, classes)[at_label] - accurate_mean(logits, -1).ravel()

        def smoothed_vjp() -> Array:
            d = vjp().reshape(count, classes)
            d -= smoothing / count / classes
            d[at_label] += smoothing / count
            return d.reshape(logits.shape)

        return value + smoothing * wide_mean(lead), smoothed_vjp

    return loss


@_loss("binary_cross_entropy", check_probabilities)
def binary_cross_entropy(logits: Array, targets: Array) -> tuple[Any, LossVjp]:
    """The mean of -t log p - (1 - t) log(1 - p) over all numbers, where p = sigmoid(logit) and targets t are 0 to 1."""
    e = np.exp(-np.abs(logits))
    # -log p = log1p(e) + max(-logit, 0). A weight of 0 times an infinite logit is 0.
    against, towards = (
        np.multiply(a, weight, where=weight > 0, out=np.zeros_like(a))
        for a, weight in ((np.maximum(logits, 0), 1 - targets), (np.maximum(-logits, 0), targets))
    )

    def vjp() -> Array:
        d: Array = np.where(logits >= 0, 1, e)
        d /= 1 + e
        d -= targets
        d /= d.size
        return d

    return wide_mean(np.log1p(e) + against + towards), vjp


@_loss("mse", check_targets)
def mse(predictions: Array, targets: Array) -> tuple[Any, LossVjp]:
    """The mean of (predictions - targets)² over all numbers of a batch of any shape."""
    error = predictions - targets
    return wide_mean(error, times=error), lambda: np.multiply(error, 2 / error.size)


def huber(delta: float = 1.0) -> Loss:
    """Makes the loss with the mean of error² / 2 for errors up to `delta`, and delta (|error| - delta / 2) beyond it.

    Takes the same targets as `mse`. Raises LossError unless `delta` is above 0. Huber, "Robust estimation of a location
    parameter", 1964.
    """
    delta = check_positive("huber: delta", delta, LossError)

    @_loss("huber", check_targets)
    def loss(predictions: Array, targets: Array) -> tuple[Any, LossVjp]:
        error = predictions - targets
        near = np.clip(error, -delta, delta)
        return wide_mean(near, times=error - near / 2), lambda: near / near.size

    return loss
