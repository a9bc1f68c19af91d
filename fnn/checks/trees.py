"""The error for trees whose structures differ."""

from typing import Any

from fnn.checks.errors import join_first


class TreeError(ValueError):
    """Trees must have the same structure, but they differ."""


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
