"""Atomic writes: after a crash, a full disk or a signal, a file has its old or its new content, never a mix."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from fnn.checks.errors import describe

TEMPORARY = re.compile(r"\.fnn-[0-9a-f]{16}")  # the names of temporary files

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
    """Opens a new file that replaces `path` at the end of the block. After an error the old file is unchanged.

    Also removes what killed processes left in the folder, so temporary files cannot pile up.
    """
    target = Path(os.path.realpath(path))  # a symbolic link stays, and the file it points to is replaced
    temporary = target.with_name(f".fnn-{os.urandom(8).hex()}")
    remove_leftovers(target.parent)
    file = None
    try:
        file = _open_locked(temporary)
        yield file
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            temporary.chmod(target.stat().st_mode)  # keeps the access rights of the old file
        if sys.platform == "win32":
            file.close()  # Windows renames no open file; elsewhere the lock holds until the file has its name
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error  # names `path`, not `temporary`
    finally:
        with suppress(OSError):  # an error of closing comes too late to matter: the content is on the disk, or useless
            if file:
                file.close()
        with suppress(OSError):
            temporary.unlink()
    with suppress(OSError):  # writes the new name to the disk too, on systems that can sync a folder
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_locked(path: Path) -> BinaryIO:
    """Opens a new file for writing. It is locked, so that `remove_leftovers` of another process keeps it."""
    while True:
        file = open(path, "wb")  # noqa: SIM115 (the caller closes it)
        try:
            lock(file)
            if path.exists():
                return file
        except BlockingIOError:
            pass  # another process removes the file, which was not locked yet
        except OSError:
            return file  # some file systems have no locks; `remove_leftovers` then removes nothing
        file.close()


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of killed processes from the folder, as far as possible."""
    with suppress(OSError):
        for name in filter(TEMPORARY.fullmatch, os.listdir(folder)):
            path = folder / name
            with suppress(OSError):
                if path.is_file():
                    with open(path, "rb") as file:
                        lock(file)  # fails while a process writes the file
                        with suppress(PermissionError):
                            path.unlink()
                    path.unlink(missing_ok=True)  # on Windows, which removes no open file
