"""How processes share a run: over the ranks of MPI, or over the threads of a single process."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fnn.losses import Loss
from fnn.mpi import Comm, part, spread, spread_loss
from fnn.op import Op
from fnn.transforms import shard


class Ranks(NamedTuple):
    """How processes share the work; the default is a single process.

    `part(n)` is this process's slice of a batch of n examples, `gather(value)` returns the values of all processes, and
    `spread_loss(loss)` is the mean loss over the whole batch.
    """

    part: Callable[[int], slice] = lambda n: slice(0, n)
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    spread_loss: Callable[[Loss], Loss] = lambda loss: loss


def distribute(net: Op, comm: Comm, workers: int | None, size: int) -> tuple[Op, Ranks]:
    """Returns `net` in shards of at most `size` examples, over all ranks with `workers` threads each, and the ranks."""
    if comm.size == 1:
        return shard(net, workers, size), Ranks()
    ranks = Ranks(lambda n: part(n, size, comm), comm.allgather, lambda loss: spread_loss(loss, comm))
    return spread(net, comm, workers, size), ranks
