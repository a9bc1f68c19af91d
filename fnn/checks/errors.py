"""OpError and TreeError, and how errors describe values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray  # a lookup of `np.ndarray` in each check takes three times as long


class OpError(ValueError):
    """Bad input to an operator. The message has the path of the operator in the network, `expected ...` and `got ...`.

    `missing` is true if the params lack an entry.
    """

    __module__ = "fnn"

    def __init__(self, message: str, kind: str = "", missing: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.missing = missing
        self.path: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = "/".join(self.path) or self.kind
        return f"{where}: {self.message}" if where else self.message


class TreeError(ValueError):
    """Trees must have the same structure, but they differ."""


def describe(value: Any) -> str:
    """How an error shows a value: an array by its dtype and shape, anything else by its type."""
    kind = type(value)
    if kind is ndarray or kind is np.memmap:
        return f"{value.dtype} {value.shape}"
    name = kind.__name__
    if isinstance(value, ndarray):
        name = f"{kind.__module__}.{name}"
    elif kind.__module__.startswith("numpy.random"):
        name = f"NumPy {name}"
    return f"an {name}" if name[0] in "aeiouAEIO" else f"a {name}"


def describe_value(value: Any) -> str:
    """How an error shows a value that may be short: numbers, texts and tuples of these as Python writes them."""
    scalars = int | float | str | bytes | np.generic | None
    several = isinstance(value, tuple | list) and len(value) <= 8 and all(isinstance(n, scalars) for n in value)
    text = repr(value) if several or isinstance(value, scalars) else ""
    return text if 0 < len(text) <= 60 else describe(value)


def escape(text: str) -> str:
    """The text in one line that cannot control a terminal: with escapes for characters that are not printable."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def describe_uncalled(value: Any, *types: Any) -> str:
    """How an error shows a function annotated to return one of the types, which you must call; "" for anything else."""
    is_constructor = getattr(value, "__annotations__", {}).get("return") in types
    return f"the function {value.__name__}; call it: {value.__name__}(...)" if is_constructor else ""


def join_first(texts: Sequence[str], most: int) -> str:
    """The first `most` texts with commas between them, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def prepend_path(error: Exception, name: str) -> None:
    """Adds `name`, the part of a combinator that raised `error`, in front of the path of the error."""
    if isinstance(error, OpError):
        error.path = (name, *error.path)
    else:
        error.add_note(f"in {name}")


def structure_error(trees: list[Any], path: str) -> TreeError:
    """Describes the first tree whose structure is not that of `trees[0]`. All are found at `path`, as `a/b/`."""
    expected = _list_paths(trees[0], path)
    for nth, tree in enumerate(trees[1:], 2):
        got = _list_paths(tree, path)
        extra, missing = [p for p in got if p not in expected], [p for p in expected if p not in got]
        if extra or missing:
            expected_paths, got_paths = (join_first([*map(repr, paths)], 4) or "nothing" for paths in (missing, extra))
            return TreeError(f"trees differ: expected {expected_paths} as in tree 1, got {got_paths} in tree {nth}")
    return TreeError("trees differ: expected names without slashes, got names that differ only in slashes")


def _list_paths(tree: Any, path: str) -> list[str]:
    """The paths of all leaves, and of all empty dicts, which end in a slash."""
    if not isinstance(tree, dict):
        return [path.removesuffix("/")]
    return [p for name, child in tree.items() for p in _list_paths(child, f"{path}{name}/")] or [path or "{}"]
