"""Trees in files: as dicts from paths, such as `conv1/w`, to arrays, and checked against a template on loading."""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

import numpy as np

from fnn.checks.arrays import Array
from fnn.checks.errors import describe
from fnn.files.allowed import MAX_DEPTH, describe_path
from fnn.tree import Tree

MAX_FAULTS = 50  # how many an error lists
MAX_PATH = 1 << 15  # how many bytes a path may have in UTF-8: half of what a zip file allows


def flatten(tree: Tree, codes: Collection[str]) -> dict[str, Array]:
    """The leaves by path, in the tree's order; scalars become arrays without axes, dicts without leaves are dropped.

    Raises ValueError for a leaf that is no number of a dtype in `codes`, and for a path that is used twice or that a
    file cannot hold.
    """
    if not isinstance(tree, dict):
        raise ValueError(f"the tree: expected a dict from names to arrays, got {describe(tree)}; use a .pkl file")
    flat: dict[str, Array] = {}
    for names, leaf in _leaves(tree, ()):
        path, array, where = "/".join(names), np.asarray(leaf), describe_path(names)
        encoded = path.encode(errors="replace")
        if array.dtype.str[1:] not in codes:
            got = "an int of more than 64 bits" if type(leaf) is int else describe(leaf)
            raise ValueError(f"{where}: expected numbers that this format supports, got {got}; use a .pkl file")
        if len(encoded) > MAX_PATH or 0 in encoded or encoded.decode() != path:
            raise ValueError(f"{where}: expected a path of at most {MAX_PATH} bytes in UTF-8, none of them zero")
        if path in flat:
            raise ValueError(f"{where}: expected one leaf with this path, got two; rename one")
        flat[path] = array
    return flat


def _leaves(tree: Tree, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each leaf with the names that lead to it. `tree_items` leaves out empty names."""
    if isinstance(tree, dict):
        for name, child in tree.items():
            yield from _leaves(child, (*names, name))
    else:
        yield names, tree


def nest(flat: dict[str, Array]) -> Tree:
    """The tree with these paths, split at their slashes. Raises ValueError if a path continues below an array."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/", MAX_DEPTH)
        node: Any = tree
        for folder in folders:
            node = node.setdefault(folder, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name in node:
            raise ValueError(f"{path[:80]!r}: expected no array above or below this one, got another; pass like=...")
        node[name] = leaf
    return tree


def nest_like(flat: dict[str, Array], like: Tree) -> Tree:
    """The arrays in the dicts of `like`, {} for a missing one. Others are added at the top, under their full paths."""
    rest = dict(flat)
    return _take(rest, like, "") | rest if isinstance(like, dict) else rest


def _take(flat: dict[str, Array], like: Tree, path: str) -> Tree:
    """Removes the arrays of `like`, a template's part at `path`, from `flat` and returns them in its dicts."""
    if isinstance(like, dict):
        return {name: _take(flat, child, f"{path}/{name}") for name, child in like.items()}
    return flat.pop(path[1:], {})


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
    """`match_template` of trees that match. Removes each leaf from `leaf`, so that its memory is free at once."""
    if isinstance(like, dict):
        return {name: _convert(leaf.pop(name, {}), child, reorder) for name, child in like.items()}
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
