"""Disk faults: makes the system calls that read and write the files of a folder fail, one after the other."""

import builtins
import errno
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

ERRORS = (errno.ENOSPC, errno.EIO, errno.ENOLCK, errno.EACCES, errno.EROFS, errno.EFBIG, errno.EDQUOT)
PATHS = ("stat", "lstat", "chmod", "replace", "unlink", "open", "listdir", "mkdir")  # functions of os with a path


class Faults:
    """Counts the calls; those from `first` to `last` raise OSError with the number `error`, and are in `failed`."""

    def __init__(self, folder: Path, first: int, last: int, error: int) -> None:
        self.folder, self.first, self.last, self.error = str(folder), first, last, error
        self.calls, self.failed = 0, list[str]()

    def call(self, name: str, path: Any = None) -> None:
        """Counts a call, which may fail."""
        if path is not None and not os.fspath(path).startswith(self.folder):
            return
        self.calls += 1
        if self.first <= self.calls <= self.last:
            self.failed.append(name)
            raise OSError(self.error, os.strerror(self.error), *([] if path is None else [os.fspath(path)]))

    def wrap(self, name: str, function: Callable[..., Any], has_path: bool) -> Callable[..., Any]:
        """Returns the function, counted."""

        def counted(*arguments: Any, **named: Any) -> Any:
            is_path = has_path and isinstance(arguments[0], str | os.PathLike)
            if is_path or not has_path:
                self.call(name, arguments[0] if is_path else None)
            return function(*arguments, **named)

        return counted

    def open(self, file: Any, mode: str = "r", buffering: int = -1, *text: Any, **named: Any) -> Any:
        """Opens a file below the folder whose calls are counted, too; others as always."""
        if not isinstance(file, str | os.PathLike) or not os.fspath(file).startswith(self.folder):
            return OPEN(file, mode, buffering, *text, **named)
        self.call(f"open {mode}", file)
        raw = FaultyFile(file, mode.replace("b", ""), self)
        binary: Any = io.BufferedReader(raw) if raw.readable() else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, *text, **named)


class FaultyFile(io.FileIO):
    """A file that fails as its `faults` say. Closing can fail only after writes, as on network disks."""

    def __init__(self, file: Any, mode: str, faults: Faults) -> None:
        super().__init__(os.fspath(file), mode)
        self.faults, self.is_written = faults, False

    def readinto(self, buffer: Any) -> int:
        self.faults.call("read")
        return super().readinto(buffer) or 0

    def readall(self) -> bytes:
        self.faults.call("read")
        return super().readall() or b""

    def write(self, data: Any) -> int:
        self.faults.call("write")
        self.is_written = True
        return super().write(data) or 0

    def close(self) -> None:
        is_first = not self.closed
        super().close()
        if is_first and self.is_written:
            self.faults.call("close")


OPEN = builtins.open


@contextmanager
def faults(folder: Path, first: int = 0, last: int = -1, error: int = 0) -> Iterator[Faults]:
    """In the block, the calls number `first` to `last`, from 1, about files below the folder fail."""
    state = Faults(folder, first, last, error)
    wrapped = {("os", name): state.wrap(name, getattr(os, name), True) for name in PATHS}
    wrapped |= {("os", "fsync"): state.wrap("fsync", os.fsync, False)}
    wrapped |= {("fcntl", "flock"): state.wrap("flock", fcntl.flock, False)}
    wrapped |= {("builtins", "open"): state.open, ("io", "open"): state.open}
    undo = []
    try:
        for (module, name), function in wrapped.items():
            undo.append(patch(f"{module}.{name}", function))
            undo[-1].start()
        yield state
    finally:
        for patched in reversed(undo):
            patched.stop()
