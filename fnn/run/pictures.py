"""The pictures of a report, drawn by matplotlib into figures of their own, beside whatever else a program draws.

What they tell is told by position, shape or lightness, and by hue only besides: print keeps it, and everybody sees it.
"""

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from math import ceil, sqrt
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from fnn.data import Examples
from fnn.op import Array

STYLES: dict[str, dict[str, Any]] = {
    "train": {"color": "#0072b2", "linestyle": "--", "marker": "o", "markerfacecolor": "none"},
    "test": {"color": "#d55e00", "linestyle": "-", "marker": "s"},
}
"""Two of the colours that Okabe & Ito chose in 2008 for every kind of eyes."""

GREY = "0.85"
"""The lightness of what is not to be looked at: grids and frames."""

MOST_FILTERS = 64


def png(figure: Figure) -> bytes:
    """The figure as a file."""
    file = BytesIO()
    FigureCanvasAgg(figure).print_png(file)  # type: ignore[no-untyped-call]
    return file.getvalue()


def curves(metrics: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Loss and accuracy of training and test, and the rate, by epoch: 1200 x 800 pixels."""
    figure = _figure(12, 8)
    panels = figure.subplot_mosaic([["loss", "accuracy"], ["rate", "rate"]], height_ratios=[3, 1])
    shown = {name: np.where(np.isfinite(values), values, np.nan) for name, values in metrics.items()}
    epochs, accuracies = shown["epoch"], shown["test_accuracy"]
    size = max(2, min(6, 150 / len(epochs)))
    for name, style in STYLES.items():
        panels["loss"].plot(epochs, shown[f"{name}_loss"], label=name, markersize=size, **style)
        panels["accuracy"].plot(epochs, 100 * shown[f"{name}_accuracy"], label=name, markersize=size, **style)
    panels["rate"].plot(epochs, shown["rate"], color="0.4", marker=".")
    panels["loss"].set_title("Loss")
    panels["accuracy"].set_title("Accuracy, %")
    panels["rate"].set_title("Learning rate at the end of the epoch")
    if not np.isnan(accuracies).all():
        best = int(np.nanargmax(accuracies))
        panels["accuracy"].set_title(f"Accuracy, % (best test: {100 * accuracies[best]:.2f}, epoch {epochs[best]:.0f})")
    _scale(panels["loss"], np.concatenate([shown["train_loss"], shown["test_loss"]]))
    panels["rate"].set_ylim(bottom=0)
    for name, panel in panels.items():
        panel.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.set_xlabel("; ".join(["epoch", *_gaps({key: shown[key] for key in shown if name in key})]))
        panel.grid(color=GREY)
    panels["loss"].legend(frameon=False)
    return figure


def _figure(width: float, height: float) -> Figure:
    """An empty figure of that many hundred pixels."""
    return Figure((width, height), 100, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def _scale(panel: Axes, values: NDArray[np.float64]) -> None:
    """Makes the scale logarithmic where the values are positive, over a factor of 5 at least: no noise looks large."""
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0:
        low, high = values.min(), values.max()
        room = max(1.2, sqrt(5 * low / high))
        panel.set_yscale("log")
        panel.set_ylim(low / room, high * room)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())


def _gaps(shown: Mapping[str, NDArray[np.float64]]) -> Iterator[str]:
    """What there is to say of lines with gaps."""
    for name, values in shown.items():
        if gaps := np.count_nonzero(np.isnan(values)):
            yield f"{name.replace('_', ' ')} not finite in {gaps} of {len(values)}"


def confusion(counts: NDArray[np.int64]) -> Figure:
    """How many images of each class, a row, were taken for each class, a column: 1000 x 900 pixels.

    The more frequent a mistake, the darker; and beside each row the share that is right.
    """
    figure = _figure(10, 9)
    panel = figure.subplots()
    diagonal, right, total, classes = np.eye(len(counts), dtype=bool), np.diag(counts), counts.sum(), range(len(counts))
    wrong = np.where(diagonal, 0, counts)
    most = max(1, wrong.max())
    panel.set_facecolor("white")
    panel.imshow(np.where(wrong, wrong, np.nan), "Blues", vmin=0, vmax=1.25 * most, origin="upper")
    panel.imshow(np.where(diagonal, 0.1, np.nan), "Greys", vmin=0, vmax=1, origin="upper")
    for row, column in np.argwhere(counts):
        color = "white" if wrong[row, column] > 0.75 * most else "black"
        panel.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color)
    panel.set_xticks(classes)
    panel.set_yticks(classes)
    panel.set_xlabel("taken for")
    panel.set_ylabel("label")
    edges = np.arange(len(counts) - 1) + 0.5
    panel.set_xticks(edges, minor=True)
    panel.set_yticks(edges, minor=True)
    panel.grid(which="minor", color=GREY)
    panel.tick_params(which="minor", length=0)
    shares = panel.secondary_yaxis("right")
    shares.set_yticks(classes, [_share(n, of) for n, of in zip(right, counts.sum(1), strict=True)])
    shares.set_ylabel("share that is right")
    panel.set_title(f"{right.sum():,} of {total:,} test images right: {_share(right.sum(), total, 2)}")
    return figure


def _share(n: float, of: float, digits: int = 1) -> str:
    return f"{100 * n / of:.{digits}f} %" if of else "-"


def mistakes(test: Examples, scores: Array, numbers: NDArray[np.int64]) -> Figure:
    """The images of those numbers: for each the label, what it was taken for, and the probability of that.

    1000 pixels wide, and 1100 high where there are 25.
    """
    rows = max(1, ceil(len(numbers) / 5))
    figure, taken = _figure(10, 0.5 + 2.1 * rows), scores.argmax(1)
    wrong, total = np.count_nonzero(taken != test.labels), len(taken)
    if not wrong:
        figure.text(0.5, 0.5, f"No mistake in {total:,} test images", ha="center", va="center", fontsize="large")
        return figure
    figure.suptitle(f"{len(numbers):,} of {wrong:,} mistakes in {total:,} test images, the worst first")
    probabilities = [_share(np.exp(scores[n, taken[n]]), 1) for n in numbers]
    captions = [f"{test.labels[n]} taken for {taken[n]}: {p}" for n, p in zip(numbers, probabilities, strict=True)]
    _tiles(figure.subplots(), 5, test.images[numbers], captions, "gray_r", (0, 255))
    return figure


def filters(path: str, images: Array) -> Figure:
    """The images, 64 at most, on one scale from black over 0 in the middle to white: 1200 x 800 pixels."""
    figure = _figure(12, 8)
    shown, panel = images[:MOST_FILTERS], figure.subplots()
    limit = np.abs(shown).max() or 1
    _tiles(panel, ceil(sqrt(1.5 * len(shown))), shown, [*map(str, range(len(shown)))], "gray", (-limit, limit))
    figure.colorbar(panel.images[0], ax=panel, label="weight", aspect=40)
    some = f"the first {len(shown)} of " if len(shown) < len(images) else ""
    figure.suptitle(f"{path}: {some}{len(images)} filters of {images.shape[1]} x {images.shape[2]}")
    return figure


def _tiles(
    panel: Axes, columns: int, images: Array, captions: Sequence[str], colors: str, limits: tuple[float, float]
) -> None:
    """Draws the images (N, height, width) in rows, each in a frame with its caption above."""
    height, width = images.shape[1:]
    gap = 0.12 * width
    caption = 0.026 * columns * (width + gap)  # a line of text, which is as high however small the images are
    for n, (image, text) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(n, columns)
        x, y = column * (width + gap), row * (height + caption)
        place = x, x + width, y + height, y
        panel.imshow(image, colors, vmin=limits[0], vmax=limits[1], extent=place, origin="upper")
        panel.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=GREY))
        panel.text(x + width / 2, y - 0.15 * caption, text, ha="center", va="bottom")
    panel.set_xlim(-gap / 4, columns * (width + gap) - 0.75 * gap)
    panel.set_ylim(ceil(len(images) / columns) * (height + caption) - 0.9 * caption, -caption)
    panel.axis("off")
