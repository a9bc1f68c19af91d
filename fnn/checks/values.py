"""Checks of numbers and shapes that a user passes."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite
from numbers import Real
from operator import index
from typing import Any

import numpy as np
from numpy import ndarray  # looked up in a third of the time of `np.ndarray`, which every operator would pay

from fnn.checks.errors import OpError, describe_value


class _Missing:
    def __repr__(self) -> str:
        return "<missing>"


MISSING: Any = _Missing()
"""The default of an argument for which every other value, None included, has a meaning."""


def as_int(value: Any) -> int | None:
    """The int of Python's for an int, NumPy's included; None for anything else, bools and floats included."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def check_int(name: str, value: Any, minimum: int = 0, error: type[ValueError] = ValueError) -> int:
    """`value` as an int of Python's. Raises `error` unless it is an int, NumPy's included, of at least `minimum`."""
    number = as_int(value)
    if number is None or number < minimum:
        raise error(f"{name}: expected an int of at least {minimum}, got {describe_value(value)}")
    return number


def check_real(
    name: str,
    value: Any,
    *,
    at_least: float = -inf,
    above: float = -inf,
    at_most: float = inf,
    below: float = inf,
    error: type[ValueError] = ValueError,
) -> float:
    """`value` as a float of Python's, which keeps float32 arrays float32. Raises `error` unless it is in the range."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an int too large for a float
            number = inf
        if isfinite(number) and at_least <= number <= at_most and above < number < below:
            return number
    if -inf < at_least and at_most < inf:
        wanted = f"number from {at_least:g} to {at_most:g}"
    else:
        limits = {"of at least": at_least, "above": above, "of at most": at_most, "below": below}
        wanted = "finite number " + " and ".join(f"{words} {n:g}" for words, n in limits.items() if abs(n) < inf)
    raise error(f"{name}: expected a {wanted.strip()}, got {describe_value(value)}")


def check_positive(name: str, value: Any, error: type[ValueError] = ValueError) -> float:
    """`check_real` for numbers above 0."""
    return check_real(name, value, above=0, error=error)


def check_non_negative(name: str, value: Any, error: type[ValueError] = ValueError) -> float:
    """`check_real` for numbers of at least 0."""
    return check_real(name, value, at_least=0, error=error)


def check_fraction(name: str, value: Any, error: type[ValueError] = ValueError) -> float:
    """`check_real` for numbers of at least 0 and below 1."""
    return check_real(name, value, at_least=0, below=1, error=error)


def check_shape(shape: Any, minimum: int = 0, where: str = "") -> tuple[int, ...]:
    """The shape with ints of Python's. Raises OpError, which names `where`, unless it is a tuple of such ints."""
    if isinstance(shape, tuple) and (sizes := _sizes(shape, minimum)) is not None:
        return sizes
    several = isinstance(shape, list) or (isinstance(shape, ndarray) and shape.ndim > 0)
    meant = _sizes(shape if several else [shape], minimum)
    fix = "" if meant is None else f"; write {meant}"
    least = f" of at least {minimum}" if minimum else ""
    wanted = f"expected the shape of one example, a tuple of ints{least} without the batch axis"
    raise OpError(f"{wanted}, got {describe_value(shape)}{fix}", where)


def _sizes(values: Iterable[Any], minimum: int) -> tuple[int, ...] | None:
    """The values as ints of Python's; None if one is not an int of at least `minimum`."""
    sizes = [as_int(value) for value in values]
    return tuple(n for n in sizes if n is not None) if all(n is not None and n >= minimum for n in sizes) else None
