"""`shard`: an operator run on the pieces of a batch, by several threads, with bits that do not depend on how many."""

import contextvars
import functools
import os
import warnings
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fnn.combine import wrap
from fnn.op import Array, Op, OpError, Params, Vjp, operator
from fnn.random import Key
from fnn.tree import tree_sum

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")
"""The variables, read when NumPy is imported, by which the environment holds BLAS to a number of threads."""


@operator
def shard(op: Op, workers: int | None = None, size: int = 128) -> Op:
    """`op`, with its batch in shards of at most `size` examples, run by `workers` threads (as many as there are cores).

    The number of shards is a power of two, and they are of one size as nearly as can be. Outputs and input cotangents
    are put together, parameter cotangents are added up in pairs, and pairs of pairs: the order of that sum is the one
    thing that differs from `op` itself, and it depends on `size` and on the batch alone. Each shard folds its number
    into the key. `op` must treat the examples of a batch independently of one another. Params are those of `op`.

    A shard is also the piece of work that stays in the processor's cache, so that shards pay on one core as well. While
    several threads work, BLAS should keep to one thread: set OPENBLAS_NUM_THREADS=1 before NumPy is imported, or
    install the extra `threads`, by which `shard` sees to it.
    """
    workers = cores() if workers is None else workers
    if not all(type(n) is int and n > 0 for n in (workers, size)):
        raise OpError(f"workers is {workers!r} and size {size!r}, wanted ints of at least 1")
    if workers > 1:
        _hold_blas()

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        shards = pieces(len(x), size)
        if len(shards) == 1:
            return op.apply(params, x, key and key.fold(0))

        def forward(i: int) -> tuple[Array, Vjp]:
            return op.apply(params, x[shards[i]], key and key.fold(i))

        ys, vjps = zip(*_each(forward, len(shards), workers), strict=True)

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            def backward(i: int) -> tuple[Params, Array | None]:
                pair: tuple[Params, Array | None] = vjps[i](dy[shards[i]], need_dx)
                return pair

            grads, dxs = zip(*_each(backward, len(shards), workers), strict=True)
            dx: Array | None = np.concatenate(dxs) if need_dx and dxs[0] is not None else None
            return tree_sum(grads), dx

        return np.concatenate(ys), pull

    return wrap(op, apply)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pieces(n: int, size: int) -> list[slice]:
    """The shards of a batch of n: a power of two of slices, as few as hold at most `size` each, as equal as can be."""
    count = 1
    while count * size < n:
        count *= 2
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


def _each(f: Callable[[int], T], n: int, workers: int) -> list[T]:
    """`[f(0), ..., f(n - 1)]`, computed by the calling thread and up to `workers - 1` others.

    The caller takes part until nothing is left to begin, so that a shard inside a shard cannot wait for itself.
    """
    if workers == 1:
        return [f(i) for i in range(n)]
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

    helpers = [_pool(workers - 1).submit(contextvars.copy_context().run, work) for _ in range(min(n, workers) - 1)]
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

    return ThreadPoolExecutor(threads, "fnn-shard")


@functools.cache
def _hold_blas() -> None:
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
