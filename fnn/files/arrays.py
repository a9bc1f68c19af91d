"""What arrays in files may hold, and how bytes become arrays."""

from math import prod
from typing import Any, Literal

import numpy as np

from fnn.op import Array

NUMBERS = "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]
"""What arrays may hold, by NumPy's characters: bools, integers, floats and complex numbers."""

CODES = {np.dtype(char).str[1:] for char in NUMBERS}
"""Their dtypes without the byte order, as files spell them: `f4`, `i8`, `b1` and so on."""


def array(data: bytes | memoryview, dtype: np.dtype[Any], shape: Any, order: Literal["C", "F"] = "C") -> Array:
    """A new array of these bytes; a ValueError unless they are as many as `shape`, whatever it may be, asks for."""
    if prod(naturals(shape)) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of shape {shape} and dtype {dtype}")
    return np.frombuffer(data, dtype).copy().reshape(shape, order=order)


def naturals(numbers: Any) -> tuple[int, ...]:
    """`numbers`, if it is a tuple such as shapes are."""
    if type(numbers) is tuple and len(numbers) <= 64 and all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
        return numbers
    raise ValueError("a shape that no array has")
