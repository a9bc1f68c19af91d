"""Losses: `value, vjp = loss(outputs, targets)`, the mean over the batch; `vjp()` is the cotangent of the outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeAlias

import numpy as np
from numpy import ndarray

from fnn.checks.arrays import FLOATS, INTEGERS, array_fault
from fnn.checks.errors import describe
from fnn.checks.values import MISSING, check_positive, check_real
from fnn.kernels.reductions import accurate_mean, wide_dot, wide_mean
from fnn.kernels.underflow import allow_underflow
from fnn.op import Array

LossVjp: TypeAlias = Callable[[], Array]
Loss: TypeAlias = Callable[[Array, Array], tuple[Any, LossVjp]]


class LossError(ValueError):
    """Bad input to a loss: says what came and what was wanted."""


def _quiet(loss: Loss) -> Loss:
    """The loss without floating-point errors for numbers too small for their dtype: they become zero."""

    @wraps(loss)
    def quiet(outputs: Array = MISSING, targets: Array = MISSING) -> tuple[Any, LossVjp]:
        value, vjp = allow_underflow(loss, outputs, targets)
        return value, partial(allow_underflow, vjp)

    return quiet


@_quiet
def cross_entropy(logits: Array = MISSING, labels: Array = MISSING) -> tuple[Any, LossVjp]:
    """The mean of -log softmax(logits)[label] over logits (batch, ..., classes) and integer labels (batch, ...).

    The value is a scalar of the logits' dtype. Raises LossError for labels that are not integers from 0 to classes - 1,
    for another number of labels than logits, and for an empty batch, which has no mean.
    """
    logits, labels = _check_labels("cross_entropy", logits, labels)
    count, classes = labels.size, logits.shape[-1]
    flat = labels.ravel().astype(np.intp)
    if np.maximum.reduce(flat.view(np.uintp)) >= classes:  # unsigned, a negative label is a large one
        wrong = flat[(flat < 0) | (flat >= classes)][0]
        raise LossError(f"cross_entropy: label {wrong} came with {classes} classes, wanted 0 to {classes - 1}")
    columns = np.ascontiguousarray(_widen(logits).reshape(count, classes).T)  # sums over classes then add long rows
    at_label = flat * count + np.arange(count)  # in the memory of (classes, batch)
    h = columns - np.maximum.reduce(columns, 0)
    e = np.exp(h)
    total = np.add.reduce(e, 0, float)  # in float64, as the logarithm of a number near 1 needs all its digits
    value = logits.dtype.type(np.add.reduce(np.log(total) - h.take(at_label)) / count)

    def vjp() -> Array:
        d: Array = e / total.astype(e.dtype)
        d.reshape(-1)[at_label] -= 1
        d /= count
        return d.T.reshape(logits.shape).astype(logits.dtype, copy=False)

    return value, vjp


def smoothed_cross_entropy(smoothing: float) -> Loss:
    """Makes a `cross_entropy` whose target is 1 - `smoothing` for the label plus smoothing / classes for every class.

    Raises LossError unless `smoothing` is from 0 to 1. Szegedy et al., "Rethinking the Inception Architecture for
    Computer Vision", 2016.
    """
    smoothing = check_real("smoothed_cross_entropy: smoothing", smoothing, at_least=0, at_most=1, error=LossError)
    if not smoothing:
        return cross_entropy  # below, a logit of -inf would give 0 times infinity

    # The targets add up to 1 as before. So only a linear term is added: the label's logit minus the mean logit.
    @_quiet
    def loss(logits: Array, labels: Array) -> tuple[Any, LossVjp]:
        logits, labels = _check_labels("cross_entropy", logits, labels)
        value, vjp = cross_entropy(_widen(logits), labels)
        at, share = labels[..., None], smoothing / labels.size
        lead = np.take_along_axis(_widen(logits), at, -1) - accurate_mean(_widen(logits), -1, True)

        def smoothed_vjp() -> Array:
            d = vjp()
            d -= share / logits.shape[-1]
            np.put_along_axis(d, at, np.take_along_axis(d, at, -1) + share, -1)
            return d.astype(logits.dtype, copy=False)

        return logits.dtype.type(value + smoothing * wide_mean(lead)), smoothed_vjp

    return loss


@_quiet
def binary_cross_entropy(logits: Array = MISSING, targets: Array = MISSING) -> tuple[Any, LossVjp]:
    """The mean of -t log p - (1 - t) log(1 - p) over all numbers, where p = sigmoid(logit) and targets t are 0 to 1.

    The value is a scalar of the logits' dtype. Raises LossError for targets of another shape or dtype or not from 0 to
    1, and for an empty batch.
    """
    logits, targets = _check_alike("binary_cross_entropy", logits, targets)
    if not np.all((targets >= 0) & (targets <= 1)):
        raise LossError(f"binary_cross_entropy: targets from {targets.min()} to {targets.max()}, wanted 0 to 1")
    x, t = _widen(logits), _widen(targets)
    e = np.exp(-np.abs(x))
    # -log p = log1p(e) + max(-x, 0). A weight of 0 times an infinite logit is 0.
    against, towards = (
        np.multiply(a, weight, where=weight > 0, out=np.zeros_like(a))
        for a, weight in ((np.maximum(x, 0), 1 - t), (np.maximum(-x, 0), t))
    )
    value = logits.dtype.type(wide_mean(np.log1p(e) + against + towards))

    def vjp() -> Array:
        d: Array = np.where(x >= 0, 1, e)
        d /= 1 + e
        d -= t
        d /= d.size
        return d.astype(logits.dtype, copy=False)

    return value, vjp


@_quiet
def mse(predictions: Array = MISSING, targets: Array = MISSING) -> tuple[Any, LossVjp]:
    """The mean of (predictions - targets)² over all numbers of a batch of any shape.

    The value is a scalar of the predictions' dtype. Raises LossError for targets of another shape or dtype, and for an
    empty batch.
    """
    predictions, targets = _check_alike("mse", predictions, targets)
    error = _widen(predictions) - _widen(targets)
    value = predictions.dtype.type(wide_dot(error, error) / error.size)
    return value, lambda: np.multiply(error, 2 / error.size).astype(predictions.dtype, copy=False)


def huber(delta: float = 1.0) -> Loss:
    """Makes the loss that is error² / 2 up to an error of `delta`, and delta (|error| - delta / 2) beyond: their mean.

    Targets are as those of `mse`. Raises LossError unless `delta` is greater than 0. Huber, "Robust estimation
    of a location parameter", 1964.
    """
    delta = check_positive("huber: delta", delta, LossError)

    @_quiet
    def loss(predictions: Array, targets: Array) -> tuple[Any, LossVjp]:
        predictions, targets = _check_alike("huber", predictions, targets)
        error = _widen(predictions) - _widen(targets)
        near = np.clip(error, -delta, delta)
        value = predictions.dtype.type(wide_dot(near, error - near / 2) / near.size)
        return value, lambda: (near / near.size).astype(predictions.dtype, copy=False)

    return loss


def _widen(x: Array) -> Array:
    """float16 as float32: a loss is a sum of many numbers, which float16 cannot hold."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _check_alike(loss: str, outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Both as plain ndarrays. Raises LossError unless they are floats of one shape and dtype, at least one number."""
    if (
        type(outputs) is ndarray
        and type(targets) is ndarray
        and outputs.dtype in FLOATS
        and outputs.size
        and targets.shape == outputs.shape
        and targets.dtype == outputs.dtype
    ):
        return outputs, targets
    outputs = _check_outputs(loss, outputs, targets)
    if isinstance(targets, ndarray) and targets.dtype != outputs.dtype and targets.dtype.kind in "fiub":
        fix = f"use targets.astype(np.{outputs.dtype})"
        raise LossError(f"{loss}: targets: expected {outputs.dtype} as the outputs are, got {describe(targets)}; {fix}")
    return outputs, _check_targets(loss, "targets", targets, outputs.shape)


def _check_labels(loss: str, logits: Array, labels: Array) -> tuple[Array, Array]:
    """Both as plain ndarrays. Raises LossError unless they are floats (batch, ..., classes), integers (batch, ...)."""
    if (
        type(logits) is ndarray
        and type(labels) is ndarray
        and logits.dtype in FLOATS
        and logits.size
        and logits.ndim > 1
        and labels.shape == logits.shape[:-1]
        and labels.dtype in INTEGERS
    ):
        return logits, labels
    if isinstance(logits, ndarray) and isinstance(labels, ndarray) and logits.dtype.kind in "iu" and labels.ndim > 1:
        raise LossError(f"{loss}: expected (logits, labels), got {describe(logits)} first; swap the arguments")
    logits = _check_outputs(loss, logits, labels)
    if logits.ndim < 2:
        raise LossError(f"{loss}: outputs: expected shape (batch, ..., classes), got {logits.shape}")
    if isinstance(labels, ndarray) and labels.shape == logits.shape:
        fix = "of one-hot rows use labels.argmax(-1)"
        raise LossError(f"{loss}: labels: expected shape {logits.shape[:-1]}, got {labels.shape}; {fix}")
    return logits, _check_targets(loss, "labels", labels, logits.shape[:-1], integers=True)


def _check_outputs(loss: str, outputs: Array, targets: Array) -> Array:
    if outputs is MISSING or targets is MISSING:
        raise LossError(f"{loss}: expected outputs and targets, got a call without; {loss} itself is the loss")
    if fault := array_fault("outputs", outputs):
        raise LossError(f"{loss}: outputs: {fault}")
    if not outputs.size:
        raise LossError(f"{loss}: outputs: expected at least one example, got {describe(outputs)}")
    return np.asarray(outputs)


def _check_targets(loss: str, name: str, targets: Array, shape: tuple[int, ...], integers: bool = False) -> Array:
    if fault := array_fault(name, targets, integers):
        raise LossError(f"{loss}: {name}: {fault}")
    if targets.shape != shape:
        fixes = {(*targets.shape, 1): f"; use {name}[..., None]", targets.shape[:-1]: f"; use {name}[..., 0]"}
        fix = fixes.get(shape, "") if 1 in (shape[-1:] + targets.shape[-1:]) else ""
        raise LossError(f"{loss}: {name}: expected shape {shape}, got {targets.shape}{fix}")
    return np.asarray(targets)
