"""Types of command line arguments for `argparse`, with errors that say what was expected."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def checked(convert: Callable[[str], T], valid: Callable[[T], bool], expected: str) -> Callable[[str], T]:
    """Returns a function that converts a text and raises ArgumentTypeError unless the value is valid."""

    def parse(text: str) -> T:
        try:
            if valid(value := convert(text)):
                return value
        except ValueError:
            pass
        raise ArgumentTypeError(f"expected {expected}, got {text!r}")

    return parse


def integer(minimum: int) -> Callable[[str], int]:
    """Returns the type of integers of at least `minimum` that fit in 64 bits."""
    return checked(int, lambda n: minimum <= n < 1 << 63, f"an integer of at least {minimum}")


nonempty = checked(str, bool, "a path")  # an unset shell variable gives an empty text
rate = checked(float, lambda x: 0 < x < inf, "a number above 0")
seconds = checked(float, lambda x: 0 <= x < inf, "a number of seconds, 0 or more")


def path(text: str) -> Path:
    """Converts a text to a path."""
    return Path(nonempty(text))
