"""The processes of an MPI program, called ranks, and the function that runs the program in each of them."""

# ruff: noqa: D102, N802 (the methods of mpi4py)

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

# Environment variables set by the launchers of MPICH, Intel MPI, Open MPI and Slurm.
RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
LOCAL_RANKS = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK")


class MPIError(ValueError):
    """MPI is missing, or it does not belong to the launcher."""


class Comm(Protocol):
    """What we use of a communicator of mpi4py: a group of `size` processes; this one has the number `rank`, from 0."""

    rank: int
    size: int

    def Allgather(self, sendbuf: Any, recvbuf: Any, /) -> None: ...
    def Sendrecv(self, sendbuf: Any, dest: int, *, recvbuf: Any, source: int) -> None: ...
    def allgather(self, sendobj: Any, /) -> list[Any]: ...
    def bcast(self, obj: Any, root: int = 0) -> Any: ...
    def Barrier(self) -> None: ...
    def Abort(self, errorcode: int = 0) -> Any: ...


class _SingleProcess:
    """The communicator of a process without a launcher, with the methods that one rank needs."""

    rank, size = 0, 1

    def Allgather(self, sendbuf: Array, recvbuf: Array) -> None:
        recvbuf[...] = sendbuf

    def allgather(self, sendobj: Any) -> list[Any]:
        return [sendobj]

    def bcast(self, obj: Any, root: int = 0) -> Any:
        return obj

    def Barrier(self) -> None:
        pass


ALONE = cast(Comm, _SingleProcess())


def launched() -> bool:
    """Whether an MPI launcher such as mpiexec started this process, or the program has imported mpi4py.MPI."""
    return "mpi4py.MPI" in sys.modules or any(name in os.environ for name in RANKS)


def world() -> Comm:
    """Returns the communicator of all ranks; without a launcher, of this process only.

    Raises MPIError if there is a launcher, but mpi4py or its MPI is missing or belongs to another launcher.
    """
    if not launched():
        return ALONE
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py finds no MPI
        raise MPIError("a program under mpiexec needs mpi4py and its MPI: pip install '.[mpi]'") from error
    comm: Comm = MPI.COMM_WORLD
    started = next((int(os.environ[name]) for name in SIZES if name in os.environ), comm.size)
    if comm.size == 1 < started:
        raise MPIError(f"expected {started} processes, got 1: use the mpiexec of mpi4py's MPI (pip install '.[mpi]')")
    return comm


def cores_per_rank(comm: Comm) -> int:
    """Returns this process's share of the cores that it may use, at least one core."""
    own = node(), sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return max(1, cores() // comm.allgather(own).count(own))


def program(main: Callable[[], int]) -> int:
    """Runs `main` as this rank's part of a program and returns its exit status: `sys.exit(program(main))`.

    Only rank 0 prints. If `main` fails or returns a status other than 0 on any rank, all ranks end with that status,
    and the stderr of the first such rank is printed with its number. Without a launcher this is `main()`.
    """
    if not launched():
        return main()
    try:
        comm = world()
    except MPIError as error:
        if all(os.environ.get(name, "0") == "0" for name in LOCAL_RANKS):  # print it once per machine
            print(f"error: {error}", file=sys.stderr)
        return 1
    if comm.rank == 0:
        status = _run(main)
    else:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(StringIO()) as stderr:
            status = _run(main)
        if status:
            time.sleep(min(comm.rank, 8) / 2)  # if a lower rank fails as well, it prints first and ends this one
            print(f"rank {comm.rank} of {comm.size}: {stderr.getvalue().strip()}", file=sys.stderr)
    if status:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed
            stream.flush()
        time.sleep(0.2)  # the launcher may drop output that it has not passed on when the ranks end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # hides MPI's own message, which adds nothing
        comm.Abort(status)
    return status


def _run(main: Callable[[], int]) -> int:
    """Returns the exit status of `main`. Errors are printed as Python prints them when a program ends."""
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
