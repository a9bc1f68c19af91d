"""Checkpoints: trees saved so that a crash leaves the old file or the new one, and loaded as data, running nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fnn.files import FORMATS, Format
from fnn.files.admitted import admit
from fnn.files.disk import regular, replacing
from fnn.files.flat import nested, nested_like
from fnn.files.template import fitted, in_order_of
from fnn.tree import Tree


class CheckpointError(ValueError):
    """A file that does not hold what was wanted, a tree that no file may hold, or weights that fit no net."""


def save(path: str | os.PathLike[str], tree: Tree) -> None:
    """Write `tree` to the file `path`; whatever fails, the file is the old one or the new one, whole.

    A tree is nested dicts with string keys; its leaves are NumPy arrays and scalars (bool, integer, float or complex)
    and Python's int, float, bool, str and None. The suffix chooses the format, each with a checksum:

    `.pkl`, or none: a pickle, which holds every tree and keeps the order of the axes in memory; gaps between an array's
    elements are not kept.
    `.npz`: what `np.load` reads as a dict from paths, `conv1/w`, to arrays in C or Fortran order. It holds numbers
    alone, ints of at most 64 bits. That scalars are no arrays, other orders, and dicts without leaves are forgotten:
    `load` has them from its template.
    `.safetensors`: the same, all in C order, without complex numbers and longdouble. Needs the extra `safetensors`.

    Any other suffix, or a tree that the format does not hold, is a CheckpointError that names the leaf's path, before
    the disk is touched. What the disk refuses is the plain OSError, naming `path`: a missing folder, denied access, no
    space.
    """
    path = _regular(path)
    form = _format(path)
    with _naming(path):
        admit(tree)
        pieces = form.encode(tree)
    with replacing(path) as file:
        file.writelines(pieces)


def load(path: str | os.PathLike[str], like: Tree = None) -> Tree:
    """Returns the tree in the file `path`, in the format that its suffix says; its arrays are writable.

    With a template `like`, such as a net's initial params, the tree has the dicts, types of scalars and byte orders of
    the template, and its memory orders if the file is no pickle. Leaves that are missing, unexpected, or of another
    shape or dtype are listed by path in one CheckpointError. Not detected is a layer of another kind with the same path
    and shapes, for example `named("up", conv(...))` for `named("up", conv_transpose(...))`.

    Without a template, the paths of .npz and .safetensors become nested dicts, cut at their slashes, and their leaves
    are all arrays. They lack the dicts without leaves, such as those of operators without parameters; nets, optimizers
    and exports take such params as they are.

    Loading never executes code, so files from strangers are safe. Pickles of protocols 2 to 5 by NumPy 1 or 2 are read,
    and compressed arrays unless they inflate to more than 10 times the file. Raises CheckpointError, naming the file,
    if it is damaged, foreign, not a regular file, or holds anything but what `save` takes. Raises OSError
    (FileNotFoundError, PermissionError) if it cannot be read.
    """
    path = _regular(path)
    form, data = _format(path), path.read_bytes()
    if like is not None:
        with _naming("like"):
            admit(like)
    with _naming(path):
        tree = form.decode(data)
        if form.flat:
            tree = nested(tree) if like is None else nested_like(tree, like)
        admit(tree)
        if like is None:
            return tree
        tree = fitted(tree, like)
        return in_order_of(like, tree) if form.flat else tree


@contextmanager
def _naming(what: object) -> Iterator[None]:
    """Makes a ValueError the CheckpointError that names whose it is."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"{what}: {error}") from error


def _format(path: Path) -> Format:
    suffix = path.suffix or ".pkl"
    if suffix.lower() not in FORMATS:
        raise CheckpointError(f"{path}: no format has the suffix {suffix!r}; wanted {', '.join(FORMATS)}")
    return FORMATS[suffix.lower()]


def _regular(path: str | os.PathLike[str]) -> Path:
    try:
        return regular(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
