"""Trains a network on MNIST: `python train.py` trains the convolutional net, `--help` lists the other options."""

import os
import signal

# BLAS gets one thread; NumPy reads these variables at its import. The cores work on different shards of a batch, which
# is faster than several threads for each of many small matrix products.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports prints no traceback

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import wrap
from typing import Any, TypeVar

import fnn
from fnn import conv, dense, maxpool, mpi, relu, run, serial, sigmoid, tanh
from fnn.data import Dataset, affine, compose, shift
from fnn.init import he_normal
from fnn.run.report import report
from fnn.summaries import summary
from fnn.transforms import shard_slices

NETS = {
    "cnn": serial(
        *(conv(6, 3, padding=1), maxpool(2), tanh),
        *(conv(12, 3, padding=1), maxpool(2), tanh),
        *(dense(512), tanh, dense(128), tanh, dense(10)),
    ),
    "fc": serial(dense(512), sigmoid, dense(128), sigmoid, dense(10)),
    "deep": serial(
        *(conv(32, 3, w_init=he_normal), relu, conv(32, 3, w_init=he_normal), relu, maxpool(2)),
        *(conv(64, 3, w_init=he_normal), relu, conv(64, 3, w_init=he_normal), relu, maxpool(2)),
        *(dense(256, w_init=he_normal), relu, dense(10)),
    ),
}

PLAIN: dict[str, Any] = {
    "net": "cnn",
    "epochs": 20,
    "batch_size": 100,
    "lr": {"cnn": 0.1},  # peak learning rate for each net
    "schedule": "steps",
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "smoothing": 0.0,
    "shift": 0,
    "affine": [0, 0, 0],
    "shard_size": 64,
}
RECIPES: dict[str, dict[str, Any]] = {
    "original": PLAIN,
    "default": PLAIN
    | {"epochs": 10, "lr": {"cnn": 0.1, "fc": 0.3}, "schedule": "one_cycle", "momentum": 0.9, "weight_decay": 1e-4}
    | {"shift": 1},
    "best": PLAIN
    | {"net": "deep", "epochs": 14, "lr": {"deep": 1.2e-3}, "schedule": "warmup_cosine", "optimizer": "adamw"}
    | {"momentum": 0.9, "weight_decay": 1e-2, "smoothing": 0.1, "shift": 2, "affine": [10, 0.1, 0.1], "shard_size": 32},
}
"""Presets; flags override them. `original` is the plain gradient descent of the program that this library re-imagines.
Its learning rates were 1e-3, then 1e-4, because it summed gradients over a batch of 100 images; ours are means."""

SCHEDULES = {
    "steps": lambda peak, steps, epoch: fnn.piecewise([10 * epoch], [peak, peak / 10]),
    "one_cycle": lambda peak, steps, epoch: fnn.one_cycle(peak, max(2, steps), rise=0.1),
    "warmup_cosine": lambda peak, steps, epoch: fnn.warmup(
        fnn.cosine(peak, 0, max(1, steps - steps // 5)), max(1, steps // 5)
    ),
}
OPTIMIZERS = {
    "sgd": lambda rate, momentum, decay: fnn.sgd(rate, momentum, nesterov=momentum > 0, weight_decay=decay),
    "adamw": lambda rate, momentum, decay: fnn.masked(
        fnn.adamw(rate, momentum, weight_decay=decay), lambda path: path.endswith("/w"), fnn.adam(rate, momentum)
    ),
}

FLAGS = ("recipe", "net", "epochs", "batch_size", "lr", "shard_size", "limit", "seed")
CHOICES: dict[str, dict[str, Any]] = {"recipe": RECIPES, "schedule": SCHEDULES, "optimizer": OPTIMIZERS}
SHAPE = tuple(run.IMAGES["shape"])

T = TypeVar("T")

log = partial(print, flush=True)  # a pipe, too, gets each line at once


def main() -> int:
    """Runs the command line; returns the exit status."""
    args = parse()
    return run.exit_status("train.py", lambda: evaluate(args) if args.eval or args.report else train(args))


def train(args: argparse.Namespace) -> int:
    """Starts a run, or continues the one to resume; with several ranks, only the first one writes to the folder."""
    began, config, comm = time.perf_counter(), build_config(args, args.resume), mpi.world()
    folder = (args.out or args.resume) if comm.rank == 0 else None
    with run.locked(folder, new=bool(args.out)) if folder else nullcontext():
        data = run.read_data(args.data or config["data"], config["limit"], log)
        config = run.add_data(config, data, folder) if folder else config
        task = build_task(config, data, args.workers)
        state = run.read_state(args.resume, task) if args.resume else run.start(task)
        with run.catch_signals(defer=True) as signals:
            log_setup(task, state["params"])
            if args.export and comm.rank == 0:  # if the export fails, it fails before training
                with TemporaryDirectory(dir=args.export.parent) as temporary:
                    model = run.SavedRun(fnn.parse_net(config["net"]), state["params"], config)
                    run.export_run(model, Path(temporary, args.export.name))
            if args.resume:
                done = f"complete, best test acc {state['best']:.4f}"
                position = f"continuing after {run.describe_progress(state)}"
                log(f"{args.resume}: {done if state['epoch'] > task.epochs else position}")
                if (n := len(shard_slices(config["batch_size"], config["shard_size"]))) < comm.size:
                    log(f"{n} shards for {comm.size} ranks: results will differ from those with fewer ranks")
            elif folder:
                run.write_config(folder, config)
            state = run.train(task, state, folder, args.keep_every, lambda: any(comm.allgather(len(signals))), log)
        received = [number for numbers in comm.allgather(signals) for number in numbers]
    if received and state["epoch"] <= task.epochs:
        next_step = f"to continue, use --resume {folder}" if folder else "nothing was saved"
        log(f"stopped after {run.describe_progress(state)}; {next_step}")
        return 128 + int(received[0])
    if args.export and comm.rank == 0:
        log(run.export_run(model._replace(params=run.final(state)), args.export))
    log(f"time: {time.perf_counter() - began:.1f} s")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Tests the params in a file or the best params of a run; or draws the report of a run."""
    began, source = time.perf_counter(), args.eval or args.report
    folder = source if args.report or source.is_dir() else None
    config = build_config(args, folder)
    task = build_task(config, run.read_data(args.data or config["data"], config["limit"], log), args.workers)
    if args.report:
        for picture in report(args.report, task.net, task.data.test):
            log(f"wrote: {picture}")
        return 0
    net = fnn.parse_net(config["net"])
    params = run.load_run(folder).params if folder else fnn.load(source, net.init(0, SHAPE))
    log_setup(task, params)
    log(run.format_accuracy(run.evaluate(task, params)[1], len(task.data.test.labels)))
    if args.export:
        log(run.export_run(run.SavedRun(net, params, config), args.export))
    log(f"time: {time.perf_counter() - began:.1f} s")
    return 0


def build_config(args: argparse.Namespace, folder: Path | None) -> run.Config:
    """Returns the settings that determine the result: the recipe and the flags, or those of the run in the folder."""
    flags = {name: value for name in FLAGS if (value := getattr(args, name)) is not None}
    recipe = RECIPES[args.recipe or "default"]
    config = {"recipe": "default", **recipe, "seed": 0, "limit": None, "data": None, "data_sha256": None, **flags}
    config |= run.IMAGES
    rates = {run.format_net(NETS[name]): rate for name, rate in recipe["lr"].items()}
    config["net"] = args.net or run.format_net(NETS[recipe["net"]])
    config["lr"] = args.lr or rates.get(config["net"], recipe["lr"][recipe["net"]])
    if not args.shard_size:  # small enough for one shard per rank
        config["shard_size"] = min(config["shard_size"], max(1, config["batch_size"] // mpi.world().size))
    return run.check_config(folder, config, flags, CHOICES) if folder else config


def build_task(config: run.Config, data: Dataset, workers: int | None) -> run.Task:
    """Builds the task with this configuration."""
    per_epoch = -(-len(data.train.labels) // config["batch_size"])
    rate = SCHEDULES[config["schedule"]](config["lr"], config["epochs"] * per_epoch, per_epoch)
    changes = [shift(config["shift"])] if config["shift"] else []
    changes += [affine(*config["affine"])] if any(config["affine"]) else []
    net, comm, size = fnn.parse_net(config["net"]), mpi.world(), config["shard_size"]
    return run.Task(
        net=fnn.shard(net, workers, size) if comm.size == 1 else mpi.spread(net, comm, workers, size),
        loss=fnn.smoothed_cross_entropy(config["smoothing"]) if config["smoothing"] else fnn.cross_entropy,
        optimizer=OPTIMIZERS[config["optimizer"]](rate, config["momentum"], config["weight_decay"]),
        rate=rate,
        data=data,
        augment=compose(*changes),
        key=fnn.Key(config["seed"]),
        comm=comm,
        shard_size=size,
        epochs=config["epochs"],
        batch_size=config["batch_size"],
    )


def log_setup(task: run.Task, params: fnn.Params) -> None:
    """Logs the data and the summary of the net."""
    data = task.data
    log(f"data: {data.source}: {len(data.train.labels)} training images, {len(data.test.labels)} test images")
    log(summary(task.net, SHAPE, params))


def checked(convert: Callable[[str], T], valid: Callable[[T], bool], expected: str) -> Callable[[str], T]:
    """Returns a type for argparse: it converts a text and raises ArgumentTypeError unless the value is valid."""

    def convert_checked(text: str) -> T:
        try:
            if valid(value := convert(text)):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return convert_checked


def integer(minimum: int) -> Callable[[str], int]:
    """Returns the type of integers of at least `minimum` that fit in 64 bits."""
    return checked(int, lambda n: minimum <= n < 1 << 63, f"an integer of at least {minimum}")


nonempty = checked(str, bool, "a path")  # an unset shell variable gives an empty text
rate = checked(float, lambda x: 0 < x < inf, "a number above 0")
seconds = checked(float, lambda x: 0 <= x < inf, "a number of seconds, 0 or more")


def net(text: str) -> str:
    """Converts the name of a net, or a net as text, to the net's text."""
    try:
        return run.format_net(NETS[text] if text in NETS else fnn.parse_net(text))
    except fnn.OpError as error:
        raise argparse.ArgumentTypeError(
            f"expected one of {list(NETS)} or a net as text, got {text!r}: {error}"
        ) from None


def path(text: str) -> Path:
    """Converts a text to a path."""
    return Path(nonempty(text))


def parse() -> argparse.Namespace:
    """Parses the command line; a bad flag ends the program with exit status 2."""
    parser = argparse.ArgumentParser(
        usage="python train.py [flags]",
        description="Trains a network on MNIST.",
        epilog="\n".join(["recipes:", *map(format_recipe, RECIPES)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flag = parser.add_argument
    flag("--recipe", choices=RECIPES, help="preset for every setting not given by another flag (default)")
    flag("--net", type=net, help=f"{', '.join(NETS)}, or a net as text, such as 'serial(dense(32), relu, dense(10))'")
    flag("--epochs", type=integer(1), metavar="N", help="passes over the training images")
    flag("--batch-size", type=integer(1), metavar="N", help="images per step")
    flag("--shard-size", type=integer(1), metavar="N", help="maximum images that one thread processes at a time")
    flag("--lr", type=rate, metavar="RATE", help="peak learning rate")
    flag("--limit", type=integer(1), metavar="N", help="train on the first N images only")
    flag(
        "--data",
        type=nonempty,
        metavar="DIR|digits",
        help="MNIST's folder, or generated digits (FNN_DATA, or download)",
    )
    flag("--seed", type=integer(0), metavar="N", help="seed of all random numbers (0)")
    flag("--workers", type=integer(1), metavar="N", help="threads (default: one per core); does not change the result")
    flag("--keep-every", type=seconds, default=30.0, metavar="SECONDS", help="seconds between saved states (30)")
    flag("--export", type=path, metavar="FILE", help="write the trained or tested net as an ONNX model")
    flag = parser.add_mutually_exclusive_group().add_argument
    flag("--out", type=path, metavar="DIR", help="save the run there: settings, metrics, last state, best params")
    flag("--resume", type=path, metavar="DIR", help="continue the run in this folder; the result is identical")
    flag("--eval", type=path, metavar="FILE|DIR", help="do not train: test these params, or the best ones of this run")
    flag("--report", type=path, metavar="DIR", help="do not train: draw curves, mistakes and more of this run")
    args = parser.parse_args()
    if args.report and args.export:
        parser.error("argument --export: not allowed with argument --report")
    return args


def format_recipe(recipe: str) -> str:
    """Returns a recipe's settings as lines for the help."""
    text = ", ".join(f"{name} {value}" for name, value in RECIPES[recipe].items())
    return "\n".join(wrap(f"{recipe}: {text}", 100, initial_indent="  ", subsequent_indent="    "))


if __name__ == "__main__":
    sys.exit(mpi.program(main))
