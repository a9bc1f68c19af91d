"""Threads: the parts of one thing done by several, and what those do that have no part."""

import functools
import os
import warnings
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

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
        return [f(i) for i in range(n)] if crew == 1 else _together(f, n, crew, _pool(workers - 1))
    finally:
        _spare.reset(before)


def _together(f: Callable[[int], T], n: int, crew: int, pool: "ThreadPoolExecutor") -> list[T]:
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

    helpers = [pool.submit(copy_context().run, work) for _ in range(crew - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    if errors:
        raise errors[min(errors)]
    return results


@functools.cache
def _pool(threads: int) -> "ThreadPoolExecutor":
    """The threads that help out; they wait from one call to the next."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads, "fnn")


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
