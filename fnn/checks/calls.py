"""How calls are written: the `repr` of an operator, an optimizer or an initialiser is the call that returned it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from math import inf
from numbers import Integral, Real
from operator import is_
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy import ndarray

P = ParamSpec("P")
T = TypeVar("T")


def named_by_call(make: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function that returns a new function, or a tuple that ends with one: names this after the call.

    `constant(0.1).__name__` is "constant(0.1)". The first argument appears without its name, even if it is optional.
    """
    signature = inspect.signature(make)

    @wraps(make)
    def construct(*args: P.args, **kwargs: P.kwargs) -> T:
        result = make(*args, **kwargs)
        function: Any = result[-1] if isinstance(result, tuple) else result
        arguments = bind_arguments(signature, *args, **kwargs)
        function.__name__ = function.__qualname__ = _format_call(make.__name__, signature, arguments, unnamed=1)
        return result

    return construct


def bind_arguments(signature: inspect.Signature, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """All arguments of a call by name, including defaults, with Python's numbers and tuples."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return {name: _as_python(value) for name, value in bound.arguments.items()}


def repr_call(name: str, make: Callable[..., Any] | None, arguments: Mapping[str, Any], width: float = inf) -> str:
    """The call of `make` as you would write it; the name alone if there is no such function."""
    return name if make is None else _format_call(name, inspect.signature(make), arguments, width)


def _format_call(
    name: str, signature: inspect.Signature, arguments: Mapping[str, Any], width: float = inf, unnamed: int = 0
) -> str:
    """The call `name(...)`, with one argument per line if it is longer than `width`.

    Defaults are left out. Optional arguments have their names, except the first `unnamed`.
    """
    texts: list[str] = []
    for nth, parameter in enumerate(signature.parameters.values()):
        value, default = arguments[parameter.name], parameter.default
        if parameter.kind is parameter.VAR_POSITIONAL:
            texts += map(repr, value)
        elif not (value is default or (isinstance(value, int | float | str) and value == default)):
            text = value.__name__ if inspect.isfunction(value) else repr(value)
            texts.append(text if default is parameter.empty or nth < unnamed else f"{parameter.name}={text}")
    line = f"{name}({', '.join(texts)})"
    if len(line) <= width:
        return line
    inner = ",\n".join(texts).replace("\n", "\n    ")
    return f"{name}(\n    {inner},\n)"


def _as_python(value: Any) -> Any:
    """`value` with Python's own numbers and strings, and a tuple instead of a list or an array of sizes."""
    if isinstance(value, np.generic) or (isinstance(value, ndarray) and not value.ndim):
        number = value.item()
        return float(number) if isinstance(number, np.floating) else number  # a longdouble's `item` is one
    if isinstance(value, Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, ndarray) and value.dtype.kind in "iu" and value.ndim == 1 and value.size <= 8:
        return tuple(value.tolist())
    if type(value) in (list, tuple):
        values = tuple(map(_as_python, value))
        return value if isinstance(value, tuple) and all(map(is_, value, values)) else values
    return value
