"""Checks of seeds and of the parts of a key."""

from typing import Any

from fnn.checks.errors import describe_value
from fnn.checks.values import as_int


class SeedError(TypeError, ValueError):
    """The value is neither a seed nor a key, or a part of a key is neither a name nor a number."""


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
