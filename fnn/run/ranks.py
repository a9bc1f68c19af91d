"""A net and its task over the ranks of MPI, or over the threads of one process where there are no ranks."""

from fnn.mpi import Comm, part, spread, spread_loss
from fnn.op import Op
from fnn.run.task import Ranks
from fnn.transforms import shard


def over_ranks(net: Op, comm: Comm, workers: int | None, size: int) -> tuple[Op, Ranks]:
    """`net` in shards of at most `size` examples, by `workers` threads of each rank, and how the ranks share a task."""
    if comm.size == 1:
        return shard(net, workers, size), Ranks()
    ranks = Ranks(lambda n: part(n, size, comm), comm.allgather, lambda loss: spread_loss(loss, comm))
    return spread(net, comm, workers, size), ranks
