"""Results too small for a dtype become zero. That is correct here, so NumPy gives no error, whatever its settings."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
T = TypeVar("T")

allowed = ContextVar("allowed", default=False)
"""True inside `allow_underflow`: to set it again for every layer would take 5 % of a small net's step."""


def allow_underflow(f: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls `f(...)` under `np.errstate(under="ignore")`."""
    if allowed.get():
        return f(*args, **kwargs)
    token = allowed.set(True)
    try:
        with np.errstate(under="ignore"):
            return f(*args, **kwargs)
    finally:
        allowed.reset(token)
