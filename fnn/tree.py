"""Trees: nested dicts whose leaves are arrays or scalars. Parameters, gradients and optimizer states are trees."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any, TypeAlias

from fnn.checks.errors import TreeError as TreeError
from fnn.checks.errors import structure_error

Tree: TypeAlias = Any
"""A leaf, or a dict from names to trees."""


def tree_map(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Returns the tree of `f(leaf, *leaves)`, with one leaf from `tree` and from each tree in `rest`.

    Raises TreeError, with the paths that differ, if a tree in `rest` has another structure than `tree`.
    """
    if isinstance(tree, dict):
        return _map_dict(f, tree, rest, "")
    if any(isinstance(other, dict) for other in rest):
        raise structure_error([tree, *rest], "")
    return f(tree, *rest)


def _map_dict(f: Callable[..., Any], tree: dict[str, Tree], rest: Sequence[Tree], path: str) -> dict[str, Any]:
    """`tree_map` for a dict. It calls only `f` for a leaf: updates of small nets spend most of their time here."""
    for other in rest:
        if not isinstance(other, dict) or other.keys() != tree.keys():
            raise structure_error([tree, *rest], path)
    mapped = {}
    for name, child in tree.items():
        others = [other[name] for other in rest]
        if isinstance(child, dict):
            mapped[name] = _map_dict(f, child, others, f"{path}{name}/")
            continue
        for other in others:
            if isinstance(other, dict):
                raise structure_error([child, *others], f"{path}{name}/")
        mapped[name] = f(child, *others)
    return mapped


def tree_items(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each leaf with its path, as `("conv1/w", array)`, in the tree's order. A bare leaf has an empty path."""
    if isinstance(tree, dict):
        for name, child in tree.items():
            yield from tree_items(child, f"{path}/{name}" if path else str(name))
    else:
        yield path, tree


def tree_leaves(tree: Tree) -> list[Any]:
    """The leaves, in the tree's order."""
    if not isinstance(tree, dict):
        return [tree]
    leaves = []
    for child in tree.values():
        leaves += tree_leaves(child) if isinstance(child, dict) else [child]
    return leaves


def tree_size(tree: Tree) -> int:
    """Counts the numbers in all arrays of the tree. A scalar counts as one."""
    return sum(getattr(leaf, "size", 1) for leaf in tree_leaves(tree))


def tree_sum(trees: Iterable[Tree]) -> Tree:
    """Adds one or more trees in pairs, then pairs of pairs, in their order. float16 is added in float32, rounded once.

    The order depends only on the number of trees n. Keeps log2(n) sums in memory. Trees that differ raise TreeError.
    """
    sums: list[Tree] = []  # each of a power of two trees, the largest first: the binary digits of `count`
    for count, tree in enumerate(trees, 1):
        if count == 1:
            halves = None if widen(tree) is tree else tree_map(_is_half, tree)
        tree = tree if halves is None else widen(tree)
        while count % 2 == 0:
            tree, count = tree_map(add, sums.pop(), tree), count // 2
        sums.append(tree)
    if not sums:
        raise TreeError("expected at least one tree to add, got none")
    total = reduce(lambda later, earlier: tree_map(add, earlier, later), reversed(sums))
    return total if halves is None else tree_map(lambda a, half: a.astype("float16") if half else a, total, halves)


def widen(tree: Tree) -> Tree:
    """Converts float16 arrays to float32, in which sums stay exact. Returns `tree` itself if there are none."""
    found = any(map(_is_half, tree_leaves(tree)))
    return tree_map(lambda leaf: leaf.astype("float32") if _is_half(leaf) else leaf, tree) if found else tree


def _is_half(leaf: Any) -> bool:
    return getattr(getattr(leaf, "dtype", None), "char", "") == "e"
