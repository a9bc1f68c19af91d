"""Threads: the parts of one thing done by several, and other things done meanwhile by those that have no part."""

from __future__ import annotations

import atexit
import functools
import os
import sys
import warnings
from _thread import allocate_lock  # and not of threading, whose import takes half a millisecond: many need no thread
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from queue import SimpleQueue
    from threading import Thread

T = TypeVar("T")

BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")
"""The variables, read when NumPy is imported, by which the environment holds BLAS to a number of threads."""

MIN_DEFERRED_MACS = 2_000_000
"""From so many multiplications on, it pays to have another thread do them meanwhile."""

_spare = ContextVar("spare", default=1)
_helped = ContextVar("helped", default=True)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def idle_threads() -> int:
    """How many threads there are for what the caller does next: itself, and its share of those without a part."""
    return _spare.get()


def parallel_map(f: Callable[[int], T], n: int, workers: int) -> list[T]:
    """`[f(0), ..., f(n - 1)]`, computed by the calling thread and up to `workers - 1` others.

    The caller takes part until nothing is left to begin, so that work inside of work cannot wait for itself. Where n is
    less than `workers`, those that are left over are `spare` in `f`.
    """
    if workers == 1:
        return [f(i) for i in range(n)]
    crew = max(1, min(n, workers))
    before = _spare.set(workers // crew)
    try:
        return [f(i) for i in range(n)] if crew == 1 else _together(f, n, crew, workers)
    finally:
        _spare.reset(before)


def later(f: Callable[[], T], work: int) -> T | Callable[[], T]:
    """`f()`, or a function that waits for it, or raises what it raises, while a spare thread calls `f`.

    That is where a thread is spare and `f` takes enough work, counted in multiplications.
    """
    workers = idle_threads()
    if work < MIN_DEFERRED_MACS or workers == 1:
        return f()
    before = _spare.set(1)
    try:
        return _start(f, workers - 1)
    finally:
        _spare.reset(before)


@contextmanager
def without_helpers() -> Iterator[None]:
    """In the block, the calling thread does all work itself, as it does when the helpers are busy; same results."""
    before = _helped.set(False)
    try:
        yield
    finally:
        _helped.reset(before)


def _together(f: Callable[[int], T], n: int, crew: int, workers: int) -> list[T]:
    results: list[Any] = [None] * n
    errors: dict[int, BaseException] = {}
    todo = deque(range(n))

    def work() -> None:
        while todo and not errors:
            try:
                i = todo.popleft()
            except IndexError:
                return
            try:
                results[i] = f(i)
            except BaseException as error:
                errors[i] = error

    others = [_start(work, workers - 1) for _ in range(crew - 1)]
    work()
    for wait in others:
        wait()
    if errors:
        first = errors[min(errors)]
        errors.clear()  # else a reference cycle: the traceback of an error holds this frame
        try:
            raise first
        finally:
            del first
    return results


def _start(f: Callable[[], T], helpers: int) -> Callable[[], T]:
    """Queues `f` for one of so many helpers; the function returned waits for it, or calls it if none has begun it.

    If `f` raised an error, the function returned calls it again, in its own thread, to raise that error.

    An executor's futures do the same, and make a small net's step 2 to 4 % longer.
    """
    context, done = copy_context(), allocate_lock()
    results: list[T] = []
    failed: list[Callable[[], T]] = []
    done.acquire()

    def run() -> None:
        try:
            results.append(context.run(f))
        except BaseException:
            failed.append(f)
        done.release()

    place = [run]  # and nothing when somebody has taken it: `f`, and what it holds, is gone when it has been called

    def wait() -> T:
        _take(place)
        with done:
            if failed:
                # Called again to raise its error. An error kept here would be a reference cycle: its traceback holds
                # the frames of those who wait, and they hold this function.
                return context.copy().run(failed[0])
            return results[0]

    if _helped.get():
        _queue(helpers).put(place)
    return wait


def _take(place: list[Callable[[], None]]) -> None:
    """Does what is in the place, if it is still there."""
    try:
        run = place.pop()
    except IndexError:
        return
    run()


_queues: dict[int, SimpleQueue[list[Callable[[], None]]]] = {}
_threads: list[Thread] = []


def _queue(helpers: int) -> SimpleQueue[list[Callable[[], None]]]:
    """The queue of places that so many threads look into."""
    if helpers not in _queues:
        from queue import SimpleQueue
        from threading import Thread

        fresh: SimpleQueue[list[Callable[[], None]]] = SimpleQueue()

        def serve() -> None:
            while True:
                _take(fresh.get())

        if _queues.setdefault(helpers, fresh) is fresh:  # and no other thread was faster
            for i in range(helpers):
                _threads.append(Thread(target=serve, name=f"fnn_{i}", daemon=True))
                _threads[-1].start()
    return _queues[helpers]


@atexit.register
def _end() -> None:
    """Ends the helpers: one that is inside of NumPy when Python ends can crash it."""
    for helpers, queue in _queues.items():
        for _ in range(helpers):
            queue.put([sys.exit])
    for thread in _threads:
        thread.join()


def _forget() -> None:
    """Forgets the helpers, in the child of a fork, which has its parent's queues but not its threads."""
    _queues.clear()
    _threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@functools.cache
def limit_blas() -> None:
    """Holds BLAS to one thread where that can be done from here, and says how where it cannot."""
    try:
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, "blas")
    except ImportError:
        if any(os.environ.get(name) == "1" for name in BLAS_THREADS):
            return
        warnings.warn(
            "shard: BLAS may use several threads beside the shards', which slows both down; set OPENBLAS_NUM_THREADS=1 "
            "before NumPy is imported, or install fnn[threads]",
            RuntimeWarning,
            stacklevel=4,
        )
