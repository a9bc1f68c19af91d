"""Threads: the parts of one thing done by several, and what those do that have no part."""

import functools
import os
import warnings
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from queue import SimpleQueue

T = TypeVar("T")

BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")
"""The variables, read when NumPy is imported, by which the environment holds BLAS to a number of threads."""

_spare = ContextVar("spare", default=1)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spare() -> int:
    """How many threads there are for what the caller does next: itself, and its share of those without a part."""
    return _spare.get()


def each(f: Callable[[int], T], n: int, workers: int) -> list[T]:
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


def begin(f: Callable[[], T]) -> Callable[[], T]:
    """Has a spare thread call `f` meanwhile, and gives a function that waits for what it returns or raises."""
    workers = spare()
    before = _spare.set(1)
    try:
        return _start(f, workers)
    finally:
        _spare.reset(before)


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

    others = [_start(work, workers) for _ in range(crew - 1)]
    work()
    for wait in others:
        wait()
    if errors:
        raise errors[min(errors)]
    return results


def _start(f: Callable[[], T], workers: int) -> Callable[[], T]:
    """Gives `f` to a helper, and a function that waits for it, or does it where no helper has come to it yet.

    An executor's futures do the same, but take twice as long, which is a twentieth of a small net's step.
    """
    context, claim, done = copy_context(), allocate_lock(), allocate_lock()
    results: list[T] = []
    errors: list[BaseException] = []
    done.acquire()

    def task() -> None:
        if claim.acquire(blocking=False):
            try:
                results.append(context.run(f))
            except BaseException as error:
                errors.append(error)
            done.release()

    def wait() -> T:
        task()
        with done:
            for error in errors:
                raise error
            return results[0]

    _helpers(workers - 1).put(task)
    return wait


@functools.cache
def _helpers(number: int) -> "SimpleQueue[Callable[[], None]]":
    """The queue of so many threads, which do what comes in it."""
    from queue import SimpleQueue
    from threading import Thread

    tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def serve() -> None:
        while True:
            tasks.get()()

    for i in range(number):
        Thread(target=serve, name=f"fnn_{i}", daemon=True).start()
    return tasks


@functools.cache
def hold_blas() -> None:
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
