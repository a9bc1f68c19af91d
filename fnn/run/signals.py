"""SIGINT and SIGTERM: raised while there is nothing to keep, and only noted while there is."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal came, `number`; as KeyboardInterrupt is, it is no Exception."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def raised() -> Iterator[None]:
    """In the block, the first signal raises Interrupted; further ones do nothing, so that what cleans up can do so."""
    came: list[int] = []

    def handle(number: int) -> None:
        came.append(number)
        if len(came) == 1:
            raise Interrupted(number)

    with _handled(handle):
        yield


@contextmanager
def noted() -> Iterator[list[int]]:
    """In the block, signals do nothing but add their numbers to the list."""
    came: list[int] = []
    with _handled(came.append):
        yield came


@contextmanager
def _handled(handle: Callable[[int], None]) -> Iterator[None]:
    """In the block, `handle` gets the signals' numbers; one that is ignored, as by background jobs, still is."""
    heeded = [number for number in NUMBERS if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, lambda number, frame: handle(number)) for number in heeded]
    try:
        yield
    finally:
        for number, handler in zip(heeded, before, strict=True):
            signal.signal(number, handler)
