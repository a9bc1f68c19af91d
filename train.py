"""Trains a network on MNIST: `python train.py` trains the convolutional one, and `--help` tells what else there is."""

import os

# BLAS is held to one thread, before NumPy reads these: the cores are for the shards of a batch, which gain more by them
# than products as small as a batch's do.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from math import inf, isfinite
from pathlib import Path

import numpy as np

import fnn
from fnn import conv, dense, maxpool, serial, sigmoid, tanh
from fnn.data import DataError, Dataset, Examples, MissingDataError, as_float, batches, digits, mnist, shift

NETS = {
    "cnn": serial(
        *(conv(6, 3, padding=1), maxpool(2), tanh),
        *(conv(12, 3, padding=1), maxpool(2), tanh),
        *(dense(512), tanh, dense(128), tanh, dense(10)),
    ),
    "fc": serial(dense(512), sigmoid, dense(128), sigmoid, dense(10)),
}
RATES = {"cnn": 0.1, "fc": 0.3}

tell = partial(print, flush=True)  # so that a pipe, too, gets each line when it is true


def main() -> int:
    """Does what the command line asks for; the exit status is 1 for data that cannot be used, 130 after Ctrl-C."""
    args = parse()
    kept, began = "nothing was kept", time.perf_counter()
    np.seterr(over="ignore", invalid="ignore")  # where training diverges, the loss says so
    try:
        if args.out:
            usable(args.out)
        start = NETS[args.net].init(fnn.Key(args.seed).fold("init"), (1, 28, 28))
        if args.eval:
            start = fitting(args.eval, start)
        data = read(args.data, args.limit)
        tell(f"data: {data.source}: {len(data.train.labels)} images to train on, {len(data.test.labels)} to test on")
        tell(f"net: {NETS[args.net]!r}: {fnn.tree_size(start)} parameters")
        net = fnn.shard(NETS[args.net], args.workers)
        for params in [start] if args.eval else epochs(net, start, data.train, args):
            if args.out:
                fnn.save(args.out / "params.pkl", params)
                kept = f"the last whole epoch's params are in {args.out / 'params.pkl'}"
            tell(test(net, params, data.test))
        tell(f"time: {time.perf_counter() - began:.1f} s")
    except (DataError, fnn.CheckpointError, fnn.LossError, OSError) as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        tell(f"stopped; {kept}")
        return 130
    return 0


def epochs(net: fnn.Op, params: fnn.Params, train: Examples, args: argparse.Namespace) -> Iterator[fnn.Params]:
    """Trains the net and tells how it goes; gives the params that each epoch ends with."""
    key, n = fnn.Key(args.seed), len(train.labels)
    rate = fnn.one_cycle(args.lr or RATES[args.net], max(2, args.epochs * -(-n // args.batch_size)), rise=0.1)
    optimizer = fnn.sgd(rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    state, step, move = optimizer.init(params), fnn.value_and_grad(net, fnn.cross_entropy), shift(1)
    for epoch in range(1, args.epochs + 1):
        seen, loss_sum, n_correct = 0, 0.0, 0
        for i, batch in enumerate(batches(n, args.batch_size, key.fold("epoch", epoch))):
            x, y = move(as_float(train.images[batch]), key.fold("shift", epoch, i)), train.labels[batch]
            (loss, out), grads = step(params, x, y)
            if not isfinite(loss):
                raise fnn.LossError(f"epoch {epoch}, step {i}: the loss is {loss}; a lower --lr may help")
            params, state = optimizer.update(params, grads, state)
            seen, loss_sum, n_correct = seen + len(y), loss_sum + loss * len(y), n_correct + hits(out, y)
            if seen % 2500 < len(y) or seen == n:
                means = f"loss: {loss_sum / seen:.4f} acc: {n_correct / seen:.3f}"
                tell(f"epoch: {epoch} iter: {seen} {means} n_correct: {n_correct}")
        yield params


def test(net: fnn.Op, params: fnn.Params, examples: Examples) -> str:
    """The line that says how many of the examples the net gets right."""
    n = len(examples.labels)
    parts = [slice(start, start + 500) for start in range(0, n, 500)]
    correct = sum(hits(net.apply(params, as_float(examples.images[p]))[0], examples.labels[p]) for p in parts)
    return f"test acc: {correct / n:.4f} ({correct}/{n})"


def hits(out: fnn.Array, labels: fnn.Array) -> int:
    """For how many examples the largest output is the label's."""
    return int(np.count_nonzero(out.argmax(1) == labels))


def read(source: str | None, limit: int | None) -> Dataset:
    """The data: generated digits if asked for or if there is no MNIST, else MNIST from the folder or where it is."""
    try:
        data = None if source == "digits" else mnist(source)
    except MissingDataError as error:
        tell(f"training on generated digits instead of MNIST: {error} (here means: with --data)")
        data = None
    if data is None:
        key = fnn.Key(0).fold("digits")
        data = Dataset(digits(20_000, key.fold("train")), digits(4_000, key.fold("test")), "generated digits")
    if not (len(data.train.labels) and len(data.test.labels)):
        raise DataError(f"{data.source} has no images to train on, or none to test on")
    return data._replace(train=Examples(data.train.images[:limit], data.train.labels[:limit]))


def fitting(path: Path, params: fnn.Params) -> fnn.Params:
    """The params in the file, if they are of the same structure, shapes and dtypes as `params`."""

    def told(*leaves: fnn.Array) -> list[str]:
        return [f"{np.asarray(leaf).dtype} {np.shape(leaf)}" for leaf in leaves]

    loaded: fnn.Params = fnn.load(path)
    try:
        for where, (came, wanted) in fnn.tree_items(fnn.tree_map(told, loaded, params)):
            if came != wanted:
                raise fnn.TreeError(f"{where} is {came}, wanted {wanted}")
    except fnn.TreeError as error:
        raise fnn.CheckpointError(f"{path} does not fit the net: {error}") from error
    return loaded


def usable(folder: Path) -> None:
    """Makes the folder if need be; raises OSError if nothing can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def parse() -> argparse.Namespace:
    """The command line's flags; a bad one ends the program with exit status 2."""
    usage = "python train.py [flags]"
    parser = argparse.ArgumentParser(usage=usage, description="Trains a network on MNIST.", allow_abbrev=False)
    flag = parser.add_argument
    flag("--net", choices=NETS, default="cnn", help="the convolutional or the fully connected net (cnn)")
    flag("--epochs", type=whole(1), default=10, metavar="N", help="how often to go through the images (10)")
    flag("--batch-size", type=whole(1), default=100, metavar="N", help="how many images a step looks at (100)")
    flag("--lr", type=rate, metavar="RATE", help="the learning rate at its height (0.1 for cnn, 0.3 for fc)")
    flag("--limit", type=whole(1), metavar="N", help="train on the first N images only")
    flag(
        "--data",
        type=given,
        metavar="DIR|digits",
        help="MNIST's folder, or digits: drawn ones (FNN_DATA, or fetched)",
    )
    flag("--seed", type=whole(0), default=0, metavar="N", help="what all random draws follow from (0)")
    flag("--workers", type=whole(1), metavar="N", help="how many threads work; changes no bit (one for each core)")
    flag("--out", type=place, metavar="DIR", help="keep the params of the last whole epoch there, as params.pkl")
    flag("--eval", type=place, metavar="FILE", help="train nothing: test the params in this file")
    args = parser.parse_args()
    if args.eval and args.out:
        parser.error("--eval trains nothing, so there is nothing to keep in --out")
    return args


def whole(least: int) -> Callable[[str], int]:
    """The reader of a whole number, `least` or more; 64 bits hold it."""

    def read(text: str) -> int:
        if not (text.isdecimal() and len(text) < 20 and least <= int(text) < 1 << 63):
            raise argparse.ArgumentTypeError(f"a whole number from {least} up is wanted, got {text!r}")
        return int(text)

    return read


def given(text: str) -> str:
    """Reads a text that is not empty, as that of a variable without a value is."""
    if not text:
        raise argparse.ArgumentTypeError("a path is wanted, got ''")
    return text


def place(text: str) -> Path:
    """Reads a path."""
    return Path(given(text))


def rate(text: str) -> float:
    """Reads a learning rate."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < inf:
        raise argparse.ArgumentTypeError(f"a number over 0 is wanted, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
