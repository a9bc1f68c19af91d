"""Handlers of signals as in a program that a terminal starts. A background job ignores some signals instead."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@contextmanager
def default_handlers() -> Iterator[None]:
    """Sets the default handlers, also for the programs that start in the block, and restores the old ones after it."""
    before = [signal.signal(number, signal.SIG_DFL) for number in NUMBERS]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in zip(NUMBERS, before, strict=True):
            signal.signal(number, handler)
