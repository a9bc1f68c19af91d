"""Readers of a command line's values, which say what is wanted where something else came."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from math import inf
from pathlib import Path


def whole(least: int) -> Callable[[str], int]:
    """The reader of a whole number, `least` or more; 64 bits hold it."""

    def read(text: str) -> int:
        if not (text.isdecimal() and len(text) < 20 and least <= int(text) < 1 << 63):
            raise ArgumentTypeError(f"a whole number from {least} up is wanted, got {text!r}")
        return int(text)

    return read


def given(text: str) -> str:
    """Reads a text that is not empty, as that of a variable without a value is."""
    if not text:
        raise ArgumentTypeError("a path is wanted, got ''")
    return text


def place(text: str) -> Path:
    """Reads a path."""
    return Path(given(text))


def rate(text: str) -> float:
    """Reads a number over 0."""
    value = _number(text)
    if not 0 < value < inf:
        raise ArgumentTypeError(f"a number over 0 is wanted, got {text!r}")
    return value


def seconds(text: str) -> float:
    """Reads a number of seconds, 0 or more."""
    value = _number(text)
    if not 0 <= value < inf:
        raise ArgumentTypeError(f"a number of seconds, 0 or more, is wanted, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
