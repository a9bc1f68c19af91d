"""`save` and `load`: checkpoints that survive a crash while they are written, and never execute code when read."""

import os
from pathlib import Path
from typing import Any

from fnn.files import npz, pickles, safetensors
from fnn.files.allowed import check_tree
from fnn.files.disk import atomic_write, check_regular
from fnn.files.trees import match_template, nest, nest_like
from fnn.tree import Tree

# Modules by suffix. `decode(file, size)` returns a tree for .pkl, and otherwise arrays by path.
FORMATS = {".pkl": pickles, ".npz": npz, ".safetensors": safetensors}


class CheckpointError(ValueError):
    """A damaged or foreign file, a tree that files cannot hold, or weights that do not match a net."""


def save(path: str | os.PathLike[str], tree: Tree) -> None:
    """Writes `tree` to the file `path`. If anything fails, the old file is unchanged.

    A tree is nested dicts with string keys; its leaves are NumPy arrays and scalars of numbers and Python's int, float,
    bool, str and None. The suffix selects the format; all of them have a checksum.

    `.pkl` or none: a pickle of any tree. It keeps the memory order of the axes, but not gaps between elements. Python's
    `pickle` can read it too, but needs NumPy 2.3 for arrays in neither C nor Fortran order.
    `.npz`: numbers only (ints of at most 64 bits) by path, such as `conv1/w`, for `np.load`; in C or Fortran order.
    Scalars become arrays and dicts without leaves are dropped. `load` restores these and memory orders from a template.
    `.safetensors`: the same in C order, without complex numbers and longdouble. Needs the extra `safetensors`.

    Raises CheckpointError for another suffix or a leaf that the format cannot hold, and OSError as files do.
    """
    path, form = _find_format(path)
    with _NameErrors(path):
        check_tree(tree)
        pieces = form.encode(tree)
    with atomic_write(path) as file:
        file.writelines(pieces)


def load(path: str | os.PathLike[str], like: Tree = None) -> Tree:
    """Returns the tree in the file `path`, in the format of its suffix. The arrays are writable.

    With a template `like`, such as a net's initial params, the tree gets its dicts, scalar types, byte orders and,
    except from a pickle, memory orders. Raises CheckpointError that lists all leaves that are missing, unexpected, or
    of another shape or dtype. Not detected: a layer of another kind with the same path and shapes.
    Without a template, paths in .npz and .safetensors become nested dicts, split at slashes. All leaves are arrays, and
    dicts without leaves are missing; nets, optimizers and exports accept such params.

    Loading never executes code, so files from strangers are safe. It reads pickles of protocols 2 to 5 by NumPy 1 or 2,
    and compressed arrays of at most 100 times the file's size. Raises CheckpointError that names the file if it is
    damaged or not of the kind that `save` writes, and OSError if it cannot be read.
    """
    path, form = _find_format(path)
    if like is not None:
        with _NameErrors("like"):
            check_tree(like)
    with path.open("rb") as file, _NameErrors(path):
        tree = form.decode(file, os.fstat(file.fileno()).st_size)
        if form is not pickles:
            tree = nest(tree) if like is None else nest_like(tree, like)
        check_tree(tree)
        return tree if like is None else match_template(tree, like, reorder=form is not pickles)


class _NameErrors:
    """Turns a ValueError in the block into a CheckpointError that begins with `name`.

    From Python 3.12 on, `contextmanager` would leave a reference cycle, with all that was read, for each error.
    """

    def __init__(self, name: object) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ValueError):
            raise CheckpointError(f"{self.name}: {error}") from error


def _find_format(path: str | os.PathLike[str]) -> tuple[Path, Any]:
    """`path` as a Path, and the module of its format. Raises CheckpointError if there is none, or for a folder."""
    path = check_regular(path, CheckpointError)
    suffix = path.suffix or ".pkl"
    if suffix.lower() not in FORMATS:
        raise CheckpointError(f"{path}: expected a suffix {', '.join(FORMATS)} or none, got {suffix!r}")
    return path, FORMATS[suffix.lower()]
