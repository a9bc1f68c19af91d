"""Trees held against a template, of which they are to have the structure, the shapes and the dtypes."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from fnn.checks.errors import describe
from fnn.files.admitted import shown
from fnn.op import Array
from fnn.tree import Tree, tree_map

MOST = 50
"""How many faults a message lists."""


def fitted(tree: Tree, like: Tree) -> Tree:
    """The leaves of `tree` in the dicts of `like`; scalars are of the types, arrays of the byte orders, that it has.

    Scalars and arrays without axes stand for one another, and dicts without leaves for nothing. Raises a ValueError
    that lists the leaves that are missing, unexpected, or of another shape or dtype than those of `like`.
    """
    faults = list(islice(_faults(tree, like, ()), MOST + 1))
    if faults:
        raise ValueError(listed("does not fit", faults))
    return _taken(tree, like)


def listed(what: str, faults: list[str]) -> str:
    """The message that says `what`, and each of the faults, unless they are very many."""
    more = ["and more"] if len(faults) > MOST else []
    return f"{what}: {'; '.join(faults[:MOST] + more)}"


def in_order_of(like: Tree, tree: Tree) -> Tree:
    """`tree`, whose arrays lie in memory as those of `like` do, of which it has the structure, shapes and dtypes."""

    def order(like: Any, leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        out = np.empty_like(like)
        if out.strides == leaf.strides:
            return leaf
        out[...] = leaf
        return out

    return tree_map(order, like, tree)


def _faults(tree: Tree, like: Tree, path: tuple[str, ...]) -> Iterator[str]:
    """What is amiss below `path`, one leaf at a time; an empty dict is what is not there."""
    if isinstance(tree, dict) and isinstance(like, dict):
        for name in like:
            yield from _faults(tree.get(name, {}), like[name], (*path, name))
        for name in (name for name in tree if name not in like):
            yield from _faults(tree[name], {}, (*path, name))
    elif isinstance(like, dict):
        yield f"{shown(path)} is unexpected, {describe(tree)}"
        yield from _faults({}, like, path)
    elif isinstance(tree, dict):
        yield f"{shown(path)} is missing, wanted {describe(like)}"
        yield from _faults(tree, {}, path)
    elif not _fits(tree, like):
        yield f"{shown(path)} is {describe(tree)}, wanted {describe(like)}"


def _fits(leaf: Any, like: Any) -> bool:
    if type(leaf) is type(like) and not isinstance(leaf, np.ndarray):
        return True
    if not isinstance(like, np.ndarray | np.generic | bool | int | float):
        return False
    came, wanted = np.asarray(leaf), np.asarray(like)
    if type(like) is int:
        return came.shape == () and came.dtype.kind in "iu"
    return came.shape == wanted.shape and came.dtype.str[1:] == wanted.dtype.str[1:]  # but for the byte order


def _taken(leaf: Any, like: Any) -> Any:
    if isinstance(like, dict):
        return {name: _taken(leaf.get(name, {}), child) for name, child in like.items()}
    if type(leaf) is type(like) and not isinstance(leaf, np.ndarray):
        return leaf
    array: Array = np.asarray(leaf)
    if not isinstance(like, np.ndarray | np.generic):
        return array.item()
    array = (array if array.dtype.isnative == like.dtype.isnative else array.byteswap()).view(like.dtype)
    return array if isinstance(like, np.ndarray) else array[()]
