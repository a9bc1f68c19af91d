"""What a file may contain: nested dicts of arrays, plain scalars, str and None. And how bytes become arrays."""

from collections.abc import Iterator
from itertools import count
from math import prod
from types import NoneType
from typing import IO, Any, Literal

import numpy as np

from fnn.checks.arrays import Array
from fnn.checks.errors import describe
from fnn.tree import Tree

# What arrays may hold: bools, integers, floats and complex numbers, as NumPy's type characters, and as files spell the
# dtypes, without the byte order: `f4`, `i8`, `b1` and so on.
NUMBERS = "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]
CODES = {np.dtype(char).str[1:] for char in NUMBERS}

# Limits on nested dicts and on entries, far above what nets need. A dict counts at each of its uses, so a dict that
# contains itself, or that unfolds into billions of entries, is refused.
MAX_DEPTH, MAX_ENTRIES = 120, 1 << 20


# Compressed arrays may inflate to this many times the file's size, and to this many bytes in any case. Weights seldom
# halve, but those of a pruned net may shrink to a fiftieth.
MAX_RATIO, MIN_LIMIT = 100, 1 << 20


def limit_inflated(size: int) -> int:
    """How many bytes the content of a compressed file of this size may have, so that no small file fills the memory."""
    return max(MAX_RATIO * size, MIN_LIMIT)


def check_tree(tree: Tree) -> None:
    """Raises ValueError for the first part of `tree` that a file may not contain."""
    _check(tree, (), count(), set())


def _check(tree: Tree, path: tuple[str, ...], entries: Iterator[int], bools: set[int]) -> None:
    """`check_tree` of the part at `path`. `entries` counts the calls; `bools` has the ids of arrays already read."""
    if next(entries) > MAX_ENTRIES:
        raise ValueError(f"the tree: expected at most {MAX_ENTRIES} entries, got more; a dict counts at each use")
    fault = ""
    plain = isinstance(tree, np.ndarray | np.generic) and type(tree) in (np.ndarray, tree.dtype.type)
    if type(tree) is dict:
        if len(path) == MAX_DEPTH:
            fault = f"expected at most {MAX_DEPTH} nested dicts, got more; does one contain itself?"
        elif wrong := [name for name in tree if type(name) is not str]:
            fault = f"expected keys of type str, got {describe(wrong[0])}"
    elif plain and tree.dtype.char in NUMBERS and tree.dtype.metadata is None:
        is_new = tree.dtype.char == "?" and id(tree) not in bools
        bools.add(id(tree))
        if is_new and np.asarray(tree).view(np.uint8).max(initial=0) > 1:
            fault = "expected bools stored as 0 or 1, got other bytes"  # with them, NumPy indexes out of bounds
    elif type(tree) not in (NoneType, bool, int, float, str):
        fault = "expected a plain array or scalar of numbers (without dtype metadata), a str, None or a dict"
        fault += f", got {describe(tree)}"
    if fault:
        raise ValueError(f"{describe_path(path)}: {fault}")
    for name, child in tree.items() if type(tree) is dict else ():
        _check(child, (*path, name), entries, bools)


def describe_path(path: tuple[str, ...]) -> str:
    """The path as text for an error, cut if its names are long."""
    return repr("/".join(name[:80] for name in path[:10])) if path else "the tree"


def describe_start(data: bytes) -> str:
    """How the content of a file begins, for an error."""
    return f"a file that begins with {data[:8]!r}" if data else "an empty file"


def make_array(data: Any, dtype: np.dtype[Any], shape: Any, order: Literal["C", "F"] = "C") -> Array:
    """An array in the memory of `data`. Raises ValueError unless `shape` is a shape and needs exactly so many bytes."""
    if prod(check_sizes(shape)) * dtype.itemsize != len(data):
        raise ValueError(f"expected all bytes of an array of shape {shape} and dtype {dtype}, got {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def read_bytes(file: IO[bytes], n: int) -> bytearray:
    """The next `n` bytes, read once into the memory of the array that they become. Raises ValueError if there are less.

    The caller limits `n`. A file in a zip would need the memory twice if it were read in one piece.
    """
    data = bytearray(n)
    rest = memoryview(data)
    while rest and (done := file.readinto(rest[: 1 << 20])):  # type: ignore[attr-defined]
        rest = rest[done:]
    if rest:
        raise ValueError(f"expected {n} bytes, got {n - len(rest)}: the file is truncated")
    return data


def check_sizes(sizes: Any) -> tuple[int, ...]:
    """`sizes`, if it can be a shape. The error does not show them, because they may be huge in a damaged file."""
    if type(sizes) is tuple and len(sizes) <= 64 and all(type(n) is int and 0 <= n < 1 << 63 for n in sizes):
        return sizes
    raise ValueError("expected a shape: a tuple of at most 64 ints from 0 to 2**63 - 1")
