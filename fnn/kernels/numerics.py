"""The floating-point conditions under which operators compute: underflow is allowed, float16 computes in float32."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import numpy as np

from fnn.tree import tree_leaves, tree_map, widen

P = ParamSpec("P")
T = TypeVar("T")

HALF = np.dtype(np.float16)

is_inside = ContextVar("is_inside", default=False)
"""True inside `allow_underflow`: to set the state again for every layer would take 5 % of a small net's step."""


def allow_underflow(f: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls `f(...)`. Results too small for a dtype become zero: that is no error here, whatever NumPy's settings."""
    if is_inside.get():
        return f(*args, **kwargs)
    token = is_inside.set(True)
    try:
        with np.errstate(under="ignore"):
            return f(*args, **kwargs)
    finally:
        is_inside.reset(token)


def apply_in_float32(apply: Callable[..., Any], params: Any, x: Any, *key: Any) -> Any:
    """Calls `apply(params, x, *key)` in float32 and rounds once, if all floats in `params` and `x` are float16.

    float16 holds numbers up to 65504 only: sums, counts and eps would overflow or round to zero.
    """
    floats = {a.dtype for a in (*tree_leaves(params), x) if isinstance(a, np.ndarray) and a.dtype.kind == "f"}
    if floats != {HALF}:
        return apply(params, x, *key)
    y, vjp = apply(widen(params), widen(x), *key)

    def rounded_vjp(dy: Any, need_dx: bool = True) -> tuple[Any, Any]:
        dparams, dx = vjp(widen(dy), need_dx)
        return tree_map(_round, dparams), None if dx is None else _round(dx)

    return _round(y), rounded_vjp


def _round(a: Any) -> Any:
    return a.astype(HALF) if a.dtype.kind == "f" else a
