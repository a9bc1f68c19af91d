"""Atomic writes: after a crash, a full disk or a signal, a file has its old or its new content, never a mix."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from fnn.checks.errors import describe

if sys.platform == "win32":
    import msvcrt

    def lock(file: IO[Any]) -> None:
        """Locks the open file for this process. Raises OSError if another process has the lock."""
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def lock(file: IO[Any]) -> None:
        """Locks the open file for this process. Raises OSError if another process has the lock."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_regular(path: str | os.PathLike[str], error: Callable[[str], ValueError] = ValueError) -> Path:
    """`path` as a Path. Raises `error` for a folder or a device, which a file must not replace."""
    try:
        path = Path(path)
    except TypeError:
        raise error(f"path: expected a str or an os.PathLike of one, got {describe(path)}") from None
    if path.exists() and not path.is_file():
        raise error(f"{path}: expected a regular file, got a folder or a device")
    return path


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file that replaces `path` at the end of the block. After an error the old file is unchanged."""
    target = Path(os.path.realpath(path))  # a symbolic link stays, and the file it points to is replaced
    temporary = target.with_name(f".fnn-{os.urandom(8).hex()}")
    try:
        with open(temporary, "xb") as file:
            with suppress(OSError):  # some file systems have no locks
                lock(file)  # the file is in use: `remove_leftovers` keeps it
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            temporary.chmod(target.stat().st_mode)  # keeps the access rights of the old file
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error  # names `path`, not `temporary`
    finally:
        with suppress(OSError):
            temporary.unlink()
    with suppress(OSError):  # writes the new name to the disk too, on systems that can sync a folder
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of killed processes from the folder."""
    for path in folder.glob(".fnn-*"):
        if path.is_file():
            with suppress(OSError), open(path, "rb") as file:
                lock(file)  # fails while a process writes the file
                path.unlink()
