"""Two calls at once, line by line: what they share by mistake is found each time, and not by luck."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any, TypeVar

T = TypeVar("T")


def in_step(*calls: Callable[[], T]) -> Iterator[T]:
    """The results of two calls, each in a thread of its own, neither of which gets ahead of the other by a line.

    Both wait for each other before every line of Python, so that each finds there what the other has just left.
    """
    arrived: tuple[SimpleQueue[None], SimpleQueue[None]] = SimpleQueue(), SimpleQueue()
    apart = Event()  # one of the two has come to its end, or waits for a lock that the other holds

    def run(nth: int) -> T:
        def step(frame: Any, event: str, arg: Any) -> Any:
            if event == "line" and not apart.is_set():
                arrived[nth].put(None)
                try:
                    arrived[1 - nth].get(timeout=0.2)
                except Empty:
                    apart.set()
            return step

        sys.settrace(step)  # in this thread alone
        try:
            return calls[nth]()
        finally:
            sys.settrace(None)
            apart.set()
            arrived[nth].put(None)

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(run, range(2))
