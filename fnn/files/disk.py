"""Files written so that a crash, a full disk or a signal leaves the old one or the new one, whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fnn.checks.errors import describe


def regular(path: str | os.PathLike[str]) -> Path:
    """`path`; a ValueError if there is something there that is no regular file: to replace a device ends badly."""
    try:
        path = Path(path)
    except TypeError:
        raise ValueError(f"path is {describe(path)}, wanted a str or an os.PathLike of one") from None
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: a regular file wanted, but it is a folder or a device")
    return path


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` at the block's end, on the disk by then, or leaves no trace."""
    target = Path(os.path.realpath(path))  # a link stays, and what it points to is replaced
    temporary = target.with_name(f".fnn-{os.urandom(8).hex()}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            temporary.chmod(target.stat().st_mode)  # who may read the old file may read the new one, and nobody else
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
