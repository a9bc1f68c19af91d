"""The floating-point conditions under which operators compute: underflow is allowed, float16 computes in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fnn.kernels.underflow import allow_underflow as allow_underflow
from fnn.kernels.underflow import allowed
from fnn.tree import tree_leaves, tree_map

HALF = np.dtype(np.float16)

is_inside = allowed
"""Whether the caller is inside of another operator, or of `value_and_grad`."""


def apply_in_float32(apply: Callable[..., Any], params: Any, x: Any, *key: Any) -> Any:
    """Calls `apply(params, x, *key)` in float32 and rounds once, if all floats in `params` and `x` are float16.

    float16 holds numbers up to 65504 only: sums, counts and eps would overflow or round to zero.
    """
    floats = {a.dtype for a in (*tree_leaves(params), x) if isinstance(a, np.ndarray) and a.dtype.kind == "f"}
    if floats != {HALF}:
        return apply(params, x, *key)
    y, vjp = apply(tree_map(_widen, params), _widen(x), *key)

    def rounded_vjp(dy: Any, need_dx: bool = True) -> tuple[Any, Any]:
        dparams, dx = vjp(_widen(dy), need_dx)
        return tree_map(_round, dparams), None if dx is None else _round(dx)

    return _round(y), rounded_vjp


def _widen(a: Any) -> Any:
    return a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == HALF else a


def _round(a: Any) -> Any:
    return a.astype(HALF) if a.dtype.kind == "f" else a
