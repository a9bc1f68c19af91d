"""What a tree must be to go into a file, and to come out of one."""

from collections.abc import Iterator
from itertools import count
from types import NoneType
from typing import Any

import numpy as np

from fnn.files.arrays import NUMBERS
from fnn.tree import Tree

DEPTH, ENTRIES = 100, 1 << 20
"""How many dicts deep a tree may be, and how many entries it may have, a shared dict's counting wherever it stands: far
more than a net needs, and the end of a dict that holds itself and of a few dicts that unfold into billions."""


def admit(tree: Tree) -> None:
    """Raises the ValueError for the first thing in `tree` that is not admitted."""
    _admit(tree, (), count())


def _admit(node: Tree, path: tuple[str, ...], entries: Iterator[int]) -> None:
    if next(entries) > ENTRIES:
        raise _refused((), f"has more than {ENTRIES} entries, or dicts that hold the same dicts again and again")
    if type(node) is not dict:
        if not _is_leaf(node):
            raise _refused(path, f"is {_told(node)}; wanted an array or scalar of numbers, a str, None or a dict")
        if isinstance(node, np.ndarray) and node.dtype.char == "?" and node.view(np.uint8).max(initial=0) > 1:
            raise _refused(path, "has bools that are neither 0 nor 1")  # with them, NumPy indexes out of bounds
        return
    if len(path) == DEPTH:
        raise _refused(path, f"is nested more than {DEPTH} deep, or holds itself")
    for name, child in node.items():
        if type(name) is not str:
            raise _refused(path, f"has a key of type {type(name).__name__}; wanted a str")
        _admit(child, (*path, name), entries)


def shown(path: tuple[str, ...]) -> str:
    """How an error names what is at `path`, however long its names are."""
    return repr("/".join(name[:80] for name in path[:10])) if path else "the tree"


def _refused(path: tuple[str, ...], what: str) -> ValueError:
    return ValueError(f"{shown(path)} {what}")


def _is_leaf(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray | np.generic):
        plain = type(leaf) in (np.ndarray, leaf.dtype.type) and leaf.dtype.metadata is None
        return plain and leaf.dtype.char in NUMBERS
    return type(leaf) in (NoneType, bool, int, float, str)


def _told(leaf: Any) -> str:
    kind = f"of type {type(leaf).__name__}"
    return f"{kind} and dtype {leaf.dtype}" if isinstance(leaf, np.ndarray | np.generic) else kind
