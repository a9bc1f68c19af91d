"""Trains a network on MNIST: `python train.py` trains the convolutional net, `--help` lists the flags."""

import os
import signal

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # NumPy reads them at its import
    os.environ.setdefault(_name, "1")  # BLAS gets one thread: cores work on different parts of a batch instead
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports prints no traceback

import sys
from typing import Any

import fnn
from fnn import conv, dense, maxpool, relu, run, serial, sigmoid, tanh
from fnn.data import Dataset, affine, compose, shift
from fnn.init import he_normal
from fnn.run import flags

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
# `original` is the gradient descent of the program that this library re-imagines; `fast` reaches 99 % in a few seconds.
# `lr` is the peak of the learning rate, for each net for which it was chosen on the last 10,000 training images.
RECIPES: dict[str, dict[str, Any]] = {
    "original": {
        **{"net": "cnn", "epochs": 20, "batch_size": 100, "lr": {"cnn": 0.2}, "schedule": "steps"},
        **{"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "smoothing": 0.0},
        **{"shift": 0, "affine": [0, 0, 0], "shard_size": 64},
    },
    "default": {
        **{"net": "cnn", "epochs": 10, "batch_size": 100, "lr": {"cnn": 0.1, "fc": 0.3}, "schedule": "one_cycle"},
        **{"optimizer": "sgd", "momentum": 0.9, "weight_decay": 2e-5, "smoothing": 0.0},
        **{"shift": 1, "affine": [0, 0, 0], "shard_size": 64},
    },
    "fast": {
        **{"net": "cnn", "epochs": 3, "batch_size": 128, "lr": {"cnn": 0.2}, "schedule": "one_cycle"},
        **{"optimizer": "sgd", "momentum": 0.9, "weight_decay": 2e-5, "smoothing": 0.1},
        **{"shift": 1, "affine": [0, 0, 0], "shard_size": 64},
    },
    "best": {
        **{"net": "deep", "epochs": 14, "batch_size": 100, "lr": {"deep": 2e-3}, "schedule": "warmup_cosine"},
        **{"optimizer": "adamw", "momentum": 0.9, "weight_decay": 1e-2, "smoothing": 0.1},
        **{"shift": 2, "affine": [10, 0.1, 0.1], "shard_size": 32},
    },
}


def build_optimizer(config: run.Config, steps_per_epoch: int) -> tuple[fnn.Optimizer, run.Schedule]:
    """Returns the optimizer, and its learning rate as a function of the step."""
    peak, steps = config["lr"], config["epochs"] * steps_per_epoch
    if config["schedule"] == "steps":
        rate = fnn.piecewise([10 * steps_per_epoch], [peak, peak / 10])
    elif config["schedule"] == "one_cycle":
        rate = fnn.one_cycle(peak, max(2, steps), rise=0.1)
    else:
        rate = fnn.warmup(fnn.cosine(peak, 0, max(1, steps - steps // 5)), max(1, steps // 5))
    momentum, decay = config["momentum"], config["weight_decay"]
    if config["optimizer"] == "sgd":
        return fnn.sgd(rate, momentum, nesterov=momentum > 0, weight_decay=decay), rate
    decayed, others = fnn.adamw(rate, momentum, weight_decay=decay), fnn.adam(rate, momentum)
    return fnn.masked(decayed, lambda path: path.split("/")[-1] == "w", others), rate  # biases do not decay


def make_step(net: fnn.Op, loss: fnn.losses.Loss, optimizer: fnn.Optimizer) -> run.Step:
    """Returns the training step."""
    gradient = fnn.value_and_grad(net, loss)

    def step(params: fnn.Params, state: dict[str, Any], x: fnn.Array, y: fnn.Array, key: fnn.Key) -> Any:
        (value, outputs), grads = gradient(params, x, y, key)
        params, state = optimizer.update(params, grads, state)
        return params, state, value, outputs

    return step


def build_task(config: run.Config, data: Dataset) -> run.Task:
    """Returns everything that the training needs."""
    optimizer, rate = build_optimizer(config, -(-len(data.train.labels) // config["batch_size"]))
    augment = compose(shift(config["shift"]), affine(*config["affine"]))
    net, loss = fnn.parse_net(config["net"]), fnn.smoothed_cross_entropy(config["smoothing"])
    sizes = {name: config[name] for name in ("epochs", "batch_size", "shard_size")}
    return run.Task(net, loss, optimizer, make_step, rate, data, augment, key=fnn.Key(config["seed"]), **sizes)


def main() -> int:
    """Runs the command line; returns the exit status. A bad flag ends the program with status 2."""
    parser = flags.parser("train.py", "Trains on MNIST. Example: python train.py --net fc --out runs/a", RECIPES)
    flag = parser.add_argument_group("first flags").add_argument
    flag("--recipe", choices=RECIPES, help="settings that no other flag changes (default: default)")
    flag("--net", type=flags.net(NETS), help="cnn, fc, deep, or 'serial(dense(32), relu, dense(10))' (the recipe's)")
    flag("--epochs", type=flags.integer(1), metavar="N", help="passes over the training images (the recipe's)")
    flag("--lr", type=flags.positive, metavar="RATE", help="peak of the learning rate (the recipe's)")
    flag("--data", type=flags.nonempty, metavar="DIR", help="MNIST's folder, or digits (FNN_DATA, or download)")
    flag("--out", type=flags.path, metavar="RUN", help="new folder for the run (default: nothing is saved)")
    flag("--resume", type=flags.path, metavar="RUN", help="continue a run with the same result, or add --epochs to it")
    flag = parser.add_argument_group("other flags").add_argument
    flag("--batch-size", type=flags.integer(1), metavar="N", help="images per step (the recipe's)")
    flag("--shard-size", type=flags.integer(1), metavar="N", help="images that a thread processes at a time (64 or 32)")
    flag("--limit", type=flags.integer(1), metavar="N", help="train on the first N images only (all)")
    flag("--validation", type=flags.integer(0), metavar="N", help="keep the params that are best on the last N (0)")
    flag("--seed", type=flags.integer(0), metavar="N", help="seed of all random numbers (0)")
    flag("--workers", type=flags.integer(1), metavar="N", help="threads; do not change the result (one per core)")
    flag("--keep-every", type=flags.seconds, metavar="SECONDS", help="seconds between saved states (30)")
    args = flags.parse_run(parser)
    return run.program("train.py", lambda: run.run_task(build_task, run.choose_settings(args, NETS, RECIPES), args))


if __name__ == "__main__":
    sys.exit(main())
