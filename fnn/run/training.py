"""A program that trains: starts, continues or extends a run, on one process or several."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter

from fnn import mpi
from fnn.data import DataError, Dataset
from fnn.op import Op, Params, Shape
from fnn.run.data import add_data, read_data
from fnn.run.exits import catch_signals, exit_status, make_log
from fnn.run.folder import (
    CONFIG,
    OLD_PARAMS,
    PARAMS,
    RunError,
    check_config,
    check_extension,
    describe_missing,
    find_params,
    format_net,
    locked,
    read_ended,
    read_metrics,
    read_state,
    write_config,
)
from fnn.run.loop import describe_progress, train
from fnn.run.settings import IMAGES, Config
from fnn.run.task import Metrics, State, Task, start
from fnn.summaries import summary
from fnn.transforms import shard, shard_slices

FLAGS = ("recipe", "net", "epochs", "batch_size", "lr", "shard_size", "limit", "seed", "validation")
EXTENDABLE = ("steps",)  # the schedules that do not depend on the number of epochs

BuildTask = Callable[[Config, Dataset], Task]


def program(name: str, main: Callable[[], int]) -> int:
    """Runs the `main` of a program on each rank; returns its exit status, as `exit_status` does."""
    return mpi.program(lambda: exit_status(name, main))


def run_task(build_task: BuildTask, config: Config, args: Namespace) -> int:
    """Trains the task for the configuration to its end; returns the exit status: 0, or 128 + n after signal n.

    `args` has the flags of the program. The run is saved to the new folder `out`, or is the one in the folder `resume`;
    `keep_every` is the number of seconds between saved states, 30 if it is None. `build_task` returns the task of one
    process; its net then runs on `workers` threads and on all ranks. Only the first rank writes and prints. Raises
    RunError for other data or a batch larger than the data.
    """
    began, comm = perf_counter(), mpi.world()
    out, resume = args.out, args.resume
    folder = (out or resume) if comm.rank == 0 else None
    log = make_log(keep_going=folder is not None)
    with locked(folder, new=bool(out)) if folder else nullcontext():
        try:
            images = read_data(args.data or config["data"], config["limit"], log, config["validation"])
        except DataError as error:
            if resume and not args.data:
                error.add_note(f"the settings are in {resume / CONFIG}; use --data to name another folder")
            raise
        count = len(images.train.labels)
        if not resume and config["batch_size"] > count:
            raise RunError(f"batch size: expected at most {count}, the training images, got {config['batch_size']}")
        if folder:
            config = add_data(config, images, folder)
        try:
            task = build_task(config, images)
            state = start(task)
        except (MemoryError, ValueError) as error:
            raise RunError(f"{resume / CONFIG if resume else 'settings'}: {error}") from error
        table = (task.net, tuple(config["shape"]))
        task = spread_task(task, args.workers)
        state = read_state(resume, task) if resume else state
        if resume and state["epoch"] > 1 and not any((resume / name).exists() for name in (PARAMS, OLD_PARAMS)):
            log(f"{resume / PARAMS}: lost; the end of the next epoch writes it again")
            state |= {"best": -1.0}
        if resume and (missing := describe_missing(resume, read_metrics(resume), state["epoch"] - 1)):
            log(missing)
        if state["epoch"] > task.epochs:
            log(f"{resume}: already complete; {format_result(resume, read_ended(resume, state), state)}")
            return 0
        check_outputs(*table, state["params"], len(config["classes"]))
        with catch_signals(defer=True) as signals:
            log(describe_data(images))
            log(summary(*table, state["params"]))
            if resume:
                check_extension(folder or resume, config, task.rate(state["step"]), log)
                log(f"{resume}: continuing after {describe_progress(state)}")
                if (n := len(shard_slices(min(config["batch_size"], count), config["shard_size"]))) < comm.size:
                    log(f"{n} shards for {comm.size} ranks: results will differ from those with fewer ranks")
            if folder:
                write_config(folder, config)
            lines: list[Metrics] = []
            stop = lambda: any(comm.allgather(len(signals)))  # noqa: E731
            keep_every = 30.0 if args.keep_every is None else args.keep_every
            state = train(task, state, folder, keep_every, stop, log, lines.append)
        received = [number for numbers in comm.allgather(signals) for number in numbers]
    if received and state["epoch"] <= task.epochs:
        next_step = f"to continue, use --resume {folder}" if folder else "nothing was saved"
        log(f"stopped after {describe_progress(state)}; {next_step}")
        return 128 + int(received[0])
    lines = read_metrics(folder) if folder else lines
    log(f"finished in {perf_counter() - began:.1f} s; {format_result(folder, lines, state)}")
    return 0


def spread_task(task: Task, workers: int | None = None) -> Task:
    """Returns the task with its net on all ranks and on `workers` threads each (default: all cores)."""
    comm = mpi.world()
    if comm.size == 1:
        return task._replace(net=shard(task.net, workers, task.shard_size))
    return task._replace(net=mpi.spread(task.net, comm, workers, task.shard_size), comm=comm)


def choose_settings(args: Namespace, nets: Mapping[str, Op], recipes: Mapping[str, Config]) -> Config:
    """Returns all settings: the recipe's and those of the flags in `args`, or those of the run to resume.

    A recipe has a rate `lr` for each net for which it was chosen. Raises RunError for another net without `lr`.
    """
    given = {name: value for name in FLAGS if (value := getattr(args, name)) is not None}
    recipe = recipes[args.recipe or "default"]
    config: Config = {"recipe": "default", "seed": 0, "limit": None, "validation": 0}
    config |= {"data": None, "data_sha256": None, **recipe}
    config |= given | IMAGES | {"net": args.net or format_net(nets[recipe["net"]])}
    if args.resume:
        known = {
            name: dict.fromkeys(settings[name] for settings in recipes.values()) for name in ("schedule", "optimizer")
        }
        return check_config(args.resume, config, given, {"recipe": recipes, **known}, EXTENDABLE)
    rates = {format_net(nets[name]): rate for name, rate in recipe["lr"].items()}
    if not args.lr and config["net"] not in rates:
        raise RunError(f"--lr is missing: recipe {config['recipe']} has a rate only for {', '.join(recipe['lr'])}")
    config["lr"] = args.lr or rates[config["net"]]
    if not args.shard_size:  # small enough for one shard per rank
        config["shard_size"] = min(config["shard_size"], max(1, config["batch_size"] // mpi.world().size))
    return config


def check_outputs(net: Op, shape: Shape, params: Params, classes: int) -> None:
    """Raises RunError unless the net has one output for each class."""
    if (got := net.output_shape(params, shape)) != (classes,):
        raise RunError(f"net: expected outputs of shape ({classes},), one for each class, got {got}")


def describe_data(data: Dataset) -> str:
    """Returns the source of the data and the number of images, as text."""
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    counts = ", ".join(f"{len(examples.labels)} {name} images" for name, examples in parts.items() if examples)
    return f"data: {data.source}: {counts}"


def format_result(folder: Path | None, lines: list[Metrics], state: State) -> str:
    """Returns the accuracy of the run's params, and where they are, as text, from the metrics and the last state."""
    is_old = folder and find_params(folder).name == OLD_PARAMS
    chosen_by = "test_accuracy" if is_old else "validation_accuracy"
    chosen = [line for line in lines if line.get(chosen_by) == state["best"]]  # the first best, or the last epoch
    if not chosen and not any(chosen_by in line for line in lines):
        chosen = [line for line in lines if line["epoch"] == state["epoch"] - 1]
    best = chosen[0] if chosen else {}
    accuracy = f"test acc: {best['test_accuracy']:.4f}" if best else "test acc: its metrics are missing"
    if not folder:
        return f"{accuracy}; nothing was saved, use --out to save the run"
    epoch = ""
    if "validation_accuracy" in best:
        epoch = f" (of epoch {best['epoch']:.0f}, which has the best validation acc: {best['validation_accuracy']:.4f})"
    return f"{accuracy}; params: {find_params(folder)}{epoch}"
