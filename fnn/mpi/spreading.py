"""`spread`: like `shard`, but the ranks of a communicator share the batch."""

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
from fnn.mpi.exchange import gather_numbers, gather_rows, is_transposed, sum_gradients
from fnn.mpi.ranks import Comm, cores_per_rank, world
from fnn.op import Array, Op, OpError, Params, Vjp, operator
from fnn.random import Key
from fnn.transforms import apply_in_shards, shard_slices
from fnn.tree import tree_items


def shards(n: int, size: int = 64, comm: Comm | None = None) -> dict[int, slice]:
    """Returns this rank's shards of a batch of n examples, as slices by their numbers.

    The shards are those of `shard` with that `size`, or smaller so that each rank has one.
    """
    comm = world() if comm is None else comm
    n, size = check_int("n", n, 0, OpError), check_int("size", size, 1, OpError)
    return dict(_split_batch(n, size, comm.size)[comm.rank])


def part(n: int, size: int = 64, comm: Comm | None = None) -> slice:
    """Returns the slice of a batch of n examples that belongs to this rank: all of its `shards`."""
    return _join(shards(n, size, comm))


@functools.lru_cache(maxsize=100)
def _split_batch(n: int, size: int, ranks: int) -> list[dict[int, slice]]:
    """Returns the shards of each rank."""
    numbered = list(enumerate(shard_slices(n, size, min_count=ranks)))
    bounds = [len(numbered) * rank // ranks for rank in range(ranks + 1)]
    return [dict(numbered[start:stop]) for start, stop in pairwise(bounds)]


def _join(shards: dict[int, slice]) -> slice:
    slices = list(shards.values())
    return slice(slices[0].start, slices[-1].stop)


@operator
def spread(op: Op, comm: Comm | None = None, workers: int | None = None, size: int = 64) -> Op:
    """Applies `op` on all ranks of `comm` (default: all ranks); each rank passes its `part` of the batch.

    Each rank gets its part of the output and of the input's gradient. The gradients of the params are sums over all
    ranks, identical on each. They are also identical to those of `shard` with the same `size` if the number of ranks is
    a power of two and each rank has a shard; with fewer shards than ranks, shards are made smaller. `workers` threads
    run this rank's shards (default: the cores divided by the ranks that share them). Use `spread_loss` for the loss.

    All ranks must make the same calls in the same order, those of `spread`, `init` and the vjp included. Raises OpError
    on all ranks if one has another part than `part` returns, or other params than rank 0.
    """
    comm = world() if comm is None else comm
    workers = cores_per_rank(comm) if workers is None else check_int("workers", workers, 1, OpError)
    size = check_int("size", size, 1, OpError)
    if workers > 1 or comm.size > 1:
        warn_if_blas_is_unlimited()

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        shards = _own_shards(params, len(x), size, comm)
        with limited_blas(max(workers, comm.size)):
            y, vjp = apply_in_shards(op, shards, workers, params, x, key)

        def vjp_part(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            with limited_blas(max(workers, comm.size)):
                grads, dx = vjp(dy, need_dx)
            return sum_gradients(grads, params, comm), dx

        return y, vjp_part

    return wrap(op, apply)


def _own_shards(params: Params, count: int, size: int, comm: Comm) -> dict[int, slice]:
    """Returns this rank's shards as slices of its part, after checking the parts and params of all ranks."""
    layout = [(path, describe(leaf), is_transposed(leaf)) for path, leaf in tree_items(params)]
    numbers = [count, zlib.crc32(repr(layout).encode())]
    counts, layouts = gather_numbers(numbers, comm).T.astype(int).tolist()
    n = sum(counts)
    splits = _split_batch(n, size, comm.size)
    for rank in range(comm.size):
        if layouts[rank] != layouts[0]:
            expected = "the names, shapes, dtypes and memory orders of rank 0"
            raise OpError(f"params: expected {expected}, got others on rank {rank}")
        rows = _join(splits[rank])
        if counts[rank] != rows.stop - rows.start:
            expected = f"its part, {rows.stop - rows.start} of {n} examples"
            raise OpError(f"rank {rank}: expected {expected}, got {counts[rank]}")
    start = _join(splits[comm.rank]).start
    return {i: slice(shard.start - start, shard.stop - start) for i, shard in splits[comm.rank].items()}


def spread_loss(loss: Loss, comm: Comm | None = None) -> Loss:
    """Returns the mean of `loss` over the whole batch, for each rank's part of the outputs and targets.

    Every rank gets the same value and its part of the gradient, which is identical to that of one process if the number
    of ranks is a power of two. All ranks must call the loss together.
    """
    comm = world() if comm is None else comm
    if comm.size == 1:
        return loss

    def loss_of_batch(outputs: Array, targets: Array) -> tuple[Any, LossVjp]:
        if len(targets) != len(outputs):
            expected = f"one for each output, {describe(outputs)}"
            raise LossError(f"spread_loss: targets: expected {expected}, got {describe(targets)}")
        counts, orders = gather_numbers([len(outputs), outputs.flags.fnc], comm).T.astype(int)
        if min(counts) == max(counts) > 1:  # otherwise all outputs are sent to all ranks
            value, vjp = loss(outputs, targets)
            return type(value)(gather_numbers([value], comm).mean()), lambda: vjp() / comm.size
        all_outputs = gather_rows(outputs, counts, comm)
        if orders.any():  # the memory order of one process, because the order of sums depends on it
            all_outputs = np.asfortranarray(all_outputs)
        value, vjp = loss(all_outputs, gather_rows(targets, counts, comm))
        start = sum(counts[: comm.rank])
        return value, lambda: vjp()[start : start + len(outputs)]

    return loss_of_batch
