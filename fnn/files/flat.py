"""Trees as dicts of arrays by their paths, `conv1/w`, for formats that know of no nesting; and trees from these."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from fnn.files.admitted import DEPTH, shown
from fnn.op import Array
from fnn.tree import Tree

LONGEST = 1 << 15
"""How many bytes a path may have in UTF-8: half of what a zip has room for."""


def flatten(tree: Tree, codes: Collection[str]) -> dict[str, Array]:
    """The leaves by their paths, in their order, scalars as arrays without axes. Dicts without leaves are left out.

    Raises the ValueError for the first leaf that is no number or no array of a dtype among `codes`, or whose path is
    another one's as well, or no text that files can hold.
    """
    if not isinstance(tree, dict):
        raise ValueError("the tree is a leaf; wanted a dict, whose names are those of the arrays")
    flat: dict[str, Array] = {}
    for names, leaf in _leaves(tree, ()):
        path, array = "/".join(names), np.asarray(leaf)
        if array.dtype.str[1:] not in codes:
            raise ValueError(f"{shown(names)} is {_kind(leaf)}, for which this format has no place; a .pkl file has")
        if not _is_name(path):
            raise ValueError(f"{shown(names)} is no text that UTF-8 has, in at most {LONGEST} bytes, none of them zero")
        if path in flat:
            raise ValueError(f"{shown(names)} is the path of two leaves")
        flat[path] = array
    return flat


def _kind(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray | np.generic):
        return f"of dtype {leaf.dtype}"
    return "an int of more than 64 bits" if type(leaf) is int else f"a {type(leaf).__name__}"


def _is_name(path: str) -> bool:
    encoded = path.encode(errors="replace")
    return len(encoded) <= LONGEST and 0 not in encoded and encoded.decode() == path


def _leaves(tree: Tree, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, dict):
        for name, child in tree.items():
            yield from _leaves(child, (*names, name))
    else:
        yield names, tree


def nested(flat: dict[str, Array]) -> Tree:
    """The tree that the paths tell, cut at their slashes; a ValueError where a path goes on beyond an array's."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/", DEPTH)
        node: Any = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or name in node:
            raise ValueError(f"{path[:80]!r} and another array cannot both be in dicts; wanted like=..., to say how")
        node[name] = leaf
    return tree


def nested_like(flat: dict[str, Array], like: Tree) -> Tree:
    """What `flat` has of the leaves of `like`, in its dicts; all else beside them, under its whole path."""
    rest = dict(flat)
    return _taken(rest, like, "") | rest if isinstance(like, dict) else rest


def _taken(flat: dict[str, Array], like: dict[str, Tree], folder: str) -> dict[str, Tree]:
    """The arrays below `folder` in the dicts of `like`, removed from `flat`."""
    tree: dict[str, Tree] = {}
    for name, child in like.items():
        path = folder + name
        if isinstance(child, dict):
            tree[name] = _taken(flat, child, f"{path}/")
        elif path in flat:
            tree[name] = flat.pop(path)
    return tree
