"""How a program ends: errors are printed in one line, and signals stop it at once or after the current step."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fnn.checks.errors import escape
from fnn.data import DataError
from fnn.files.checkpoint import CheckpointError
from fnn.mpi import MPIError
from fnn.op import OpError
from fnn.run.faults import NotFiniteError
from fnn.run.folder import RunError

# Ctrl-C, a request to end, and the end of a terminal, which Windows does not announce.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

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

    The error and its notes are printed to stderr in one line, after the program's name. If nobody reads the output any
    more, as after `| head`, the program ends as after the signal SIGPIPE, without a message. Characters that an output
    cannot show are printed as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with catch_signals(defer=False):
            return main()
    except BrokenPipeError:
        close_output()
        return 128 + 13
    except EXPECTED_ERRORS as error:
        message = "; ".join([describe(error), *getattr(error, "__notes__", [])])
        print(f"{name}: error:", escape(message), file=sys.stderr)
        return 1
    except Interrupted as interrupt:
        make_log(keep_going=True)("stopped")
        return 128 + int(interrupt.args[0])


def make_log(keep_going: bool) -> Callable[[str], None]:
    """Returns a function that prints a line at once, also to a pipe. With `keep_going`, it cannot fail."""

    def log(line: str) -> None:
        try:
            print(line, flush=True)
        except (AttributeError, OSError, ValueError):  # no such method, nobody reads any more, closed
            if not keep_going:
                raise
            close_output()

    return log


def close_output() -> None:
    """Goes on without an output, like a program that starts without one: `print` then does nothing."""
    sys.stdout = None


def describe(error: Exception) -> str:
    """Returns the message of the error. That of the operating system is without its number: `file: reason`."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return str(error) or "not enough memory"  # Python's own has no text
    return str(error)


@contextmanager
def catch_signals(defer: bool) -> Iterator[list[int]]:
    """In the block, the signals in SIGNALS only append their numbers to the list. Ignored signals stay ignored.

    Unless `defer`, the first signal raises Interrupted; clean-up then finishes undisturbed by later ones.
    """
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        received.append(number)
        if not defer and len(received) == 1:
            raise Interrupted(number)

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    handlers = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in handlers:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
