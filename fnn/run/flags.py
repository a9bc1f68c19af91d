"""Types of command line arguments for `argparse`, with errors that say what was expected."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from math import inf, nan
from pathlib import Path


def integer(minimum: int) -> Callable[[str], int]:
    """Returns the parser of an integer of at least `minimum` that fits in 64 bits."""

    def parse(text: str) -> int:
        if not (text.isdecimal() and len(text) < 20 and minimum <= int(text) < 1 << 63):
            raise ArgumentTypeError(f"expected an integer of at least {minimum}, got {text!r}")
        return int(text)

    return parse


def nonempty(text: str) -> str:
    """Parses a text that is not empty: an unset shell variable gives an empty one."""
    if not text:
        raise ArgumentTypeError("expected a path, got ''")
    return text


def path(text: str) -> Path:
    """Parses a path."""
    return Path(nonempty(text))


def rate(text: str) -> float:
    """Parses a number above 0."""
    return _number(text, "a number above 0", lambda value: 0 < value < inf)


def seconds(text: str) -> float:
    """Parses a number of seconds, 0 or more."""
    return _number(text, "a number of seconds, 0 or more", lambda value: 0 <= value < inf)


def _number(text: str, expected: str, valid: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not valid(value):
        raise ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value
