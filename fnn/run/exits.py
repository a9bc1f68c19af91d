"""How a program ends: errors are printed in one line, and signals stop it at once or after the current step."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fnn.data import DataError
from fnn.files.checkpoint import CheckpointError
from fnn.mpi import MPIError
from fnn.op import OpError
from fnn.run.faults import NotFiniteError
from fnn.run.folder import RunError

# These are printed without a traceback.
EXPECTED_ERRORS = (
    CheckpointError,
    DataError,
    ImportError,
    MPIError,
    MemoryError,
    NotFiniteError,
    OpError,
    OSError,
    RunError,
)


class Interrupted(BaseException):
    """A signal arrived; the argument is its number. Like KeyboardInterrupt, this is not an Exception."""


def exit_status(name: str, main: Callable[[], int]) -> int:
    """Runs `main` and returns its status, or 1 after an expected error, or 128 + n after signal n.

    The error and its notes are printed to stderr in one line, after the program's name.
    """
    try:
        with catch_signals(defer=False):
            return main()
    except EXPECTED_ERRORS as error:
        print(f"{name}: error:", "; ".join([describe(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 1
    except Interrupted as interrupt:
        with suppress(OSError):  # such as a pipe that nobody reads any more
            print("stopped", flush=True)
        return 128 + int(interrupt.args[0])


def describe(error: Exception) -> str:
    """Returns the message of the error. That of the operating system is without its number: `file: reason`."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@contextmanager
def catch_signals(defer: bool) -> Iterator[list[int]]:
    """In the block, SIGINT and SIGTERM only append their numbers to the list. Ignored signals stay ignored.

    Unless `defer`, the first signal raises Interrupted; clean-up then finishes undisturbed by later ones.
    """
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        received.append(number)
        if not defer and len(received) == 1:
            raise Interrupted(number)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in handlers:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
