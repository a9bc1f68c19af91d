"""Checks of numbers, shapes and seeds that a user passes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from math import inf, isfinite
from numbers import Real
from operator import index
from typing import Any

import numpy as np
from numpy import ndarray  # a lookup of `np.ndarray` in each check takes three times as long

from fnn.checks.errors import OpError, describe_value


class SeedError(TypeError, ValueError):
    """The value is neither a seed nor a key, or a part of a key is neither a name nor a number."""


class _Missing:
    def __repr__(self) -> str:
        return "<missing>"


MISSING: Any = _Missing()  # the default of an argument that may be None


def as_int(value: Any) -> int | None:
    """`value` as a Python int if it is an int, NumPy's included. None for anything else, also for bools and floats."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def check_int(name: str, value: Any, minimum: int = 0, error: type[ValueError] = ValueError) -> int:
    """Returns `value` as a Python int. Raises `error` unless it is an int, NumPy's included, of at least `minimum`."""
    number = as_int(value)
    if number is None or number < minimum:
        raise error(f"{name}: expected an int of at least {minimum}, got {describe_value(value)}")
    return number


def check_seed(name: str, value: Any) -> int:
    """Returns the seed as a Python int. Raises SeedError or ValueError unless it is an int of at least 0."""
    number = as_int(value)
    if number is None:
        raise SeedError(f"{name}: expected an int seed or a Key, got {describe_value(value)}; pass a seed such as 0")
    if number < 0:
        raise ValueError(f"{name}: expected a seed of at least 0, got {number}")
    return number


def check_part(part: Any) -> int:
    """Returns a part of a key as a Python int. Raises SeedError or ValueError unless it fits into 64 bits."""
    number = as_int(part)
    if number is None:
        raise SeedError(f"fold: expected a name or a number, got {describe_value(part)}")
    if not 0 <= number < 1 << 64:
        raise ValueError(f"fold: expected a number from 0 to 2**64 - 1, got {number}")
    return number


def check_real(
    name: str,
    value: Any,
    error: type[ValueError] = ValueError,
    *,
    at_least: float = -inf,
    above: float = -inf,
    at_most: float = inf,
    below: float = inf,
) -> float:
    """Returns `value` as a Python float, which keeps float32 arrays float32. Raises `error` if it is out of range."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an int too large for a float
            number = inf
        if isfinite(number) and at_least <= number <= at_most and above < number < below:
            return number
    if -inf < at_least and at_most < inf:
        expected = f"number from {at_least:g} to {at_most:g}"
    else:
        limits = {"of at least": at_least, "above": above, "of at most": at_most, "below": below}
        expected = "finite number " + " and ".join(f"{words} {n:g}" for words, n in limits.items() if abs(n) < inf)
    raise error(f"{name}: expected a {expected.strip()}, got {describe_value(value)}")


check_positive = partial(check_real, above=0)
check_non_negative = partial(check_real, at_least=0)
check_fraction = partial(check_real, at_least=0, below=1)


def check_shape(shape: Any, minimum: int = 0, where: str = "") -> tuple[int, ...]:
    """Returns the shape with Python ints. Raises OpError, for the operator `where`, unless it is a tuple of ints."""
    if isinstance(shape, tuple) and (sizes := as_ints(shape, minimum)) is not None:
        return sizes
    several = isinstance(shape, list) or (isinstance(shape, ndarray) and shape.ndim > 0)
    meant = as_ints(shape if several else [shape], minimum)
    fix = "" if meant is None else f"; write {meant}"
    least = f" of at least {minimum}" if minimum else ""
    expected = f"expected the shape of one example, a tuple of ints{least} without the batch axis"
    raise OpError(f"{expected}, got {describe_value(shape)}{fix}", where)


def as_ints(values: Iterable[Any], minimum: int) -> tuple[int, ...] | None:
    """The values as Python ints; None if one is not an int of at least `minimum`."""
    sizes = [as_int(value) for value in values]
    return tuple(n for n in sizes if n is not None) if all(n is not None and n >= minimum for n in sizes) else None
