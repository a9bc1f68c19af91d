"""Atomic writes: after a crash, a full disk or a signal, a file has its old or its new content, never a mix."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fnn.checks.errors import describe


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
