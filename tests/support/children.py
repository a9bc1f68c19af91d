"""Functions in forked processes, which tests kill like programs. A fork starts at once, so trials take milliseconds."""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

EVENTS = {"open", "os.rename", "os.remove", "os.chmod", "os.mkdir", "os.listdir", "os.truncate"}
"""The audit events of Python that are about files. An event comes before the system call."""


class Child:
    """A forked process that runs `call`, with its status as the exit status, and its output in the file `output`.

    It kills itself at the event number `last_event` about a file below `folder`; its output ends with the number of
    these events if `last_event` is None. `memory` limits it to so many more bytes.
    """

    def __init__(
        self, call: Callable[[], int], output: Path, folder: Path, last_event: int | None = 0, memory: int | None = None
    ) -> None:
        self.output = output
        self.status: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                _redirect(output)
                if memory:
                    _limit_memory(memory)
                events = _count_events(folder, last_event or 0)
                status = call()
                if last_event is None:
                    print(f"{len(events)} events")
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)

    def wait(self, seconds: float) -> int | None:
        """Returns the exit status, or the negative number of the signal that ended it; None if it still runs."""
        end = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= end:
                break
            else:
                time.sleep(0.002)
        return self.status

    def kill(self) -> int | None:
        """Kills it, if it still runs, and waits for its end."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait(60)


@contextmanager
def child(
    call: Callable[[], int], output: Path, folder: Path, last_event: int | None = 0, memory: int | None = None
) -> Iterator[Child]:
    """Yields a `Child`, which is killed at the end of the block if it still runs."""
    process = Child(call, output, folder, last_event, memory)
    try:
        yield process
    finally:
        process.kill()


def _redirect(output: Path) -> None:
    """Sends all output to the file, as a shell does."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115 (for good)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _limit_memory(more: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))


def _count_events(folder: Path, last: int) -> list[str]:
    """Returns a list that gets the name of each event about a file below the folder; kills at the `last`, from 1."""
    seen: list[str] = []
    start = str(folder)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in EVENTS and arguments and str(arguments[0]).startswith(start):
            seen.append(event)
            if len(seen) == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen
