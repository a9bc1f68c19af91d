"""What a net answers to an image, what each of its layers sees, and which pixels caused the answer."""

from base64 import b64encode
from math import ceil, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fnn.data import as_float
from fnn.inspection.rebuild import find_paths, intercept
from fnn.op import Array, Op, Params, Vjp
from fnn.ops.softmaxes import softmax
from fnn.random import Key

MAX_IMAGES = 16  # of one layer


class View(NamedTuple):
    """The output of a layer as images, scaled from its smallest number (0) to its largest (255)."""

    path: str
    operator: str
    shape: tuple[int, ...]  # of the output
    images: NDArray[np.uint8]  # (n, height, width), the first channels only if there are many

    def as_json(self) -> dict[str, Any]:
        """Returns the view as the page gets it."""
        return self._asdict() | {"images": encode(self.images), "size": self.images.shape}


class Answer(NamedTuple):
    """An answer to one image."""

    probabilities: Array  # (classes,)
    chosen: int  # the class that `heat` is about
    heat: Array  # (height, width), from -1 to 1: positive pixels speak for the chosen class, negative ones against it
    views: list[View]

    def as_json(self) -> dict[str, Any]:
        """Returns the answer as the page gets it."""
        return {
            "probabilities": [round(float(p), 4) for p in self.probabilities],
            "chosen": self.chosen,
            "heat": encode((self.heat * 127).round().astype(np.int8)),
            "views": [view.as_json() for view in self.views],
        }


def answer(net: Op, params: Params, image: NDArray[np.uint8], chosen: int | None = None) -> Answer:
    """Applies the net to an image (height, width). The heat map is about the class `chosen`, or about the likeliest.

    It is the gradient, with respect to the pixels, of the class's score minus the mean of the other scores.
    """
    scores, vjp, outputs = _apply_and_record(net, params, as_float(image[None]))
    classes = scores.shape[1]
    chosen = int(scores.argmax()) if chosen is None else chosen
    dy = np.full_like(scores, -1 / max(1, classes - 1))
    dy[0, chosen] = 1
    heat = vjp(dy)[1][0, 0]
    views = [View(*names, y.shape, images) for names, y in outputs.items() if (images := _as_images(y)) is not None]
    return Answer(softmax.apply({}, scores)[0][0], chosen, heat / (np.abs(heat).max() or 1), views)


def encode(array: NDArray[Any]) -> str:
    """Returns the bytes of an array as base64."""
    return b64encode(array.tobytes()).decode()


def _apply_and_record(net: Op, params: Params, x: Array) -> tuple[Array, Vjp, dict[tuple[str, str], Array]]:
    """Applies the net. Also returns the outputs of the operators that have no parts, by path and `repr`."""
    params, paths = find_paths(net, params)
    outputs: dict[tuple[str, str], Array] = {}  # of the one example: without the axis of the batch, if that is 1

    def around(op: Op, apply: Any, params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        y, vjp = apply(params, x, key)
        if not op.is_composite:
            outputs[paths.get(id(params), op.kind), repr(op)] = y[0] if len(y) == 1 else y
        return y, vjp

    y, vjp = intercept(net, around).apply(params, x)
    return y, vjp, outputs


def _as_images(y: Array) -> NDArray[np.uint8] | None:
    """One example's output as images (n, height, width). None if it has another form than images, rows or features."""
    if y.ndim == 1:
        width = ceil(sqrt(y.size))
        y = np.pad(y, (0, -y.size % width), constant_values=y.min(initial=0)).reshape(-1, width)
    images = y[None] if y.ndim == 2 else y[:MAX_IMAGES]
    if images.ndim != 3 or not images.size:
        return None
    low, high = float(images.min()), float(images.max())
    return ((images - low) * (255 / ((high - low) or 1))).round().astype(np.uint8)
