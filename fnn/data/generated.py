"""Digits drawn by a key instead of by people: a stand-in for MNIST that needs no file.

Draws, comparisons, +, -, *, / and the square root are all that makes the pixels. IEEE 754 rounds each of them in one
way, so equal keys give equal bytes on every machine, which sines, exponentials and matrix products do not promise.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fnn.checks.values import check_int
from fnn.data.examples import Examples
from fnn.random import Rng, as_key

if TYPE_CHECKING:
    from numpy.random import Generator

DRAWINGS = (
    ("50 10 03 06 19 79 96 93 70 40",),
    ("50 49", "23 50 50 59", "22 50 50 59 / 29 79"),
    ("12 10 90 94 09 09 99", "12 20 90 95 08 07 29 59 98"),
    ("11 30 90 94 34 34 95 99 29 08",),
    ("10 06 06 96 / 70 69", "60 06 06 96 / 73 69"),
    ("20 14 14 33 93 99 39 08 / 20 80",),
    ("70 30 07 09 89 94 24 07",),
    ("01 90 90 59 39", "00 90 90 49 29 / 25 85"),
    ("81 60 00 04 95 99 09 05 83 81",),
    ("82 60 00 05 65 82 81 81 69", "82 60 00 05 65 93 82 99 39 18"),
)
"""How each digit is drawn, in one way or several: strokes between slashes, each the control points of a quadratic
B-spline, `xy` on a grid from 00, at the top left, to 99. A point written twice is a corner."""

CHUNK = 128
"""How many images are drawn at a time, few enough for a core's cache. Another number makes other images."""

Floats = NDArray[np.float32]


def digits(n: int, rng: Rng) -> Examples:
    """`n` images of the ten digits as if by many hands, as often one digit as another to within one, in random order.

    Equal keys give equal images. Raises ValueError unless n is an int of at least 0.
    """
    n = check_int("n", n)
    generator = as_key(rng).generator()
    images, labels = np.empty((n, 28, 28), np.uint8), np.empty(n, np.int64)
    places = generator.permutation(n)
    for digit, drawings in enumerate(DRAWINGS):
        own = places[digit::10]
        labels[own] = digit
        for way, drawing in enumerate(drawings):
            dealt = own[way :: len(drawings)]
            for start in range(0, len(dealt), CHUNK):
                chunk = dealt[start : start + CHUNK]
                images[chunk] = _draw(drawing, len(chunk), generator)
    return Examples(images, labels)


def _draw(drawing: str, n: int, generator: "Generator") -> NDArray[np.uint8]:
    """`n` images (n, 28, 28) of one drawing, each by another hand; the batch is innermost until they are done."""
    dots = np.concatenate([_trace(stroke, n, generator) for stroke in drawing.split("/")])
    distance = np.sqrt(_nearest(*_place(dots, generator)))
    radius = 1.2 + _spread(generator, 0.5, n)
    ink = np.clip(radius + 0.5 - distance, 0, 1)  # fading over the last pixel, as a soft pen does
    grey = ink * (230 + _spread(generator, 25, n)) + _spread(generator, 30, *ink.shape)
    levels: NDArray[np.uint8] = np.clip(grey, 0, 255).astype(np.uint8)
    return levels.transpose(2, 0, 1)


def _trace(stroke: str, n: int, generator: "Generator") -> Floats:
    """The dots (number, 2, n) that `n` unsteady hands leave along a stroke, on a grid with its origin in the middle.

    Each piece of the spline has twenty: on the longest, they lie closer to each other than the thinnest pen is wide.
    """
    points = [(int(point[0]), int(point[1])) for point in stroke.split()]
    points = [points[0], *points, points[-1]]  # a spline reaches its end points when they are written twice
    knots = np.array(points, np.float32)[..., np.newaxis] - 4.5 + _spread(generator, 1.1, len(points), 2, n)
    t = ((np.arange(20, dtype=np.float32) + 0.5) / 20)[:, np.newaxis, np.newaxis]
    last, this, next_ = knots[:-2, np.newaxis], knots[1:-1, np.newaxis], knots[2:, np.newaxis]
    pieces = (1 - t) * (1 - t) / 2 * last + (0.5 + t - t * t) * this + t * t / 2 * next_
    return pieces.reshape(-1, 2, n)


def _place(dots: Floats, generator: "Generator") -> tuple[Floats, Floats]:
    """The columns and rows (number, n) of the dots, each image scaled, slanted, turned and shifted in its own way."""
    n = dots.shape[-1]
    x = dots[:, 0] * (1.3 + _spread(generator, 0.35, n))
    y = dots[:, 1] * (1.8 + _spread(generator, 0.3, n))
    x = x - y * _spread(generator, 0.4, n)
    half = _spread(generator, 0.12, n)  # the tangent of half the angle, of which arithmetic makes sine and cosine
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    column, row = 13.5 + _spread(generator, 2.5, 2, n)
    return x * cosine - y * sine + column, x * sine + y * cosine + row


def _nearest(columns: Floats, rows: Floats) -> Floats:
    """The squared distance of every pixel (28, 28, n) to the dot nearest to it."""
    pixels = np.arange(28, dtype=np.float32)[:, np.newaxis]
    nearest = np.full((28, 28, columns.shape[-1]), np.inf, np.float32)
    for column, row in zip(columns, rows, strict=True):
        across, down = pixels - column, pixels - row
        np.minimum(nearest, (down * down)[:, np.newaxis] + across * across, out=nearest)
    return nearest


def _spread(generator: "Generator", most: float, *shape: int) -> Floats:
    """Uniform draws from -most up to most."""
    return (generator.random(shape, np.float32) - 0.5) * (2 * most)
