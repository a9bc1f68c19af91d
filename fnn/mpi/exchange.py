"""What the ranks of MPI tell each other: numbers, gradients and rows, as memory, never as objects."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fnn.mpi.ranks import Comm, world
from fnn.op import Array, Params
from fnn.tree import tree_leaves, tree_map


def everyones(numbers: list[float], comm: Comm) -> Array:
    """The numbers of all ranks, float64 (ranks, numbers)."""
    rows = np.empty((comm.size, len(numbers)))
    comm.Allgather(np.array(numbers, float), rows)
    return rows


def totals(*numbers: float, comm: Comm | None = None) -> list[float]:
    """Each number's sum over the ranks of `comm` (all there are), the same bits on each. The call is collective.

    Metrics are such sums, and decisions too: `totals(stop)[0] > 0` tells every rank at once that one wants to stop.
    """
    sums: list[float] = everyones(list(numbers), world() if comm is None else comm).sum(0).tolist()
    return sums


def turned(leaf: Any) -> bool:
    """Whether an array's memory is that of its transpose."""
    return isinstance(leaf, np.ndarray) and leaf.flags.fnc


def summed(grads: Params, params: Params, comm: Comm) -> Params:
    """The sum of all ranks' grads: one message for each dtype, in which the numbers are in the params' memory order."""
    if comm.size == 1:
        return grads
    straight = tree_map(lambda param, grad: grad.T if turned(param) else grad, params, grads)
    leaves = tree_leaves(straight)
    sums: dict[Any, Iterator[Array]] = {}
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        these = [leaf for leaf in leaves if leaf.dtype == dtype]
        message = np.concatenate([leaf.ravel() for leaf in these], dtype=np.result_type(dtype, np.float32))
        _add_up(message, comm)  # float16 in float32
        sums[dtype] = iter(np.split(message.astype(dtype, copy=False), np.cumsum([leaf.size for leaf in these])[:-1]))

    def taken(param: Array, leaf: Array) -> Array:
        total = next(sums[leaf.dtype]).reshape(leaf.shape)
        return total.T if turned(param) else total

    summed: Params = tree_map(taken, params, straight)
    return summed


def _add_up(message: Array, comm: Comm) -> None:
    """Puts the sum over all ranks in the place of the message, a flat array.

    Neighbours halve it between them, add up a half each, and go on with that among neighbours of neighbours; on the way
    back the halves come together. Each number is thus added up once, in pairs and pairs of pairs, and what is sent is
    twice the message, however many ranks there are (Thakur, Rabenseifner and Gropp, "Optimization of collective
    communication operations in MPICH", 2005). Ranks past the last power of two hand theirs to one of the others first.
    """
    whole, other = 1 << (comm.size.bit_length() - 1), np.empty_like(message)

    def swap(sent: Array, received: Array, rank: int) -> None:
        comm.Sendrecv(sent.view(np.uint8), rank, recvbuf=received.view(np.uint8), source=rank)

    if comm.rank >= whole:
        swap(message, message[:0], comm.rank - whole)
        swap(message[:0], message, comm.rank - whole)
        return
    helped = comm.rank + whole < comm.size
    if helped:
        swap(message[:0], other, comm.rank + whole)
        message += other
    mine, halvings = message, []
    for place in range(whole.bit_length() - 1):
        middle, partner = len(mine) // 2, comm.rank ^ 1 << place
        kept, given = (mine[:middle], mine[middle:])[:: -1 if comm.rank >> place & 1 else 1]
        theirs = other[: len(kept)]
        swap(given, theirs, partner)
        kept += theirs
        halvings.append((kept, given, partner))
        mine = kept
    for kept, given, partner in reversed(halvings):
        swap(kept, given, partner)
    if helped:
        swap(message, message[:0], comm.rank + whole)


def gathered(array: Array, counts: Array, comm: Comm) -> Array:
    """The rows of all ranks' arrays, of which each has so many."""
    own = np.zeros((max(counts), *array.shape[1:]), array.dtype)
    own[: len(array)] = array
    rows = np.empty((comm.size, *own.shape), array.dtype)
    comm.Allgather(own.reshape(-1).view(np.uint8), rows.reshape(-1).view(np.uint8))
    return np.concatenate([some[:count] for some, count in zip(rows, counts, strict=True)])
