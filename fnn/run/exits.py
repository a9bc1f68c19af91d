"""How a program ends: errors are printed in one line, and signals stop it at once or after the current step."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fnn.data import DataError
from fnn.files.checkpoint import CheckpointError
from fnn.mpi import MPIError
from fnn.op import OpError
from fnn.run.faults import NotFiniteError
from fnn.run.folder import RunError

EXPECTED_ERRORS = (CheckpointError, DataError, ImportError, MPIError, NotFiniteError, OpError, OSError, RunError)
"""Errors printed without a traceback."""


class Interrupted(BaseException):
    """A signal arrived: `number`. Like KeyboardInterrupt, this is not an Exception."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_status(name: str, main: Callable[[], int]) -> int:
    """Runs `main` and returns its status, or 1 after an expected error, or 128 + n after signal n.

    The error and its notes are printed to stderr in one line, after the program's name.
    """
    try:
        with signals_as_exceptions():
            return main()
    except EXPECTED_ERRORS as error:
        print(f"{name}: error:", "; ".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 1
    except Interrupted as interrupt:
        print("stopped", flush=True)
        return 128 + interrupt.number


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """In the block, the first SIGINT or SIGTERM raises Interrupted. Later ones are ignored, so clean-up can finish."""
    received: list[int] = []

    def handle(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            raise Interrupted(number)

    with _handle_signals(handle):
        yield


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """In the block, SIGINT and SIGTERM only append their numbers to the list."""
    received: list[int] = []
    with _handle_signals(received.append):
        yield received


@contextmanager
def _handle_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """In the block, signals call `handle` with their numbers. Ignored ones, as in background jobs, stay ignored."""
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = [signal.signal(number, lambda number, frame: handle(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
