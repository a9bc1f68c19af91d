"""`match_template`: checks a loaded tree against a template, and gives its leaves the template's types."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from fnn.checks.errors import describe
from fnn.files.allowed import describe_path
from fnn.tree import Tree

MAX_FAULTS = 50  # how many an error lists


def match_template(tree: Tree, like: Tree, reorder: bool) -> Tree:
    """The leaves of `tree` in the dicts of `like`, with its scalar types, byte orders and (`reorder`) memory orders.

    A scalar matches an array without axes, and a dict without leaves may be missing. Raises ValueError that lists all
    leaves that are missing, unexpected, or of another shape or dtype.
    """
    if faults := list(islice(_find_faults(tree, like, ()), MAX_FAULTS + 1)):
        raise ValueError(list_faults("does not match like", faults))
    return _convert(tree, like, reorder)


def list_faults(title: str, faults: list[str]) -> str:
    """One message with the title and the faults, cut after `MAX_FAULTS`."""
    more = ["and more"] if len(faults) > MAX_FAULTS else []
    return f"{title}: {'; '.join(faults[:MAX_FAULTS] + more)}"


def _find_faults(tree: Tree, like: Tree, path: tuple[str, ...]) -> Iterator[str]:
    """One message for each leaf at or below `path` that does not match; {} stands for a missing leaf."""
    if isinstance(tree, dict) and isinstance(like, dict):
        for name in like | tree:
            yield from _find_faults(tree.get(name, {}), like.get(name, {}), (*path, name))
    elif not _is_match(tree, like):
        expected, got = ("nothing" if isinstance(leaf, dict) else describe(leaf) for leaf in (like, tree))
        yield f"{describe_path(path)}: expected {expected}, got {got}"
        # If one of them is a dict, all of its leaves are faults too.
        yield from _find_faults(tree if isinstance(tree, dict) else {}, like if isinstance(like, dict) else {}, path)


def _is_match(leaf: Any, like: Any) -> bool:
    if type(leaf) is type(like) and not isinstance(leaf, np.ndarray):
        return True
    if not isinstance(like, np.ndarray | np.generic | bool | int | float):
        return False
    got, expected = np.asarray(leaf), np.asarray(like)
    if type(like) is int:
        return got.shape == () and got.dtype.kind in "iu"
    return got.shape == expected.shape and got.dtype.str[1:] == expected.dtype.str[1:]  # in any byte order


def _convert(leaf: Any, like: Any, reorder: bool) -> Any:
    """`match_template` of trees that match."""
    if isinstance(like, dict):
        return {name: _convert(leaf.get(name, {}), child, reorder) for name, child in like.items()}
    if type(leaf) is type(like) and not isinstance(leaf, np.ndarray):
        return leaf
    array: Any = np.asarray(leaf)
    if not isinstance(like, np.ndarray | np.generic):
        return array.item()
    array = (array if array.dtype.isnative == like.dtype.isnative else array.byteswap()).view(like.dtype)
    if not isinstance(like, np.ndarray):
        return array[()]
    ordered = np.empty_like(like) if reorder else array
    if ordered.strides == array.strides:
        return array
    ordered[...] = array
    return ordered
