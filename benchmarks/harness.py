"""Worker processes, which run one at a time, in rounds."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryFile
from threading import Timer
from time import monotonic
from typing import IO, NamedTuple, Protocol

from benchmarks.peers import PEERS

ROOT = Path(__file__).resolve().parents[1]
"""The folder of this checkout, from which workers import benchmarks and, without another checkout, fnn."""

LAUNCH = """
import sys
sys.path.insert(0, {checkout!r})
import fnn
sys.path[0] = {root!r}
from benchmarks.worker import main
main({peer!r}, {threads})
"""
"""The program of a worker."""

PATIENCE = 120.0
"""Seconds for an answer, beyond the time that was asked for. Compilers may take most of a minute."""

TOLERANCE = 1e-4
"""The largest relative difference between the results of two peers."""


class Reply(NamedTuple):
    """A worker's answer."""

    ms: float
    """The median time of a step; 0 if it was not timed."""

    peak_mb: float | None = None
    """The peak memory of the process."""

    step_mb: float | None = None
    """The memory that a step adds to that of the process."""

    numbers: Sequence[float] = ()
    """What the step computes, see `worker.describe`."""


class Asked(Protocol):
    """Times the workloads of a peer."""

    peer: str

    def ask(self, workload: str, seconds: float, /) -> Reply:
        """Times the workload's steps. Raises WorkerError."""


class WorkerError(Exception):
    """The reason why a worker failed, in one line."""


class Worker:
    """A process that times one peer's steps. `start_worker` starts it; if it ends, the next request starts another."""

    def __init__(self, peer: str, start: Callable[[], Popen[str]], errors: IO[str]) -> None:
        self.peer, self._start, self._errors, self.process = peer, start, errors, start()

    def ask(self, workload: str, seconds: float) -> Reply:
        """Times the workload's steps for some seconds. Raises WorkerError."""
        if self.process.poll() is not None:
            self.process = self._start()
        requests, replies = self.process.stdin, self.process.stdout
        assert requests is not None
        assert replies is not None
        limit, start = Timer(seconds + PATIENCE, self.process.kill), monotonic()
        limit.start()
        try:
            print(json.dumps({"workload": workload, "seconds": seconds}), file=requests, flush=True)
            line = replies.readline()
        except BrokenPipeError:
            line = ""
        finally:
            limit.cancel()
        if not line:
            self.process.communicate()  # waits, and closes the pipes
            late = monotonic() - start >= seconds + PATIENCE
            raise WorkerError(f"no answer in {PATIENCE:g} s" if late else f"its process ended: {self._last_error()}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return Reply(**reply)

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1] if lines else f"return code {self.process.returncode}"


@contextmanager
def start_worker(peer: str, threads: int, isa: str | None = None, checkout: Path = ROOT) -> Iterator[Worker]:
    """Starts a worker for the peer, with the fnn of a checkout; its process ends with the block."""
    program = LAUNCH.format(checkout=str(checkout), root=str(ROOT), peer=peer, threads=threads)
    environment = {**os.environ, **PEERS[peer].environment(threads, isa)}
    with TemporaryFile("w+") as errors:
        command = [sys.executable, "-c", program]

        def start() -> Popen[str]:
            return Popen(command, cwd=ROOT, env=environment, stdin=PIPE, stdout=PIPE, stderr=errors, text=True)

        worker = Worker(peer, start, errors)
        try:
            yield worker
        finally:
            worker.process.kill()
            worker.process.communicate()


class Job(NamedTuple):
    """A workload for a worker to time in each round."""

    worker: Asked
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
    """Runs every job once per round, in order, until it fails; `log` gets the progress.

    A job also fails if its results are not those of the first peer with the same workload.
    """
    outcome, expected = Outcome({}, {}), dict[str, Sequence[float]]()
    for nth in range(1, rounds + 1):
        for worker, workload in jobs:
            if workload in outcome.failures.get(worker.peer, {}):
                continue
            log(f"round {nth} of {rounds}: {workload}, {worker.peer}")
            replies = outcome.replies.setdefault(workload, {})
            try:
                reply = worker.ask(workload, seconds)
                check_numbers(reply.numbers, expected.setdefault(workload, reply.numbers))
                replies.setdefault(worker.peer, []).append(reply)
            except WorkerError as error:
                outcome.failures.setdefault(worker.peer, {})[workload] = str(error)
                replies.pop(worker.peer, None)
    return outcome


def check_numbers(numbers: Sequence[float], expected: Sequence[float]) -> None:
    """Raises WorkerError unless the results are the same, up to rounding."""
    if len(numbers) != len(expected):
        raise WorkerError(f"expected {len(expected)} numbers that describe the results, got {len(numbers)}")
    for got, wanted in zip(numbers, expected, strict=True):
        if not abs(got - wanted) <= TOLERANCE * abs(wanted) + 1e-12:
            raise WorkerError(f"computes something else: {got:.6g} instead of {wanted:.6g}")
