"""What there is to see of a run: its curves, and what its best params make of the test images."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fnn.data import Examples, as_float
from fnn.files.checkpoint import load
from fnn.files.disk import atomic_write
from fnn.op import Array, Op, Params
from fnn.ops import log_softmax
from fnn.run.folder import BEST, METRICS, RunError, read_config, read_metrics
from fnn.tree import tree_leaves

CURVES = ("epoch", "train_loss", "test_loss", "train_accuracy", "test_accuracy", "rate")
"""What is drawn by epoch, of all that the metrics tell."""


class Filters(NamedTuple):
    """The weights of a net's first layer as images."""

    path: str
    """Where they are in the params."""

    images: Array
    """(N, height, width)."""


def report(folder: Path, net: Op, test: Examples) -> list[Path]:
    """Draws the run in the folder, and returns the files: curves, confusion, mistakes and filters, each a `.png` there.

    They show the metrics of all epochs; for which digits the best params take the test images; the worst 25 of their
    mistakes; and the first layer's weights, a file that is missing where `first_filters` gives none. `net` is the
    run's. Each file is written whole or not at all. Needs the extra `plot`.

    Raises RunError for a folder without a run, or of whose run no epoch is finished; for damaged metrics; for a net
    whose outputs are no scores; and where matplotlib is missing. Raises CheckpointError for params that are damaged or
    another net's, and the plain OSError for what cannot be read or written.
    """
    try:
        from fnn.run import pictures
    except ModuleNotFoundError as error:
        raise RunError(f"{folder} cannot be drawn without matplotlib: install fnn[plot]") from error
    curves = read_curves(folder)
    params = load(folder / BEST, like=net.init(0, (1, *test.images.shape[1:])))
    scores = log_probabilities(net, params, test)
    figures = {
        "curves.png": pictures.curves(curves),
        "confusion.png": pictures.confusion(confusion(scores, test.labels)),
        "mistakes.png": pictures.mistakes(test, scores, worst(scores, test.labels)),
    }
    if filters := first_filters(net, params):
        figures["filters.png"] = pictures.filters(*filters)
    for name, figure in figures.items():
        with atomic_write(folder / name) as file:
            file.write(pictures.png(figure))
    return [folder / name for name in figures]


def read_curves(folder: Path) -> dict[str, NDArray[np.float64]]:
    """Of the run in the folder, each of CURVES with a number for each epoch. Raises RunError as `report` does."""
    read_config(folder)  # which says so where there is no run
    lines = read_metrics(folder)
    if not lines:
        raise RunError(f"{folder}: no epoch of this run is finished yet, so there is nothing to draw")
    for number, line in enumerate(lines, 1):
        kinds = [type(line.get(name)) for name in CURVES] if isinstance(line, dict) else []
        if not (kinds and kinds[0] is int and all(kind in (int, float) for kind in kinds)):
            raise RunError(
                f"{folder / METRICS} is damaged: line {number} lacks a number for one of {', '.join(CURVES)}"
            )
    return {name: np.array([line[name] for line in lines], np.float64) for name in CURVES}


def log_probabilities(net: Op, params: Params, examples: Examples) -> Array:
    """The logarithms of the probabilities that the net gives the images to be of each class, (N, classes).

    Raises RunError when its outputs are not finite, or not a score for each class.
    """
    parts = [slice(start, start + 500) for start in range(0, max(1, len(examples.labels)), 500)]
    outs = np.concatenate([net.apply(params, as_float(examples.images[part]))[0] for part in parts])
    if outs.ndim != 2 or outs.shape[1] <= examples.labels.max(initial=0):
        raise RunError(f"the net makes {outs.shape[1:]} of an image, wanted a score for each class")
    if wrong := int(np.count_nonzero(~np.isfinite(outs).all(1))):
        raise RunError(f"the net's scores of {wrong} test images are not finite")
    return log_softmax.apply({}, outs)[0]


def confusion(scores: Array, labels: Array) -> NDArray[np.int64]:
    """How many images of each class, a row, have their highest score for each class, a column."""
    classes = scores.shape[1]
    return np.bincount(labels * classes + scores.argmax(1), minlength=classes**2).reshape(classes, classes)


def worst(scores: Array, labels: Array, most: int = 25) -> NDArray[np.int64]:
    """The numbers of images whose highest score is not that of the label: the lowest scores for the label come first.

    These are the losses that are the largest, if scores are logarithms of probabilities.
    """
    wrong = np.flatnonzero(scores.argmax(1) != labels)
    return wrong[np.argsort(scores[wrong, labels[wrong]], kind="stable")][:most]


def first_filters(net: Op, params: Params) -> Filters | None:
    """The weights of the first layer that has params, if it is a convolution, or a dense one of 28 x 28 pixels.

    Each channel of a kernel is an image by itself.
    """
    path: list[str] = []
    while net.is_composite:
        for names, part in net.inside():
            own = params.get(names[0], {}) if names else params
            if tree_leaves(own):
                net, params, path = part, own, [*path, *names]
                break
        else:
            return None
    w = params.get("w")
    if net.kind == "conv" and isinstance(w, np.ndarray):
        return Filters("/".join([*path, "w"]), w.reshape(-1, *w.shape[2:]))
    if net.kind == "dense" and isinstance(w, np.ndarray) and len(w) == 28 * 28:
        return Filters("/".join([*path, "w"]), w.T.reshape(-1, 28, 28))
    return None
