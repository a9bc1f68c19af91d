"""Trees: nested dicts whose leaves are arrays or scalars. Parameters, gradients and optimizer states are trees."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any, TypeAlias

Tree: TypeAlias = Any
"""A leaf, or a dict from names to trees."""


class TreeError(ValueError):
    """Trees that should have the same structure and do not."""


def tree_map(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """The tree of `f(leaf, *leaves)`, taken at each path of `tree` and of the trees in `rest`, which must match it.

    Raises TreeError, naming the paths on both sides, when a tree of `rest` has another structure.
    """
    if isinstance(tree, dict):
        return _map(f, tree, rest, "")
    if any(isinstance(other, dict) for other in rest):
        raise _mismatch([tree, *rest], "")
    return f(tree, *rest)


def _map(f: Callable[..., Any], tree: dict[str, Tree], rest: Sequence[Tree], path: str) -> dict[str, Any]:
    """`tree_map` of a dict, which makes no call but `f`'s for a leaf: a small net's update is mostly this function."""
    for other in rest:
        if not isinstance(other, dict) or other.keys() != tree.keys():
            raise _mismatch([tree, *rest], path)
    mapped = {}
    for name, child in tree.items():
        others = [other[name] for other in rest]
        if isinstance(child, dict):
            mapped[name] = _map(f, child, others, f"{path}{name}/")
            continue
        for other in others:
            if isinstance(other, dict):
                raise _mismatch([child, *others], f"{path}{name}/")
        mapped[name] = f(child, *others)
    return mapped


def _mismatch(trees: list[Tree], path: str) -> TreeError:
    """The error for the first tree that differs from `trees[0]` below `path`."""

    def told(paths: list[str]) -> str:
        shown = ", ".join(repr(p) for p in paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
        return shown or "nothing there"

    def paths(tree: Tree) -> list[str]:
        return [path + name if name else path.removesuffix("/") for name, _ in tree_items(tree)]

    here = paths(trees[0])
    for nth, tree in enumerate(trees[1:], 2):
        there = paths(tree)
        if there != here or isinstance(tree, dict) != isinstance(trees[0], dict):
            mine, theirs = [p for p in here if p not in there], [p for p in there if p not in here]
            return TreeError(f"trees differ: tree 1 has {told(mine)} where tree {nth} has {told(theirs)}")
    return TreeError(f"trees differ at {path.removesuffix('/')!r}: the same leaves, but not the same dicts")


def tree_items(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each leaf with its path, as `("conv1/w", array)`, in the tree's own order; a bare leaf's path is empty."""
    if isinstance(tree, dict):
        for name, child in tree.items():
            yield from tree_items(child, f"{path}/{name}" if path else str(name))
    else:
        yield path, tree


def tree_leaves(tree: Tree) -> list[Any]:
    """The leaves, in the tree's own order."""
    return [leaf for child in tree.values() for leaf in tree_leaves(child)] if isinstance(tree, dict) else [tree]


def tree_size(tree: Tree) -> int:
    """How many numbers the tree holds: its arrays' sizes added up, a scalar counting as one."""
    return sum(getattr(leaf, "size", 1) for leaf in tree_leaves(tree))


def tree_sum(trees: Iterable[Tree]) -> Tree:
    """Adds at least one tree, in pairs, then pairs of pairs, in their order; float16 in float32, rounded once.

    The order of the additions depends only on how many trees there are. At most log2(n) sums of n trees are in memory.
    Raises TreeError if the trees differ in structure.
    """
    sums: list[Tree] = []  # of 2, 4, 8... trees, the longest run first, as the binary digits of the count say
    half: Tree = None
    for count, tree in enumerate(trees, 1):
        if count == 1 and any(map(_is_half, tree_leaves(tree))):
            half = tree_map(_is_half, tree)
        if half is not None:
            tree = tree_map(lambda leaf: leaf.astype("float32") if _is_half(leaf) else leaf, tree)
        while count % 2 == 0:
            tree, count = tree_map(add, sums.pop(), tree), count // 2
        sums.append(tree)
    if not sums:
        raise TreeError("no trees came, wanted at least one to add up")
    total = reduce(lambda later, earlier: tree_map(add, earlier, later), reversed(sums))
    return total if half is None else tree_map(lambda a, is_half: a.astype("float16") if is_half else a, total, half)


def _is_half(leaf: Any) -> bool:
    """Whether the leaf is an array of float16."""
    return getattr(getattr(leaf, "dtype", None), "char", "") == "e"
