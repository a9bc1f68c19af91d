"""The lock of a folder. It is the system's: it ends with the process that has it, however that ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fnn.run.folder import RunError, refuse_used

if sys.platform == "win32":
    import msvcrt

    def _take(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def claimed(folder: Path, new: bool) -> Iterator[None]:
    """The folder is this process's alone until the block ends; for a new run, it is made where there is none.

    Raises RunError when another process has it, or when a new run finds one there; and OSError where nothing can be
    written. The file `lock` stays behind, and means nothing.
    """
    if new:
        folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "ab") as file:
        try:
            _take(file.fileno())
        except (BlockingIOError, PermissionError):
            raise RunError(f"{folder} is in use by another run") from None
        if new:
            refuse_used(folder)
        yield
