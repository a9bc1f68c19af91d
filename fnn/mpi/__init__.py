"""Training one net with several processes over MPI; each has its part of every batch (extra `mpi`).

A training step is `value_and_grad(spread(net), spread_loss(loss))`, applied to this process's `part` of the batch.
Everything else, such as the optimizer, runs in every process with identical results. Start the program by
`mpiexec -n 4 python program.py`; without mpiexec it runs in one process and needs no MPI.
You can understand the rest of the library without reading this package.
"""

from fnn.mpi.ranks import Comm, MPIError, launched, program, world
from fnn.mpi.spreading import part, shards, spread, spread_loss, totals

__all__ = ["Comm", "MPIError", "launched", "part", "program", "shards", "spread", "spread_loss", "totals", "world"]
