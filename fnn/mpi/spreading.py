"""`spread`: an operator run by the ranks of a communicator, each on its part of the batch, as `shard` runs it."""

from __future__ import annotations

import functools
import zlib
from itertools import pairwise
from typing import Any

import numpy as np

from fnn.checks.errors import describe
from fnn.checks.values import check_int
from fnn.combinators import wrap
from fnn.kernels.process import limited_blas, warn_if_blas_is_unlimited
from fnn.losses import Loss, LossError, LossVjp
from fnn.mpi.exchange import everyones, gathered, summed, turned
from fnn.mpi.ranks import Comm, cores_each, world
from fnn.op import Array, Op, OpError, Params, Vjp, operator
from fnn.random import Key
from fnn.transforms import apply_in_shards, shard_slices
from fnn.tree import tree_items


def shards(n: int, size: int = 64, comm: Comm | None = None) -> dict[int, slice]:
    """The shards of a batch of n that belong to this rank, by their numbers: slices that follow one another.

    They are those of `shard` with that `size`, or as many as the next power of two that has one for each rank. Every
    rank has as many as any other, or one more.
    """
    comm = world() if comm is None else comm
    return dict(_dealt(*_counts(n, size), comm.size)[comm.rank])


def part(n: int, size: int = 64, comm: Comm | None = None) -> slice:
    """The examples that belong to this rank, of a batch of n: all that are in its `shards`."""
    comm = world() if comm is None else comm
    return _parts(*_counts(n, size), comm.size)[comm.rank]


def _counts(n: int, size: int) -> tuple[int, int]:
    """Both as ints of Python's. Raises OpError unless they are ints of at least 0 and 1."""
    return check_int("n", n, 0, OpError), check_int("size", size, 1, OpError)


@operator
def spread(op: Op, comm: Comm | None = None, workers: int | None = None, size: int = 64) -> Op:
    """`op` over the ranks of `comm` (all there are), whose inputs are, one after the other, the parts of one batch.

    Each rank gives its `part` of the batch and gets its part of the output; so with cotangents. The gradients of the
    params are the sums over all ranks, the same bits on each. They are those of `shard` with the same `size`: the whole
    batch is in shards by its rule, of which each rank has as many as any other, or one less, and runs them by `workers`
    threads (the cores, over the ranks that share them); a shard folds its number in the whole batch into the key, and
    sums go on along the same tree, where the number of ranks is a power of two. Where there would be more ranks than
    shards, shards are made smaller. The loss must be the whole batch's: `spread_loss` makes it so.

    The calls, that of `spread` itself, `init` and the vjp among them, are collective: every rank makes the same ones in
    the same order. OpError, on all ranks, where one has another part than `part` says or other params than the first.
    """
    comm = world() if comm is None else comm
    workers = cores_each(comm) if workers is None else check_int("workers", workers, 1, OpError)
    size = check_int("size", size, 1, OpError)
    if workers > 1 or comm.size > 1:
        warn_if_blas_is_unlimited()

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        with limited_blas(max(workers, comm.size)):
            y, vjp = apply_in_shards(op, _own(params, len(x), size, comm), workers, params, x, key)

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            with limited_blas(max(workers, comm.size)):
                grads, dx = vjp(dy, need_dx)
            return summed(grads, params, comm), dx

        return y, pull

    return wrap(op, apply)


def spread_loss(loss: Loss, comm: Comm | None = None) -> Loss:
    """The mean of `loss` over the whole batch, for each rank's part of the outputs and targets.

    Every rank gets the same value, and its part of the whole batch's cotangent: the bits of that are those of one
    process where the number of ranks is a power of two. Where parts are of different sizes, or of one example, each
    rank looks at the outputs of all. The calls are collective.
    """
    ranks = world() if comm is None else comm
    if ranks.size == 1:
        return loss

    def whole(outputs: Array, targets: Array) -> tuple[Any, LossVjp]:
        if len(targets) != len(outputs):
            raise LossError(
                f"spread_loss: targets are {describe(targets)}, wanted one for each output, {describe(outputs)}"
            )
        counts, orders = everyones([len(outputs), outputs.flags.fnc], ranks).T.astype(int)
        if min(counts) == max(counts) > 1:
            value, vjp = loss(outputs, targets)
            return type(value)(everyones([value], ranks).mean()), lambda: vjp() / ranks.size
        all_outputs = gathered(outputs, counts, ranks)
        if orders.any():  # in the memory order that one process would have, on which the order of sums depends
            all_outputs = np.asfortranarray(all_outputs)
        value, vjp = loss(all_outputs, gathered(targets, counts, ranks))
        start = sum(counts[: ranks.rank])
        return value, lambda: vjp()[start : start + len(outputs)]

    return whole


@functools.lru_cache(maxsize=100)
def _dealt(n: int, size: int, ranks: int) -> list[dict[int, slice]]:
    """The `shards` of each rank."""
    every = shard_slices(n, size, min_count=ranks)
    firsts = [len(every) * rank // ranks for rank in range(ranks + 1)]
    return [{i: every[i] for i in range(first, end)} for first, end in pairwise(firsts)]


@functools.lru_cache(maxsize=100)
def _parts(n: int, size: int, ranks: int) -> list[slice]:
    """The `part` of each rank."""
    return [slice(own[min(own)].start, own[max(own)].stop) for own in _dealt(n, size, ranks)]


def _own(params: Params, count: int, size: int, comm: Comm) -> dict[int, slice]:
    """This rank's shards by their numbers, as slices of its part, after a look at what everyone has."""
    layout = zlib.crc32(repr([(path, describe(leaf), turned(leaf)) for path, leaf in tree_items(params)]).encode())
    counts, layouts = everyones([count, layout], comm).T.astype(int).tolist()
    if other := next((rank for rank in range(comm.size) if layouts[rank] != layouts[0]), None):
        raise OpError(f"rank {other}'s params have not the names, shapes, dtypes and memory orders of rank 0's")
    n, parts = sum(counts), _parts(sum(counts), size, comm.size)
    for rank, (count, its) in enumerate(zip(counts, parts, strict=True)):
        if count != its.stop - its.start:
            raise OpError(
                f"rank {rank} has {count} of the batch's {n} examples, wanted its part, {its.stop - its.start}"
            )
    own, start = _dealt(n, size, comm.size)[comm.rank], parts[comm.rank].start
    return {number: slice(shard.start - start, shard.stop - start) for number, shard in own.items()}
