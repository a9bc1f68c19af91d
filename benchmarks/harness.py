"""Worker processes, and rounds in which they work in turn, one at a time."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryFile
from typing import IO, NamedTuple, Protocol

from benchmarks.peers import PEERS

ROOT = Path(__file__).resolve().parents[1]
"""Where Python finds both packages as this checkout has them."""


class Reply(NamedTuple):
    """What a worker answers: the median time of a step, and the most memory that the process has held."""

    ms: float
    peak_mb: float | None


class Asked(Protocol):
    """What takes requests for a peer, as a worker does."""

    peer: str

    def ask(self, workload: str, seconds: float, /) -> Reply:
        """How long the workload's steps take. Raises WorkerError."""


class WorkerError(Exception):
    """What a worker could not do, in one line."""


class Worker:
    """A process that times one peer's steps on a number of threads; `working` makes one."""

    def __init__(self, peer: str, process: Popen[str], errors: IO[str]) -> None:
        self.peer, self._process, self._errors = peer, process, errors

    def ask(self, workload: str, seconds: float) -> Reply:
        """How long the workload's steps take, of as many as some seconds have room for. Raises WorkerError."""
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None
        assert replies is not None
        try:
            print(json.dumps({"workload": workload, "seconds": seconds}), file=requests, flush=True)
            line = replies.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"its process ended: {self._last_words()}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return Reply(**reply)

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        said = [line for line in self._errors.read().splitlines() if line.strip()]
        return said[-1] if said else f"return code {self._process.returncode}"


@contextmanager
def working(peer: str, threads: int) -> Iterator[Worker]:
    """A worker for the peer, whose process ends with the `with` block."""
    command = [sys.executable, "-m", "benchmarks.worker", peer, str(threads)]
    environment = {**os.environ, **PEERS[peer].environment(threads)}
    with (
        TemporaryFile("w+") as errors,
        Popen(command, cwd=ROOT, env=environment, stdin=PIPE, stdout=PIPE, stderr=errors, text=True) as process,
    ):
        try:
            yield Worker(peer, process, errors)
        finally:
            process.kill()


class Job(NamedTuple):
    """A workload that a worker is asked to time, again in each round."""

    worker: Asked
    workload: str


class Outcome(NamedTuple):
    """What came of some jobs."""

    replies: dict[str, dict[str, list[Reply]]]
    """By workload and peer, one reply a round; a job that ever failed has none."""

    failures: dict[str, dict[str, str]]
    """By peer and workload, why a job failed."""

    def times(self, workload: str) -> dict[str, list[float]]:
        """The milliseconds of each peer that did the workload, one a round."""
        return {peer: [reply.ms for reply in replies] for peer, replies in self.replies.get(workload, {}).items()}


def in_turn(jobs: Sequence[Job], rounds: int, seconds: float, tell: Callable[[str], None]) -> Outcome:
    """Asks every job once a round, in order, and a job that failed no more; `tell` hears what is under way."""
    outcome = Outcome({}, {})
    for nth in range(1, rounds + 1):
        for worker, workload in jobs:
            if workload in outcome.failures.get(worker.peer, {}):
                continue
            tell(f"round {nth} of {rounds}: {workload}, {worker.peer}")
            replies = outcome.replies.setdefault(workload, {})
            try:
                replies.setdefault(worker.peer, []).append(worker.ask(workload, seconds))
            except WorkerError as error:
                outcome.failures.setdefault(worker.peer, {})[workload] = str(error)
                del replies[worker.peer]
    return outcome
