"""Softmax and its logarithm, along the last axis."""

from __future__ import annotations

import numpy as np

from fnn.checks.arrays import check_no_params, input_error
from fnn.kernels.reductions import accurate_sum, exp_rows, wide_sum
from fnn.op import Array, Op, OpError, Params, Vjp


def _softmax(params: Params, x: Array) -> tuple[Array, Vjp]:
    """exp(x) divided by its sum along the last axis of (batch, ..., classes)."""
    _check_classes(params, x)
    y = exp_rows(x)
    y /= accurate_sum(y, -1, True)

    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
        dx = dy - wide_sum(dy, -1, True, times=y).astype(dy.dtype)
        dx *= y
        return {}, dx

    return y, vjp


def _log_softmax(params: Params, x: Array) -> tuple[Array, Vjp]:
    """The logarithm of `softmax`, exact even if the softmax itself rounds to 0."""
    _check_classes(params, x)
    y = x - x.max(-1, keepdims=True)
    e = np.exp(y)
    total = wide_sum(e, -1, True)
    y -= np.log(total).astype(y.dtype)

    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
        return {}, dy - e * (wide_sum(dy, -1, True) / total).astype(e.dtype)

    return y, vjp


def _check_classes(params: Params, x: Array) -> None:
    check_no_params(params)
    if x.ndim < 2:
        raise input_error(x, None, {"...": None, "classes": None})
    if not x.shape[-1]:
        raise OpError(f"expected at least one class, got {x.shape}")


softmax = Op(lambda key, shape: {}, _softmax, kind="softmax", doc=_softmax.__doc__)
log_softmax = Op(lambda key, shape: {}, _log_softmax, kind="log_softmax", doc=_log_softmax.__doc__)
