"""The processes that work together, which MPI calls ranks, and the program that each of them runs."""

import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from platform import node
from typing import Any, Protocol, cast

from fnn.kernels.threads import cores
from fnn.op import Array

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
LOCAL_RANKS = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""The variables by which launchers, those of MPICH, Intel MPI, Open MPI and Slurm, tell a process who it is."""


class MPIError(ValueError):
    """The processes cannot work together: MPI is missing, or is not the launcher's."""


class Comm(Protocol):
    """What is used of mpi4py's communicators: those who work together."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""

    @property
    def size(self) -> int:
        """How many processes there are."""

    def Allgather(self, sendbuf: Any, recvbuf: Any, /) -> None:  # noqa: N802
        """Every rank's array, one after the other."""

    def Sendrecv(self, sendbuf: Any, dest: int, *, recvbuf: Any, source: int) -> None:  # noqa: N802
        """Sends an array and receives one."""

    def allgather(self, sendobj: Any, /) -> list[Any]:
        """Every rank's object."""

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """Rank `root`'s object."""

    def Barrier(self) -> None:  # noqa: N802
        """Waits until every rank is there."""

    def Abort(self, errorcode: int = 0) -> Any:  # noqa: N802
        """Ends the processes of all ranks."""


class _Alone:
    """The communicator of a process that has no others: all that is ever asked of it."""

    rank, size = 0, 1

    def Allgather(self, sendbuf: Array, recvbuf: Array) -> None:  # noqa: N802
        recvbuf[...] = sendbuf

    def allgather(self, sendobj: Any) -> list[Any]:
        return [sendobj]

    def bcast(self, obj: Any, root: int = 0) -> Any:
        return obj

    def Barrier(self) -> None:  # noqa: N802
        pass


def launched() -> bool:
    """Whether an MPI launcher, such as mpiexec, started this process, or it has imported mpi4py.MPI by itself."""
    return "mpi4py.MPI" in sys.modules or any(name in os.environ for name in RANKS)


def world() -> Comm:
    """All the ranks that the launcher started, or this process alone where there was none.

    Raises MPIError where there was one, and mpi4py or its MPI is missing, or is another one than the launcher's.
    """
    if not launched():
        return cast(Comm, _Alone())
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the latter where mpi4py finds no MPI
        raise MPIError("a program under mpiexec needs mpi4py and its MPI: install fnn[mpi]") from error
    comm: Comm = MPI.COMM_WORLD
    started = next((int(os.environ[name]) for name in SIZES if name in os.environ), comm.size)
    if comm.size == 1 < started:
        raise MPIError(f"{started} processes were started, and each finds itself alone: mpiexec is not of mpi4py's MPI")
    return comm


def cores_each(comm: Comm) -> int:
    """How many cores this process has for itself, at least one: those it may use, over the ranks that may use them."""
    mine = node(), sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return max(1, cores() // comm.allgather(mine).count(mine))


def program(main: Callable[[], int]) -> int:
    """Runs `main` as the part of this rank in a program, and returns its exit status: `sys.exit(program(main))`.

    Rank 0 alone is heard. A rank whose `main` raises or returns another status than 0 ends all of them with that
    status: what it said on stderr comes out with its number before it. Of ranks that fail for the same reason the first
    is heard. Without a launcher this is `main()`.
    """
    if not launched():
        return main()
    try:
        comm = world()
    except MPIError as error:
        if all(os.environ.get(name, "0") == "0" for name in LOCAL_RANKS):  # one of the machine's processes is enough
            print(f"error: {error}", file=sys.stderr)
        return 1
    if comm.rank == 0:
        status = _status(main)
    else:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(StringIO()) as said:
            status = _status(main)
        if status:
            time.sleep(min(comm.rank, 8) / 2)  # in which a lower rank that fails as well is heard, and ends this one
            print(f"rank {comm.rank} of {comm.size}: {said.getvalue().strip()}", file=sys.stderr)
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(0.2)  # in which the launcher passes on what was said, which it may drop once it ends the ranks
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # MPI's own line would add nothing to what is said
        comm.Abort(status)
    return status


def _status(main: Callable[[], int]) -> int:
    """What `main` returns; whatever it raises is told on stderr as Python would at its end."""
    try:
        return main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):
            return 130
    return 1
