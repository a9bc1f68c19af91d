"""`spread`: like `shard`, but the ranks of a communicator share the batch. They exchange raw memory, not pickles."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from fnn.checks.errors import describe
from fnn.checks.values import check_int
from fnn.combinators import wrap
from fnn.kernels.process import warn_if_blas_is_unlimited
from fnn.losses import Loss, LossError, LossVjp
from fnn.mpi.ranks import Comm, cores_per_rank, world
from fnn.op import Array, Op, OpError, Params, Vjp, operator
from fnn.random import Key
from fnn.transforms import apply_in_shards, shard_slices
from fnn.tree import tree_items, tree_leaves, tree_map


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

    If `op` has a batch_norm, which needs the whole batch, every rank computes all of a training batch. The result is
    that of `shard`, but more ranks take no less time; group_norm does not have this problem.

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
        if op.statistics and key is not None and comm.size > 1:
            return _apply_to_all(op, comm, workers, params, x, key)
        y, vjp = apply_in_shards(op, shards, workers, params, x, key)

        def vjp_part(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            grads, dx = vjp(dy, need_dx)
            return sum_gradients(grads, params, comm), dx

        return y, vjp_part

    return wrap(op, apply)


def _apply_to_all(op: Op, comm: Comm, workers: int, params: Params, x: Array, key: Key) -> tuple[Array, Vjp]:
    """Applies `op` to the examples of all ranks, on each rank, and returns this rank's part of the result."""
    counts = gather_numbers([len(x)], comm)[:, 0].astype(int)
    start = sum(counts[: comm.rank])
    own = slice(start, start + len(x))
    y, vjp = apply_in_shards(op, {0: slice(None)}, workers, params, gather_rows(x, counts, comm), key)

    def vjp_own(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
        dparams, dx = vjp(gather_rows(dy, counts, comm), need_dx)
        return dparams, dx[own] if need_dx else None

    return y[own], vjp_own


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


def gather_numbers(numbers: Sequence[float], comm: Comm) -> Array:
    """Returns the numbers of all ranks, float64 (ranks, numbers)."""
    rows = np.empty((comm.size, len(numbers)))
    comm.Allgather(np.array(numbers, float), rows)
    return rows


def totals(*numbers: float, comm: Comm | None = None) -> list[float]:
    """Returns each number's sum over the ranks of `comm` (default: all). All ranks must call it together.

    Use it for metrics and for decisions: `totals(stop)[0] > 0` is true on all ranks if one of them wants to stop.
    """
    sums: list[float] = gather_numbers(numbers, world() if comm is None else comm).sum(0).tolist()
    return sums


def is_transposed(leaf: Any) -> bool:
    """Whether an array is in Fortran order and not in C order."""
    return isinstance(leaf, np.ndarray) and leaf.flags.fnc


def sum_gradients(grads: Params, params: Params, comm: Comm) -> Params:
    """Returns the sum of all ranks' gradients, in the memory order of the params, with one message per dtype."""
    if comm.size == 1:
        return grads

    def order(param: Any) -> Literal["C", "F"]:
        return "F" if is_transposed(param) else "C"

    leaves = tree_leaves(tree_map(lambda param, grad: grad.ravel(order(param)), params, grads))
    sums: dict[Any, Iterator[Array]] = {}
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        same = [leaf for leaf in leaves if leaf.dtype == dtype]
        message = np.concatenate(same, dtype=np.result_type(dtype, np.float32))  # float16 is summed in float32
        _allreduce(message, comm)
        sums[dtype] = iter(np.split(message.astype(dtype, copy=False), np.cumsum([leaf.size for leaf in same])[:-1]))
    summed: Params = tree_map(
        lambda param, grad: next(sums[grad.dtype]).reshape(grad.shape, order=order(param)), params, grads
    )
    return summed


def _allreduce(message: Array, comm: Comm) -> None:
    """Replaces the message, a flat array, with its sum over all ranks, added up as in a binary tree.

    Pairs of ranks split the message, and each adds up one half; the next level splits that half with the rank at twice
    the distance. On the way back, the halves are exchanged. So each rank sends at most twice the message (Thakur et
    al., "Optimization of collective communication operations in MPICH", 2005). Ranks after the last power of two first
    send their message to another rank.
    """
    power, buffer = 1 << (comm.size.bit_length() - 1), np.empty_like(message)

    def swap(sent: Array, received: Array, rank: int) -> None:
        comm.Sendrecv(sent.view(np.uint8), rank, recvbuf=received.view(np.uint8), source=rank)

    if comm.rank >= power:
        swap(message, message[:0], comm.rank - power)
        swap(message[:0], message, comm.rank - power)
        return
    has_helper = comm.rank + power < comm.size
    if has_helper:
        swap(message[:0], buffer, comm.rank + power)
        message += buffer
    own, halvings = message, []
    for level in range(power.bit_length() - 1):
        middle, partner = len(own) // 2, comm.rank ^ 1 << level
        kept, sent = (own[:middle], own[middle:])[:: -1 if comm.rank >> level & 1 else 1]
        received = buffer[: len(kept)]
        swap(sent, received, partner)
        kept += received
        halvings.append((kept, sent, partner))
        own = kept
    for kept, sent, partner in reversed(halvings):
        swap(kept, sent, partner)
    if has_helper:
        swap(message, message[:0], comm.rank + power)


def gather_rows(array: Array, counts: Array, comm: Comm) -> Array:
    """Concatenates all ranks' rows; `counts[r]` rows come from rank r."""
    own = np.zeros((max(counts), *array.shape[1:]), array.dtype)
    own[: len(array)] = array
    rows = np.empty((comm.size, *own.shape), array.dtype)
    comm.Allgather(own.reshape(-1).view(np.uint8), rows.reshape(-1).view(np.uint8))
    return np.concatenate([block[:count] for block, count in zip(rows, counts, strict=True)])
