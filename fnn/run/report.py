"""The report of a run: pictures of its curves, and of the predictions and weights of its params."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fnn.data import Examples, as_float
from fnn.files.disk import atomic_write
from fnn.op import Array, Op, Params
from fnn.ops.softmaxes import log_softmax
from fnn.run.folder import CURVES as CURVES
from fnn.run.folder import RunError, check_links, find_params, read_config, read_metrics
from fnn.run.saved import load_params
from fnn.tree import tree_items

PICTURES = ("curves.png", "confusion.png", "mistakes.png", "filters.png")


def report(folder: Path, net: Op, test: Examples) -> list[Path]:
    """Draws the run in the folder and returns the new files: curves, confusion, mistakes and filters, all `.png`.

    They show the metrics of all epochs, the confusion matrix of the test images, the 25 mistakes with the highest loss,
    and the first layer's weights, unless `first_filters` returns None. `net` is the run's net. Needs the extra `plot`.

    Raises RunError if matplotlib is missing, if no epoch is finished, and for damaged metrics. Raises CheckpointError
    for damaged params or another net's, and OSError as files do.
    """
    try:
        from fnn.run import pictures
    except ModuleNotFoundError as error:
        raise RunError(f"{folder}: a report needs matplotlib: pip install '.[plot]'") from error
    curves = read_curves(folder)
    check_links(folder, PICTURES)
    params = load_params(find_params(folder), like=net.init(0, (1, *test.images.shape[1:])))
    scores = log_probabilities(net, params, test)
    figures = [
        pictures.plot_curves(curves),
        pictures.plot_confusion(confusion(scores, test.labels)),
        pictures.plot_mistakes(test, scores, worst(scores, test.labels)),
    ]
    if filters := first_filters(params):
        figures.append(pictures.plot_filters(*filters))
    paths = [folder / name for name in PICTURES[: len(figures)]]
    for path, figure in zip(paths, figures, strict=True):
        with atomic_write(path) as file:
            file.write(pictures.to_png(figure))
    return paths


def read_curves(folder: Path) -> dict[str, NDArray[np.float64]]:
    """Returns the metrics in CURVES, with one number per epoch. Raises RunError as `report` does."""
    read_config(folder)  # raises RunError if there is no run
    lines = read_metrics(folder)
    if not lines:
        raise RunError(f"{folder}: expected a finished epoch, got none, so there is nothing to draw yet")
    return {name: np.array([line[name] for line in lines], np.float64) for name in CURVES}


def log_probabilities(net: Op, params: Params, examples: Examples) -> Array:
    """Returns the log-probability of each class for each image, (N, classes)."""
    starts = range(0, len(examples.labels), 500)
    outs = np.concatenate([net.apply(params, as_float(examples.images[i : i + 500]))[0] for i in starts])
    if outs.ndim != 2 or outs.shape[1] <= examples.labels.max(initial=0):
        raise RunError(f"expected a net with a score for each class, got outputs of shape {outs.shape[1:]}")
    if wrong := int(np.count_nonzero(~np.isfinite(outs).all(1))):
        raise RunError(f"expected finite scores, got nan or infinity for {wrong} images")
    return log_softmax.apply({}, outs)[0]


def confusion(scores: Array, labels: Array) -> NDArray[np.int64]:
    """Returns the number of images of each class (row) that are predicted as each class (column)."""
    classes = scores.shape[1]
    return np.bincount(labels * classes + scores.argmax(1), minlength=classes**2).reshape(classes, classes)


def worst(scores: Array, labels: Array, most: int = 25) -> NDArray[np.int64]:
    """Returns the indices of at most `most` wrong predictions, those with the lowest score for the label first."""
    wrong = np.flatnonzero(scores.argmax(1) != labels)
    return wrong[np.argsort(scores[wrong, labels[wrong]], kind="stable")][:most]


def first_filters(params: Params) -> tuple[str, Array] | None:
    """Returns the path of the net's first array, and these weights as images (N, height, width).

    Each channel of a kernel is an image. Returns None unless the array belongs to a convolution, or to a dense layer on
    28 x 28 pixels.
    """
    path, w = next(tree_items(params), ("", np.empty(0)))
    if w.ndim == 4:
        return path, w.reshape(-1, *w.shape[2:])
    if w.ndim == 2 and len(w) == 28 * 28:
        return path, w.T.reshape(-1, 28, 28)
    return None
