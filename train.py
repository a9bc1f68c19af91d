"""Trains a network on MNIST: `python train.py` trains the convolutional one, and `--help` tells what else there is."""

import os
import signal

# BLAS is held to one thread, before NumPy reads these: the cores are for the shards of a batch, which gain more by them
# than products as small as a batch's do.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # during the imports, Ctrl-C ends the program without a traceback

import argparse
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import wrap
from typing import Any

import fnn
from fnn import conv, dense, maxpool, mpi, onnx, relu, run, serial, sigmoid, tanh
from fnn.data import Dataset, affine, compose, shift
from fnn.init import he_normal
from fnn.run.flags import given, place, rate, seconds, whole
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
    "lr": {"cnn": 0.1},  # at its height, by the net
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
"""What each recipe decides; a flag decides otherwise. `original` is the plain descent of the net that all this began
with: its rates, 1e-3 and then 1e-4, were those of gradients added up over a batch of 100, and ours are means."""

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
CHOICES: dict[str, dict[str, Any]] = {"recipe": RECIPES, "net": NETS, "schedule": SCHEDULES, "optimizer": OPTIMIZERS}
SHAPE = (1, 28, 28)

tell = partial(print, flush=True)  # so that a pipe, too, gets each line when it is true


def main() -> int:
    """Does what the command line asks for; gives the exit status."""
    args = parse()
    return run.status("train.py", lambda: look(args) if args.eval or args.report else train(args))


def train(args: argparse.Namespace) -> int:
    """Begins a run, or goes on with the one in the folder to resume; of several ranks, the first alone writes there."""
    began, config, comm = time.perf_counter(), configured(args, args.resume), mpi.world()
    folder = (args.out or args.resume) if comm.rank == 0 else None
    with run.claimed(folder, new=bool(args.out)) if folder else nullcontext():
        data = run.read(args.data or config["data"], config["limit"], tell)
        config = run.with_data(config, data, folder) if folder else config
        task = made(config, data, args.workers)
        state = run.read_state(args.resume, task) if args.resume else run.start(task)
        with run.noted() as signals:
            describe(task, state["params"])
            if args.export and comm.rank == 0:  # what cannot be exported is told before all the work
                with TemporaryDirectory(dir=args.export.parent) as spare:
                    onnx.export(NETS[config["net"]], state["params"], SHAPE, Path(spare, args.export.name))
            if args.resume:
                done = f"complete, with a best test acc of {state['best']:.4f}"
                tell(f"{args.resume} is {done if state['epoch'] > task.epochs else f'at {run.told(state)}'}")
                if len(shard_slices(config["batch_size"], config["shard_size"])) < comm.size:
                    tell(f"shards of {config['shard_size']} are too few for {comm.size} ranks: the bits will differ")
            elif folder:
                run.write_config(folder, config)
            state = run.train(task, state, folder, args.keep_every, lambda: any(comm.allgather(len(signals))), tell)
        came = [number for numbers in comm.allgather(signals) for number in numbers]
    if came and state["epoch"] <= task.epochs:
        tell(f"stopped after {run.told(state)}; " + (f"--resume {folder} goes on" if folder else "nothing was kept"))
        return 128 + int(came[0])
    if args.export and comm.rank == 0:
        onnx.export(NETS[config["net"]], run.final(state), SHAPE, args.export)
    tell(f"time: {time.perf_counter() - began:.1f} s")
    return 0


def look(args: argparse.Namespace) -> int:
    """Tests the params in a file, or the best ones of the run in a folder; or draws that run."""
    began, path = time.perf_counter(), args.eval or args.report
    folder = path if args.report or path.is_dir() else None
    config = configured(args, folder)
    task = made(config, run.read(args.data or config["data"], config["limit"], tell), args.workers)
    if args.report:
        for drawn in report(args.report, task.net, task.data.test):
            tell(f"drawn: {drawn}")
        return 0
    params = fnn.load(folder / run.BEST if folder else path, NETS[config["net"]].init(0, SHAPE))
    describe(task, params)
    tell(run.result(run.tested(task, params)[1], len(task.data.test.labels)))
    if args.export:
        onnx.export(NETS[config["net"]], params, SHAPE, args.export)
    tell(f"time: {time.perf_counter() - began:.1f} s")
    return 0


def configured(args: argparse.Namespace, folder: Path | None) -> run.Config:
    """What decides the run's bits: the recipe with the flags over it, or what the folder says, and the flags agree."""
    flags = {name: value for name in FLAGS if (value := getattr(args, name)) is not None}
    recipe = RECIPES[args.recipe or "default"]
    config = {"recipe": "default", **recipe, "seed": 0, "limit": None, "data": None, "data_sha256": None, **flags}
    config["lr"] = args.lr or recipe["lr"].get(config["net"], recipe["lr"][recipe["net"]])
    if not args.shard_size:  # as large as leaves one for each rank
        config["shard_size"] = min(config["shard_size"], max(1, config["batch_size"] // mpi.world().size))
    return run.agreed(folder, config, flags, CHOICES) if folder else config


def made(config: run.Config, data: Dataset, workers: int | None) -> run.Task:
    """The task that the configuration tells of."""
    per_epoch = -(-len(data.train.labels) // config["batch_size"])
    rate = SCHEDULES[config["schedule"]](config["lr"], config["epochs"] * per_epoch, per_epoch)
    moves = [shift(config["shift"])] if config["shift"] else []
    moves += [affine(*config["affine"])] if any(config["affine"]) else []
    net, ranks = run.over_ranks(NETS[config["net"]], mpi.world(), workers, config["shard_size"])
    return run.Task(
        net=net,
        loss=fnn.smoothed_cross_entropy(config["smoothing"]) if config["smoothing"] else fnn.cross_entropy,
        optimizer=OPTIMIZERS[config["optimizer"]](rate, config["momentum"], config["weight_decay"]),
        rate=rate,
        data=data,
        augment=compose(*moves),
        key=fnn.Key(config["seed"]),
        ranks=ranks,
        **{name: config[name] for name in ("epochs", "batch_size", "shard_size")},
    )


def describe(task: run.Task, params: fnn.Params) -> None:
    """Tells what there is to learn from, and what learns."""
    data = task.data
    tell(f"data: {data.source}: {len(data.train.labels)} images to train on, {len(data.test.labels)} to test on")
    tell(summary(task.net, SHAPE, params))


def parse() -> argparse.Namespace:
    """The command line's flags; a bad one ends the program with exit status 2."""
    parser = argparse.ArgumentParser(
        usage="python train.py [flags]",
        description="Trains a network on MNIST.",
        epilog="\n".join(["recipes:", *map(shown, RECIPES)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flag = parser.add_argument
    flag("--recipe", choices=RECIPES, help="what all that no other flag says follows from (default)")
    flag("--net", choices=NETS, help="the convolutional, the fully connected or the deep convolutional net")
    flag("--epochs", type=whole(1), metavar="N", help="how often to go through the images")
    flag("--batch-size", type=whole(1), metavar="N", help="how many images a step looks at")
    flag("--shard-size", type=whole(1), metavar="N", help="how many images, at most, a thread looks at at a time")
    flag("--lr", type=rate, metavar="RATE", help="the learning rate at its height")
    flag("--limit", type=whole(1), metavar="N", help="train on the first N images only")
    flag("--data", type=given, metavar="DIR|digits", help="MNIST's folder, or drawn digits (FNN_DATA, or fetched)")
    flag("--seed", type=whole(0), metavar="N", help="what all random draws follow from (0)")
    flag("--workers", type=whole(1), metavar="N", help="how many threads work; changes no bit (one for each core)")
    flag("--keep-every", type=seconds, default=30.0, metavar="SECONDS", help="how often a run keeps its state (30)")
    flag("--export", type=place, metavar="FILE", help="write what was trained, or tested, as an ONNX model")
    flag = parser.add_mutually_exclusive_group().add_argument
    flag("--out", type=place, metavar="DIR", help="keep a run there: configuration, metrics, last state, best params")
    flag("--resume", type=place, metavar="DIR", help="go on with the run in there, which ends in the same bits")
    flag("--eval", type=place, metavar="FILE|DIR", help="train nothing: test these params, or the best of that run")
    flag("--report", type=place, metavar="DIR", help="train nothing: draw the run in there: curves, mistakes and more")
    args = parser.parse_args()
    if args.report and args.export:
        parser.error("argument --export: not allowed with argument --report")
    return args


def shown(recipe: str) -> str:
    """The lines of the help that tell what a recipe decides."""
    text = ", ".join(f"{name} {value}" for name, value in RECIPES[recipe].items())
    return "\n".join(wrap(f"{recipe}: {text}", 100, initial_indent="  ", subsequent_indent="    "))


if __name__ == "__main__":
    sys.exit(mpi.program(main))
