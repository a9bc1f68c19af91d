"""Ranks that are threads of this process, to test training over MPI without MPI."""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fnn.mpi.ranks import Comm

T = TypeVar("T")


class Team:
    """The state shared by the ranks of a communicator, which are threads of this process."""

    def __init__(self, size: int) -> None:
        self.size, self.slots = size, list[Any]([None] * size)
        self.barrier = threading.Barrier(size, timeout=30)
        self.mail = {(i, j): queue.Queue[Any]() for i in range(size) for j in range(size)}
        self.sent: list[int] = []


class Rank:
    """A communicator like mpi4py's, for one thread of a team."""

    def __init__(self, team: Team, rank: int) -> None:
        self.team, self.rank, self.size = team, rank, team.size

    def allgather(self, sendobj: Any) -> list[Any]:
        self.team.slots[self.rank] = sendobj
        self.team.barrier.wait()
        gathered = list(self.team.slots)
        self.team.barrier.wait()
        return gathered

    def Allgather(self, sendbuf: np.ndarray, recvbuf: np.ndarray) -> None:  # noqa: N802
        recvbuf.reshape(self.size, -1)[...] = [row.reshape(-1) for row in self.allgather(sendbuf.copy())]

    def Sendrecv(self, sendbuf: np.ndarray, dest: int, *, recvbuf: np.ndarray, source: int) -> None:  # noqa: N802
        self.team.sent.append(sendbuf.nbytes)
        self.team.mail[self.rank, dest].put(sendbuf.copy())
        recvbuf[...] = self.team.mail[source, self.rank].get(timeout=30)

    def bcast(self, obj: Any, root: int = 0) -> Any:
        return self.allgather(obj)[root]

    def Barrier(self) -> None:  # noqa: N802
        self.team.barrier.wait()

    def Abort(self, errorcode: int = 0) -> None:  # noqa: N802
        raise AssertionError


def run_on_ranks(size: int, function: Callable[[Comm], T]) -> list[T]:
    """Runs `function` on all ranks of a team; returns their results or raises the first rank's exception."""
    team, results, errors = Team(size), dict[int, T](), dict[int, Exception]()

    def call(rank: int) -> None:
        try:
            results[rank] = function(Rank(team, rank))
        except Exception as error:
            errors[rank] = error
            team.barrier.abort()

    threads = [threading.Thread(target=call, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise min(errors.items(), key=lambda item: (isinstance(item[1], threading.BrokenBarrierError), item[0]))[1]
    return [results[rank] for rank in range(size)]
