"""Checkpoints: trees saved so that a crash leaves the old file or the new one, and loaded as data, running nothing."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO

import numpy as np

from fnn.pickles import NUMBERS, TreePickler, TreeReader
from fnn.tree import Tree

DEPTH, ENTRIES = 100, 1 << 20
"""How many dicts deep a tree may be, and how many entries it may have, a shared dict's counting wherever it stands: far
more than a net needs, and the end of a dict that holds itself and of a few dicts that unfold into billions."""


class CheckpointError(ValueError):
    """A file that does not hold a tree, or a tree that no file may hold; the message names the file."""


def save(path: str | os.PathLike[str], tree: Tree) -> None:
    """Write `tree` to the file `path` as a pickle; whatever fails, the file is the old one or the new one, whole.

    A tree is nested dicts with string keys; its leaves are NumPy arrays and scalars (bool, integer, float or complex)
    and Python's int, float, bool, str and None. Dtypes, bits and the order of the axes in memory are kept; gaps between
    an array's elements are not. Any other tree is a CheckpointError that names the leaf's path, before the disk is
    touched. What the disk refuses is the plain OSError, naming `path`: a missing folder, denied access, no space.
    """
    path = _not_special(path)
    _check(tree, path)
    with _replacing(path) as file:
        TreePickler(file, protocol=5).dump(tree)


def load(path: str | os.PathLike[str]) -> Tree:
    """The tree in the file `path`, from `save` or from `pickle.dump` (protocols 2 to 5, NumPy 1 or 2); arrays writable.

    The file may come from anyone: it is read as data, and no name in it is imported or called. Raises CheckpointError,
    naming the file, for one that is damaged, foreign, not a regular file, or holds anything but what `save` takes;
    and the plain OSError (FileNotFoundError, PermissionError) for one that cannot be read.
    """
    path = _not_special(path)
    data = path.read_bytes()
    if not data.startswith(pickle.PROTO):
        begins = f"begins with {data[:8]!r}" if data else "is empty"
        raise CheckpointError(f"{path}: a pickle of protocol 2 to 5 wanted, but the file {begins}")
    reader = TreeReader(data)
    try:
        tree = reader.read()
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged, or no tree: byte {reader.at}: {error}") from error
    _check(tree, path)
    return tree


def _not_special(path: str | os.PathLike[str]) -> Path:
    """`path`, unless there is something there that is no regular file: to replace or to read a device ends badly."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: a regular file wanted, but it is a folder or a device")
    return path


def _check(tree: Tree, file: Path) -> None:
    """Raises the CheckpointError for the first thing in `tree` that is not admitted."""
    entries = count()

    def refused(path: tuple[str, ...], what: str) -> CheckpointError:
        where = repr("/".join(name[:80] for name in path[:10])) if path else "the tree"
        return CheckpointError(f"{file}: {where} {what}")

    def visit(node: Tree, path: tuple[str, ...]) -> None:
        if next(entries) > ENTRIES:
            raise refused((), f"has more than {ENTRIES} entries, or dicts that hold the same dicts again and again")
        if type(node) is not dict:
            if not _is_leaf(node):
                raise refused(path, f"is {_told(node)}; wanted an array or scalar of numbers, a str, None or a dict")
            if isinstance(node, np.ndarray) and node.dtype.char == "?" and node.view(np.uint8).max(initial=0) > 1:
                raise refused(path, "has bools that are neither 0 nor 1")  # with them, NumPy indexes out of bounds
            return
        if len(path) == DEPTH:
            raise refused(path, f"is nested more than {DEPTH} deep, or holds itself")
        for name, child in node.items():
            if type(name) is not str:
                raise refused(path, f"has a key of type {type(name).__name__}; wanted a str")
            visit(child, (*path, name))

    visit(tree, ())


def _is_leaf(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray | np.generic):
        plain = type(leaf) in (np.ndarray, leaf.dtype.type) and leaf.dtype.metadata is None
        return plain and leaf.dtype.char in NUMBERS
    return type(leaf) in (NoneType, bool, int, float, str)


def _told(leaf: Any) -> str:
    kind = f"of type {type(leaf).__name__}"
    return f"{kind} and dtype {leaf.dtype}" if isinstance(leaf, np.ndarray | np.generic) else kind


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` at the block's end, on the disk by then, or leaves no trace."""
    target = Path(os.path.realpath(path))  # a link stays, and what it points to is replaced
    temporary = target.with_name(f".fnn-{os.urandom(8).hex()}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error  # not the temporary's name
    finally:
        with suppress(OSError):
            temporary.unlink()
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the new name in `folder` to the disk, where the system lets a folder be opened and synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
