"""Worker processes, which run one at a time, in rounds."""

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
"""The folder of this checkout, from which workers import fnn and benchmarks."""


class Reply(NamedTuple):
    """A worker's answer: the median time of a step, and the peak memory of the process."""

    ms: float
    peak_mb: float | None


class Timer(Protocol):
    """Times the workloads of a peer."""

    peer: str

    def ask(self, workload: str, seconds: float, /) -> Reply:
        """Times the workload's steps. Raises WorkerError."""


class WorkerError(Exception):
    """The reason why a worker failed, in one line."""


class Worker:
    """A process that times one peer's steps; `start_worker` starts it."""

    def __init__(self, peer: str, process: Popen[str], errors: IO[str]) -> None:
        self.peer, self._process, self._errors = peer, process, errors

    def ask(self, workload: str, seconds: float) -> Reply:
        """Times the workload's steps for some seconds. Raises WorkerError."""
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None
        assert replies is not None
        try:
            print(json.dumps({"workload": workload, "seconds": seconds}), file=requests, flush=True)
            line = replies.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"its process ended: {self._last_error()}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return Reply(**reply)

    def _last_error(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1] if lines else f"return code {self._process.returncode}"


@contextmanager
def start_worker(peer: str, threads: int) -> Iterator[Worker]:
    """Starts a worker for the peer; its process ends with the block."""
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
    """A workload for a worker to time in each round."""

    worker: Timer
    workload: str


class Outcome(NamedTuple):
    """The results of jobs."""

    replies: dict[str, dict[str, list[Reply]]]
    """By workload and peer, one reply per round; none for a job that failed in any round."""

    failures: dict[str, dict[str, str]]
    """By peer and workload, the reason why a job failed."""

    def times(self, workload: str) -> dict[str, list[float]]:
        """Returns the milliseconds of each peer with this workload, one per round."""
        return {peer: [reply.ms for reply in replies] for peer, replies in self.replies.get(workload, {}).items()}


def run_rounds(jobs: Sequence[Job], rounds: int, seconds: float, log: Callable[[str], None]) -> Outcome:
    """Runs every job once per round, in order, until it fails; `log` gets the progress."""
    outcome = Outcome({}, {})
    for nth in range(1, rounds + 1):
        for worker, workload in jobs:
            if workload in outcome.failures.get(worker.peer, {}):
                continue
            log(f"round {nth} of {rounds}: {workload}, {worker.peer}")
            replies = outcome.replies.setdefault(workload, {})
            try:
                replies.setdefault(worker.peer, []).append(worker.ask(workload, seconds))
            except WorkerError as error:
                outcome.failures.setdefault(worker.peer, {})[workload] = str(error)
                del replies[worker.peer]
    return outcome
