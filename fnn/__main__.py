"""`python -m fnn`: commands for trained nets, from a run folder alone, or from a file of params and `--net`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from fnn.checks.errors import describe_value
from fnn.data import DataError, Dataset, Examples, read_picture
from fnn.inspection.text import parse_net
from fnn.kernels.process import limited_blas
from fnn.op import Array
from fnn.run import (
    IMAGES,
    RunError,
    SavedRun,
    add_data,
    exit_status,
    export_run,
    format_accuracy,
    load_run,
    read_data,
    read_metrics,
)
from fnn.run.exits import describe, make_log
from fnn.run.flags import integer, nonempty, path
from fnn.run.folder import CONFIG, describe_missing
from fnn.run.report import log_probabilities, report
from fnn.run.saved import load_params
from fnn.run.settings import NETS_BY_NAME
from fnn.summaries import summary
from fnn.testing import CheckError, check_op
from fnn.transforms import shard

log = make_log(keep_going=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = parse(arguments)
    return exit_status(f"fnn {args.command}", lambda: COMMANDS[args.command][0](args) or 0)


def run_eval(args: argparse.Namespace) -> None:
    """Prints the accuracy on the test images."""
    run = read_run(args)
    data = read_images(args, run)
    correct = int(np.count_nonzero(log_probabilities(run.net, run.params, data.test).argmax(1) == data.test.labels))
    log(f"data: {data.source}: {len(data.test.labels)} test images")
    log(format_accuracy(correct / len(data.test.labels), len(data.test.labels)))


def run_report(args: argparse.Namespace) -> None:
    """Draws the pictures of a run into its folder."""
    run = read_run(args)
    data = read_images(args, run)
    add_data(run.config, data, args.source)  # other data would replace the pictures of this run by wrong ones
    for picture in report(args.source, run.net, data.test):
        log(f"wrote: {picture}")
    lines = read_metrics(args.source)
    if missing := describe_missing(args.source, lines, int(lines[-1]["epoch"])):
        log(missing)


def run_export(args: argparse.Namespace) -> None:
    """Writes an ONNX model."""
    if args.model.suffix != ".onnx":  # such as the run's own params.pkl
        raise RunError(f"{args.model}: expected a name that ends with .onnx, so that no other file is replaced")
    log(export_run(read_run(args), args.model))


def run_predict(args: argparse.Namespace) -> None:
    """Prints class and probability of each image."""
    run = read_run(args)
    check_input(args, run)
    images = np.stack([read_picture(path) for path in args.images])
    for image, row in zip(args.images, classify(args, run, images), strict=True):
        log(f"{image}: {run.config['classes'][row.argmax()]} ({np.exp(row.max()):.1%})")


def run_summary(args: argparse.Namespace) -> None:
    """Prints the table of the net."""
    run = read_run(args)
    log(summary(run.net, run.shape, run.params))


def run_check(args: argparse.Namespace) -> int:
    """Runs `check_op` on the net, with a key if it is random."""
    run = read_run(args)
    exempt = ("batch independence",) if run.net.statistics else ()
    try:
        net = shard(run.net, workers=1)  # limits BLAS to one thread: with several, threads change the last bits
        net.kind = run.net.kind  # for errors
        error = check_op(net, run.shape, key=1 if run.net.takes_key else None, exempt=exempt)
    except CheckError as failure:
        log(f"failed: {failure}")
        if find_spec("threadpoolctl") is None:
            log("if this is about threads: run pip install '.[threads]', or set OPENBLAS_NUM_THREADS=1")
        return 1
    log(f"passed; the largest relative error of a gradient is {error:.1e}")
    return 0


def run_draw(args: argparse.Namespace) -> None:
    """Serves the page on which you draw, until Ctrl-C."""
    import webbrowser  # these take a tenth of the start of a command, and only this one needs them

    from fnn.page import PageServer, Pupil

    run = read_run(args)
    check_input(args, run)
    classes, data = run.config["classes"], None
    classify(args, run, np.zeros((1, *run.shape[1:]), np.uint8))  # raises the errors that every answer would have
    try:
        data = read_images(args, run)
        if (most := data.train.labels.max()) >= len(classes):
            raise DataError(f"{data.source}: expected labels below {len(classes)}, got {most}")
    except (DataError, OSError) as error:
        log(f"without lessons: {'; '.join([describe(error), *getattr(error, '__notes__', [])])}")
        data = None
    server = PageServer(Pupil(run.net, run.params, classes, args.source, data), args.port)
    log(f"draw a digit at {server.address}\nCtrl-C stops the page")
    if not args.no_browser:
        Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
    with limited_blas(), server:  # with several threads, BLAS is slower for single images
        server.serve_forever()


def classify(args: argparse.Namespace, run: SavedRun, images: NDArray[np.uint8]) -> Array:
    """Returns the log-probabilities of images. Raises RunError unless there is one for each class of the run."""
    classes = len(run.config["classes"])
    scores = log_probabilities(run.net, run.params, Examples(images, np.zeros(len(images), np.int64)))
    if scores.shape[1] != classes:
        raise RunError(f"{args.source}: expected a score for each of {classes} classes, got {scores.shape[1]}")
    return scores


def read_run(args: argparse.Namespace) -> SavedRun:
    """Returns the run in a folder; or the params in a file, or initial ones, for the net of `--net`."""
    source: Path | None = args.source
    if source and source.is_dir():
        if getattr(args, "net", None):
            raise RunError(f"{source}: expected a file of params with --net; a run folder has its own net")
        return load_run(source)
    if args.command in ("report", "draw"):
        raise RunError(f"{source}: expected the folder of a run")
    if not args.net:
        expected = "the folder of a run, or a file of params with --net"
        raise RunError(f"{source}: expected {expected}" if source else f"expected {expected}, or --net alone")
    net = parse_net(NETS_BY_NAME.get(args.net, args.net))
    params = net.init(0, tuple(IMAGES["shape"]))
    return SavedRun(net, load_params(source, params) if source else params, IMAGES)


def read_images(args: argparse.Namespace, run: SavedRun) -> Dataset:
    """Returns the data of a run, or those of `--data`."""
    check_input(args, run)
    try:
        return read_data(
            args.data or run.config.get("data"), run.config.get("limit"), log, run.config.get("validation", 0)
        )
    except DataError as error:
        if args.source.is_dir() and not args.data:
            error.add_note(f"the settings are in {args.source / CONFIG}")
        error.add_note("use --data to name the folder of MNIST")
        raise


def check_input(args: argparse.Namespace, run: SavedRun) -> None:
    """Raises RunError unless the net takes images like MNIST's, scaled as by `as_float`."""
    for name in ("shape", "scaling"):
        if run.config[name] != IMAGES[name]:
            expected = f"{name}: expected {IMAGES[name]} for this command"
            raise RunError(f"{args.source / CONFIG}: {expected}, got {describe_value(run.config[name])}")


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int | None], str, str]] = {
    "eval": (run_eval, "print the accuracy on MNIST's test images", "runs/a"),
    "report": (run_report, "draw curves, confusion matrix, mistakes and filters (extra `plot`)", "runs/a"),
    "export": (run_export, "write an ONNX model (extra `onnx`)", "runs/a model.onnx"),
    "predict": (run_predict, "print class and probability of images (extra `images`)", "runs/a seven.png four.jpg"),
    "draw": (run_draw, "open a page to draw a digit on: the net answers, explains and learns", "runs/a"),
    "summary": (run_summary, "print shape, parameters and multiply-adds of each operator", "runs/a"),
    "check": (run_check, "check the gradients and other properties of the net", "--net 'serial(dense(32), relu)'"),
}
ASSUMPTIONS = """Each image must have one digit on a plain background, which may be lighter or
darker than the digit. It is prepared like MNIST's images: grey, light on dark,
the digit scaled to 20 pixels, its centre of mass in the middle of 28 x 28
pixels. Images of 28 x 28 pixels keep their size and position."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; wrong arguments end the program with exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fnn",
        description="Commands for trained nets: for the folder of a run, or a file of params with --net.",
        epilog="`python -m fnn COMMAND --help` shows the arguments and an example.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text, example) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"{ASSUMPTIONS if name == 'predict' else ''}\n\nexample: python -m fnn {name} {example}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add = command.add_argument
        if name in ("report", "draw"):
            add("source", type=path, metavar="RUN", help="folder of a run")
        else:
            count = "?" if name in ("check", "summary") else None
            add("source", type=path, nargs=count, metavar="RUN|FILE", help="folder of a run, or file of params")
            add("--net", type=nonempty, metavar="TEXT", help="net of the params: cnn, fc, deep or the repr of a net")
        if name in ("eval", "report", "draw"):
            add("--data", type=nonempty, metavar="DIR|digits", help="folder of MNIST, or generated digits (the run's)")
        if name == "draw":
            add("--port", type=integer(0, 65535), metavar="N", default=0, help="port on 127.0.0.1 (a free one)")
            add("--no-browser", action="store_true", help="only print the address")
        if name == "export":
            add("model", type=path, metavar="MODEL", help="file to write, such as model.onnx")
        if name == "predict":
            add("images", type=path, nargs="+", metavar="IMAGE", help="image file, such as PNG or JPEG")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
