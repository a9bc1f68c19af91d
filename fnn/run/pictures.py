"""The figures of a report, drawn by matplotlib without its global state. Readable in greyscale and colour-blind."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from math import ceil, sqrt
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from fnn.data import Examples
from fnn.op import Array

STYLES: dict[str, dict[str, Any]] = {
    "train": {"color": "#0072b2", "linestyle": "--", "marker": "o", "markerfacecolor": "none"},
    "test": {"color": "#d55e00", "linestyle": "-", "marker": "s"},
}
"""Colours from the colour-blind safe palette of Okabe & Ito, 2008."""

GREY = "0.85"  # of grids and frames
MAX_FILTERS = 64


def to_png(figure: Figure) -> bytes:
    """Returns the figure as the content of a PNG file."""
    FigureCanvasAgg(figure).print_png(file := BytesIO())  # type: ignore[no-untyped-call]
    return file.getvalue()


def plot_curves(metrics: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Plots the loss, the accuracy and the learning rate by epoch: 1200 x 800 pixels."""
    figure = _figure(12, 8)
    panels = figure.subplot_mosaic([["loss", "accuracy"], ["rate", "rate"]], height_ratios=[3, 1])
    epochs, accuracies = metrics["epoch"], 100 * metrics["test_accuracy"]
    size = max(2, min(6, 150 / len(epochs)))
    for name, style in STYLES.items():
        panels["loss"].plot(epochs, metrics[f"{name}_loss"], label=name, markersize=size, **style)
        panels["accuracy"].plot(epochs, 100 * metrics[f"{name}_accuracy"], label=name, markersize=size, **style)
    panels["rate"].plot(epochs, metrics["rate"], color="0.4", marker=".")
    panels["loss"].set_title("Loss")
    panels["accuracy"].set_title(f"Accuracy, % (test after epoch {epochs[-1]:.0f}: {accuracies[-1]:.2f})")
    panels["rate"].set_title("Learning rate at the end of the epoch")
    _set_log_scale(panels["loss"], np.concatenate([metrics["train_loss"], metrics["test_loss"]]))
    panels["rate"].set_ylim(bottom=0)
    for panel in panels.values():
        panel.set(xlabel="epoch", xlim=(epochs.min() - 0.5, epochs.max() + 0.5))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.grid(color=GREY)
    panels["loss"].legend(frameon=False)
    return figure


def _figure(width: float, height: float) -> Figure:
    """Returns an empty figure; sizes are in units of 100 pixels."""
    return Figure((width, height), 100, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def _set_log_scale(panel: Axes, values: NDArray[np.float64]) -> None:
    """Makes the y axis logarithmic if all values are positive; it spans at least a factor of 5: noise looks small."""
    low, high = values.min(), values.max()
    if low > 0:
        margin = max(1.2, sqrt(5 * low / high))
        panel.set_yscale("log")
        panel.set_ylim(low / margin, high * margin)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())


def plot_confusion(counts: NDArray[np.int64]) -> Figure:
    """Plots the confusion matrix, true labels by predictions: 1000 x 900 pixels. Frequent mistakes are dark."""
    figure = _figure(10, 9)
    panel = figure.subplots()
    diagonal, correct, total, classes = np.eye(len(counts), dtype=bool), np.diag(counts), counts.sum(), len(counts)
    wrong = np.where(diagonal, 0, counts)
    most = max(1, wrong.max())
    panel.imshow(np.where(wrong, wrong, np.nan), "Blues", vmin=0, vmax=1.25 * most, origin="upper")
    panel.imshow(np.where(diagonal, 0.1, np.nan), "Greys", vmin=0, vmax=1, origin="upper")
    for row, column in np.argwhere(counts):
        color = "white" if wrong[row, column] > 0.75 * most else "black"
        panel.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_ticks(range(classes))
        axis.set_ticks(np.arange(classes - 1) + 0.5, minor=True)
    panel.set(facecolor="white", xlabel="predicted", ylabel="true label")
    panel.grid(which="minor", color=GREY)
    panel.tick_params(which="minor", length=0)
    recall = panel.secondary_yaxis("right")
    shares = zip(correct, counts.sum(1), strict=True)
    recall.set_yticks(range(classes), [f"{100 * n / of:.1f} %" if of else "-" for n, of in shares])
    recall.set_ylabel("recall")
    panel.set_title(f"{correct.sum():,} of {total:,} test images correct: {100 * correct.sum() / total:.2f} %")
    return figure


def plot_mistakes(test: Examples, scores: Array, indices: NDArray[np.int64]) -> Figure:
    """Shows these images with label, prediction and probability: 1000 pixels wide, 1100 high for 25 images."""
    figure, predicted = _figure(10, 0.5 + 2.1 * max(1, ceil(len(indices) / 5))), scores.argmax(1)
    wrong, total = np.count_nonzero(predicted != test.labels), len(predicted)
    if not wrong:
        figure.text(0.5, 0.5, f"No mistake in {total:,} test images", ha="center", va="center", fontsize="large")
        return figure
    title = f"{len(indices):,} of {wrong:,} mistakes in {total:,} test images"
    figure.suptitle(f"{title} (true label → prediction), highest loss first")
    percent = 100 * np.exp(scores.max(1))
    captions = [f"{test.labels[i]} → {predicted[i]} ({percent[i]:.0f} % confident)" for i in indices]
    _draw_tiles(figure, 5, test.images[indices], captions, "gray_r", (0, 255))
    return figure


def plot_filters(path: str, images: Array) -> Figure:
    """Shows at most 64 images on one scale; zero is grey, black is negative: 1200 x 800 pixels."""
    figure, n, images = _figure(12, 8), len(images), images[:MAX_FILTERS]
    limit, captions = np.abs(images).max() or 1, [str(i) for i in range(len(images))]
    _draw_tiles(figure, ceil(sqrt(1.5 * len(images))), images, captions, "gray", (-limit, limit))
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label="weight", aspect=40)
    which = f"the first {len(images)} of {n}" if len(images) < n else f"{n}"
    figure.suptitle(f"{path}: {which} filters of {images.shape[1]} x {images.shape[2]}")
    return figure


def _draw_tiles(
    figure: Figure, columns: int, images: Array, captions: Sequence[str], colors: str, limits: tuple[float, float]
) -> None:
    """Draws the images (N, height, width) in rows, each in a frame under its caption."""
    panels = figure.subplots(ceil(len(images) / columns), columns, squeeze=False).ravel()
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    for panel, image, caption in zip(panels, images, captions, strict=False):
        panel.imshow(image, colors, vmin=limits[0], vmax=limits[1])
        panel.set(xticks=[], yticks=[])
        panel.set_title(caption, fontsize="medium")
        panel.spines[:].set_color(GREY)
    for panel in panels[len(images) :]:
        panel.remove()
