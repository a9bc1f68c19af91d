"""Runs work on several threads: `parallel_map` for the parts of one task, `run_both` for two functions.

The caller always works too, and does what no thread has started, so work inside of work cannot wait for itself. Results
do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

S = TypeVar("S")
T = TypeVar("T")

MIN_SHARED_MACS = 8_000_000  # minimum multiply-adds for which it pays to hand work to another thread

_idle = ContextVar("idle", default=1)
_has_helpers = ContextVar("has_helpers", default=True)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def idle_threads() -> int:
    """How many threads the caller may use: itself and its share of the idle ones."""
    return _idle.get()


def parallel_map(f: Callable[[int], T], n: int, workers: int) -> list[T]:
    """Returns `[f(0), ..., f(n - 1)]`, computed by the caller and up to `workers - 1` other threads.

    If n is less than `workers`, the others are `idle_threads` inside `f`. If several calls fail, the error of the first
    is raised.
    """
    if workers == 1:
        return [f(i) for i in range(n)]
    crew = max(1, min(n, workers))
    before = _idle.set(workers // crew)
    try:
        if crew == 1:
            return [f(i) for i in range(n)]
        return _run_together(f, n, crew)
    finally:
        _idle.reset(before)


def run_both(f: Callable[[], S], g: Callable[[], T], macs: int) -> tuple[S, T]:
    """Returns `(f(), g())`. Runs both at the same time if a thread is idle and `f` is long enough, in multiply-adds."""
    idle = idle_threads()
    if macs < MIN_SHARED_MACS or idle == 1:
        return f(), g()
    before = _idle.set(idle // 2)
    future = _submit(f)
    try:
        second = g()
        return f() if future is None or future.cancel() else future.result(), second
    finally:
        if future and not future.cancel():
            future.exception()  # waits; the error of `g` comes first
        del future  # it refers to its error, whose traceback refers to this function
        _idle.reset(before)


def _run_together(f: Callable[[int], T], n: int, crew: int) -> list[T]:
    results: list[Any] = [None] * n
    errors: dict[int, BaseException] = {}
    todo = deque(range(n))

    def work() -> None:
        while todo and not errors:
            try:
                i = todo.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                results[i] = f(i)
            except BaseException as error:
                errors[i] = error

    others = [future for _ in range(crew - 1) if (future := _submit(work))]
    work()
    for future in others:
        if not future.cancel():  # False if a thread has started it
            future.result()
    if errors:
        try:
            raise errors[min(errors)]
        finally:
            errors.clear()  # the traceback of the error refers to this function: without this, the two form a cycle
    return results


def _submit(work: Callable[[], T]) -> Future[T] | None:
    """Starts `work` on another thread, in the context of the caller. None if threads can no longer start."""
    if not _has_helpers.get():
        return None
    try:
        return _executor().submit(copy_context().run, work)
    except RuntimeError:  # Python is shutting down
        return None


@cache
def _executor() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # many programs need no thread, and the import takes 5 ms

    return ThreadPoolExecutor(1000, "fnn")  # starts threads only as they are needed


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_executor.cache_clear)  # a child process does not have its parent's threads


@contextmanager
def without_helpers() -> Iterator[None]:
    """In the block, the caller does all work itself, as if all threads were busy. Results are the same."""
    before = _has_helpers.set(False)
    try:
        yield
    finally:
        _has_helpers.reset(before)
