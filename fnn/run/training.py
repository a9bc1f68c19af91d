"""A program that trains: starts, continues or extends a run, on one process or several."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter

from fnn import mpi
from fnn.data import Dataset
from fnn.run.data import add_data, read_data
from fnn.run.exits import catch_signals, exit_status
from fnn.run.folder import BEST, Config, RunError, check_extension, locked, read_metrics, read_state, write_config
from fnn.run.loop import describe_progress, train
from fnn.run.task import Metrics, Task, start
from fnn.summaries import summary
from fnn.transforms import shard, shard_slices

BuildTask = Callable[[Config, Dataset], Task]


def program(name: str, main: Callable[[], int]) -> int:
    """Runs the `main` of a program on each rank; returns its exit status, as `exit_status` does."""
    return mpi.program(lambda: exit_status(name, main))


def run_task(
    build_task: BuildTask,
    config: Config,
    log: Callable[[str], None],
    out: Path | None = None,
    resume: Path | None = None,
    data: str | None = None,
    workers: int | None = None,
    keep_every: float = 30.0,
) -> int:
    """Trains the task for the configuration to its end; returns the exit status: 0, or 128 + n after signal n.

    The run is saved to the new folder `out`, or is the one in the folder `resume`, if its configuration has more epochs
    than before. `build_task` returns the task of one process; its net then runs on `workers` threads and on all ranks.
    Only the first rank writes. Raises RunError for other data or a batch larger than the data.
    """
    began, comm = perf_counter(), mpi.world()
    folder = (out or resume) if comm.rank == 0 else None
    with locked(folder, new=bool(out)) if folder else nullcontext():
        images = read_data(data or config["data"], config["limit"], log)
        count = len(images.train.labels)
        if not resume and config["batch_size"] > count:
            raise RunError(f"batch size: expected at most {count}, the training images, got {config['batch_size']}")
        if folder:
            config = add_data(config, images, folder)
        task = build_task(config, images)
        table = (task.net, tuple(config["shape"]))
        task = spread_task(task, workers)
        state = read_state(resume, task) if resume else start(task)
        if state["epoch"] > task.epochs:
            log(f"{resume}: already complete; {format_result(folder, read_metrics(folder)[-1:] if folder else [])}")
            return 0
        with catch_signals(defer=True) as signals:
            log(f"data: {images.source}: {count} training images, {len(images.test.labels)} test images")
            log(summary(*table, state["params"]))
            if resume:
                check_extension(folder or resume, config, task.rate(state["step"]), log)
                log(f"{resume}: continuing after {describe_progress(state)}")
                if (n := len(shard_slices(config["batch_size"], config["shard_size"]))) < comm.size:
                    log(f"{n} shards for {comm.size} ranks: results will differ from those with fewer ranks")
            if folder:
                write_config(folder, config)
            lines: list[Metrics] = []
            stop = lambda: any(comm.allgather(len(signals)))  # noqa: E731
            state = train(task, state, folder, keep_every, stop, log, lines.append)
        received = [number for numbers in comm.allgather(signals) for number in numbers]
    if received and state["epoch"] <= task.epochs:
        next_step = f"to continue, use --resume {folder}" if folder else "nothing was saved"
        log(f"stopped after {describe_progress(state)}; {next_step}")
        return 128 + int(received[0])
    log(f"finished in {perf_counter() - began:.1f} s; {format_result(folder, lines[-1:])}")
    return 0


def spread_task(task: Task, workers: int | None = None) -> Task:
    """Returns the task with its net on all ranks and on `workers` threads each (default: all cores)."""
    comm = mpi.world()
    if comm.size == 1:
        return task._replace(net=shard(task.net, workers, task.shard_size))
    return task._replace(net=mpi.spread(task.net, comm, workers, task.shard_size), comm=comm)


def limit_shard_size(config: Config) -> Config:
    """Returns the configuration with shards that are small enough for one per rank."""
    size = min(config["shard_size"], max(1, config["batch_size"] // mpi.world().size))
    return config | {"shard_size": size}


def format_result(folder: Path | None, last: list[Metrics]) -> str:
    """Returns the final accuracy, and where the params are, as text."""
    accuracy = f"test acc: {last[0]['test_accuracy']:.4f}; " if last else ""
    if not folder:
        return f"{accuracy}nothing was saved, use --out to save the run"
    best = max(line["test_accuracy"] for line in read_metrics(folder))
    return f"{accuracy}params: {folder / BEST} (of the best epoch, test acc: {best:.4f})"
