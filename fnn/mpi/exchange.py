"""Exchanges of numbers, gradients and rows between the ranks of MPI, as raw memory, without pickling objects."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from fnn.mpi.ranks import Comm, world
from fnn.op import Array, Params
from fnn.tree import tree_leaves, tree_map


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
