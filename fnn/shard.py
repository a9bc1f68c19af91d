"""`shard`: an operator run on the pieces of a batch, by several threads, with bits that do not depend on how many."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fnn.checks import check_int
from fnn.combine import wrap
from fnn.op import Array, Op, OpError, Params, Vjp, operator
from fnn.random import Key
from fnn.threads import cores, each, hold_blas
from fnn.tree import tree_sum

SIZE = 128
"""How many examples a shard holds at most, by default."""

ALONE = 64
"""Of more images or sequences than these two shards are made, by default; vectors are soon worked through."""


@operator
def shard(op: Op, workers: int | None = None, size: int | None = None) -> Op:
    """`op`, with its batch in shards of at most `size` examples, run by `workers` threads (as many as there are cores).

    By default a shard holds at most 128 examples, and a batch of more than 64 images or sequences is cut in two at
    least, so that two cores have work. On many cores a smaller size may serve better. The number of shards is a power
    of two, and they are of one size as nearly as can be. Outputs and input cotangents are put together, parameter
    cotangents are added up in pairs, and pairs of pairs: the order of that sum is the one thing that differs from `op`
    itself, and it depends on `size` and on the batch alone. Each shard folds its number into the key. `op` must treat
    the examples of a batch independently of one another. Params are those of `op`.

    Threads that have no shard take a part of the others' larger products and of their parameters' cotangents, which
    changes no bit.

    A shard is also the piece of work that stays in the processor's cache, so that shards pay on one core as well. While
    several threads work, BLAS should keep to one thread: set OPENBLAS_NUM_THREADS=1 before NumPy is imported, or
    install the extra `threads`, by which `shard` sees to it.
    """
    workers = cores() if workers is None else check_int("workers", workers, 1, OpError)
    most = SIZE if size is None else check_int("size", size, 1, OpError)
    if workers > 1:
        hold_blas()

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        vectors = x.ndim == 2 and x.dtype.kind == "f"
        least = 2 if size is None and len(x) > ALONE and not vectors else 1
        return in_pieces(op, _numbered(len(x), most, least), workers, params, x, key)

    return wrap(op, apply)


def pieces(n: int, size: int, least: int = 1) -> list[slice]:
    """The shards of a batch of n: a power of two of slices, as equal as can be.

    They are as few as hold at most `size` each and are at least `least`.
    """
    count = 1
    while count * size < n or count < least:
        count *= 2
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


@lru_cache(maxsize=100)
def _numbered(n: int, size: int, least: int) -> dict[int, slice]:
    return dict(enumerate(pieces(n, size, least)))


def in_pieces(
    op: Op, shards: dict[int, slice], workers: int, params: Params, x: Array, key: Key | None
) -> tuple[Array, Vjp]:
    """`op` applied to `x` in these shards, by their numbers, which they fold into the key."""
    if len(shards) == 1:  # to a small net, all that follows would be a sixth of its step
        key = key and key.fold(*shards)
        if workers == 1:
            return op.apply(params, x, key)
        [(y, vjp)] = each(lambda i: op.apply(params, x, key), 1, workers)
        return y, lambda dy, need_dx=True: each(lambda i: vjp(dy, need_dx), 1, workers)[0]
    numbers, rows = list(shards), list(shards.values())

    def forward(i: int) -> tuple[Array, Vjp]:
        return op.apply(params, x[rows[i]], key and key.fold(numbers[i]))

    ys, vjps = zip(*each(forward, len(rows), workers), strict=True)

    def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
        def backward(i: int) -> tuple[Params, Array | None]:
            pair: tuple[Params, Array | None] = vjps[i](dy[rows[i]], need_dx)
            return pair

        grads, dxs = zip(*each(backward, len(rows), workers), strict=True)
        return tree_sum(grads), np.concatenate(dxs) if need_dx else None

    return np.concatenate(ys), pull
