"""One net trained by several processes over MPI, each of which has its own part of every batch (extra `mpi`).

A step of such a program is `value_and_grad(spread(net), spread_loss(loss))`, applied to `part` of the batch; all else,
the optimizer among it, every process does for itself, with the same bits. `mpiexec -n 4 python program.py` starts it;
without a launcher the process is alone, and neither mpi4py nor MPI is touched.
"""

from fnn.mpi.exchange import totals
from fnn.mpi.ranks import Comm, MPIError, launched, program, world
from fnn.mpi.spreading import part, shards, spread, spread_loss

__all__ = ["Comm", "MPIError", "launched", "part", "program", "shards", "spread", "spread_loss", "totals", "world"]
