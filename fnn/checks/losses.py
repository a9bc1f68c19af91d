"""Checks of outputs and targets of a loss. Each returns both as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from fnn.checks.arrays import FLOATS, INTEGERS, Array, array_fault
from fnn.checks.errors import OpError, describe, describe_uncalled, describe_value
from fnn.checks.results import operator_error
from fnn.checks.values import MISSING


class LossError(ValueError):
    """Bad input to a loss. The message has the name of the loss, `expected ...` and `got ...`."""


def check_targets(loss: str, outputs: Any, targets: Any) -> tuple[Array, Array]:
    """Raises LossError unless both are floats of one shape and dtype, with at least one number."""
    plain = type(outputs) is type(targets) is ndarray and outputs.dtype in FLOATS and outputs.size
    if plain and targets.shape == outputs.shape and targets.dtype == outputs.dtype:
        return outputs, targets
    outputs = _check_outputs(loss, outputs, targets)
    if isinstance(targets, ndarray) and targets.dtype != outputs.dtype and targets.dtype.kind in "fiub":
        fix = f"use targets.astype(np.{outputs.dtype})"
        raise LossError(f"{loss}: targets: expected {outputs.dtype} as the outputs are, got {describe(targets)}; {fix}")
    return outputs, _check_array(loss, "targets", targets, outputs.shape)


def check_probabilities(loss: str, outputs: Any, targets: Any) -> tuple[Array, Array]:
    """`check_targets`, which also raises LossError unless all targets are from 0 to 1."""
    outputs, targets = check_targets(loss, outputs, targets)
    if not np.all((targets >= 0) & (targets <= 1)):
        raise LossError(f"{loss}: targets: expected numbers from 0 to 1, got {targets.min()} to {targets.max()}")
    return outputs, targets


def check_labels(loss: str, logits: Any, labels: Any) -> tuple[Array, Array]:
    """Raises LossError unless logits are floats (batch, ..., classes) and labels (batch, ...) 0 to classes - 1.

    Labels become integers that can index an array.
    """
    plain = type(logits) is type(labels) is ndarray and logits.dtype in FLOATS and logits.size and logits.ndim > 1
    if not (plain and labels.shape == logits.shape[:-1] and labels.dtype in INTEGERS):
        logits, labels = _check_label_arrays(loss, logits, labels)
    indices, classes = labels.astype(np.intp, copy=False), logits.shape[-1]
    if np.maximum.reduce(indices.view(np.uintp), None) >= classes:  # as an unsigned integer, a negative label is large
        wrong = labels[(indices < 0) | (indices >= classes)][0]
        raise LossError(f"{loss}: labels: expected integers from 0 to {classes - 1}, got {wrong}")
    return logits, indices


def _check_label_arrays(loss: str, logits: Any, labels: Any) -> tuple[Array, Array]:
    if isinstance(logits, ndarray) and isinstance(labels, ndarray) and logits.dtype.kind in "iu" and labels.ndim > 1:
        raise LossError(f"{loss}: expected (logits, labels), got {describe(logits)} first; swap the arguments")
    logits = _check_outputs(loss, logits, labels)
    if logits.ndim < 2:
        raise LossError(f"{loss}: outputs: expected shape (batch, ..., classes), got {logits.shape}")
    if isinstance(labels, ndarray) and labels.shape == logits.shape:
        fix = "of one-hot rows use labels.argmax(-1)"
        raise LossError(f"{loss}: labels: expected shape {logits.shape[:-1]}, got {labels.shape}; {fix}")
    return logits, _check_array(loss, "labels", labels, logits.shape[:-1], integers=True)


def _check_outputs(loss: str, outputs: Any, targets: Any) -> Array:
    if outputs is MISSING or targets is MISSING:
        raise LossError(f"{loss}: expected outputs and targets, got a call without; {loss} itself is the loss")
    if fault := array_fault("outputs", outputs):
        raise LossError(f"{loss}: outputs: {fault}")
    if not outputs.size:
        raise LossError(f"{loss}: outputs: expected at least one example, got {describe(outputs)}")
    return np.asarray(outputs)


def _check_array(loss: str, name: str, targets: Any, shape: tuple[int, ...], integers: bool = False) -> Array:
    if fault := array_fault(name, targets, integers):
        raise LossError(f"{loss}: {name}: {fault}")
    if targets.shape != shape:
        fixes = {(*targets.shape, 1): f"; use {name}[..., None]", targets.shape[:-1]: f"; use {name}[..., 0]"}
        fix = fixes.get(shape, "") if 1 in (shape[-1:] + targets.shape[-1:]) else ""
        raise LossError(f"{loss}: {name}: expected shape {shape}, got {targets.shape}{fix}")
    return np.asarray(targets)


def check_arguments(net: Any, loss: Any, op_type: type) -> None:
    """Raises OpError or LossError, with a fix, unless the arguments of `value_and_grad` are a network and a loss."""
    if isinstance(loss, op_type) and not isinstance(net, op_type):
        raise LossError("value_and_grad: expected (net, loss), got (loss, net); swap the arguments")
    if not isinstance(net, op_type):
        raise operator_error(net, "value_and_grad", op_type)
    got = describe_uncalled(loss, "Loss")
    if isinstance(loss, op_type):
        got = f"the operator {loss!r}"
    elif not callable(loss):
        got = "none" if loss is MISSING else describe_value(loss)
    if got:
        raise LossError(f"value_and_grad: expected a loss such as cross_entropy, got {got}")


def check_needs_no_key(net: Any, path: tuple[str, ...] = ()) -> None:
    """Raises OpError, with the path, for the first operator in the network that needs a key in training."""
    if net.needs_key:
        for names, part in net.inside():
            check_needs_no_key(part, (*path, *names))
        fix = "pass a key, or key=None to train without randomness"
        error = OpError(f"expected a key in training, got none; {fix}", net.kind)
        error.path = path
        raise error
