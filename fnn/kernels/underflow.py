"""Results too small for a dtype become zero, which is correct: NumPy is told not to complain, whatever its settings."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
T = TypeVar("T")

allowed = ContextVar("allowed", default=False)
"""Whether a caller has set this already: setting it again for every layer would take 5 % of a small net's step."""


def allow_underflow(f: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls `f(...)`, under `np.errstate(under="ignore")`."""
    if allowed.get():
        return f(*args, **kwargs)
    token = allowed.set(True)
    try:
        with np.errstate(under="ignore"):
            return f(*args, **kwargs)
    finally:
        allowed.reset(token)
