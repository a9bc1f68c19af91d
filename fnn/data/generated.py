"""Generated digits: a replacement for MNIST that needs no files.

Equal keys give equal bytes on every machine. The code therefore uses only random numbers, comparisons, + - * / and the
square root, which IEEE 754 rounds in exactly one way; sin, exp and matrix products may differ between machines.
"""

import numpy as np
from numpy.typing import NDArray

from fnn.checks.values import check_int
from fnn.data.examples import Examples
from fnn.random import Rng, as_key

# One or more drawings of each digit: strokes separated by slashes. A stroke is a list of control points `xy` of a
# quadratic B-spline, on a grid from 00 (top left) to 99. A repeated point is a corner.
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

CHUNK = 128  # images drawn at a time: they fit in a core's cache. Another number gives other images.

Floats = NDArray[np.float32]


def digits(n: int, rng: Rng) -> Examples:
    """Draws `n` images of digits, each in its own handwriting, with balanced labels in random order.

    Equal keys give equal images. Raises ValueError unless n is an int of at least 0.
    """
    n = check_int("n", n)
    generator = as_key(rng).generator()
    images, labels = np.empty((n, 28, 28), np.uint8), np.empty(n, np.int64)
    order = generator.permutation(n)
    for digit, drawings in enumerate(DRAWINGS):
        own = order[digit::10]
        labels[own] = digit
        for i, drawing in enumerate(drawings):
            indices = own[i :: len(drawings)]
            for start in range(0, len(indices), CHUNK):
                chunk = indices[start : start + CHUNK]
                images[chunk] = _draw(drawing, len(chunk), generator)
    return Examples(images, labels)


def _draw(drawing: str, n: int, generator: "np.random.Generator") -> NDArray[np.uint8]:
    """Draws `n` images (n, 28, 28) of one drawing; the batch is the last axis until the end."""
    dots = np.concatenate([_trace(stroke, n, generator) for stroke in drawing.split("/")])
    distance = np.sqrt(_squared_distance(*_transform(dots, generator)))
    radius = 1.2 + _uniform(generator, 0.5, n)
    ink = np.clip(radius + 0.5 - distance, 0, 1)  # the edge of the stroke is one pixel wide
    grey = ink * (230 + _uniform(generator, 25, n)) + _uniform(generator, 30, *ink.shape)
    levels: NDArray[np.uint8] = np.clip(grey, 0, 255).astype(np.uint8)
    return levels.transpose(2, 0, 1)


def _trace(stroke: str, n: int, generator: "np.random.Generator") -> Floats:
    """Returns dots (number, 2, n) along `n` random variants of a stroke, on a grid with its origin in the middle.

    Each segment of the spline has 20 dots, closer together than the width of the thinnest pen.
    """
    points = [(int(point[0]), int(point[1])) for point in stroke.split()]
    points = [points[0], *points, points[-1]]  # a spline reaches its end points if they are repeated
    knots = np.array(points, np.float32)[..., np.newaxis] - 4.5 + _uniform(generator, 1.1, len(points), 2, n)
    t = ((np.arange(20, dtype=np.float32) + 0.5) / 20)[:, np.newaxis, np.newaxis]
    last, this, next_ = knots[:-2, np.newaxis], knots[1:-1, np.newaxis], knots[2:, np.newaxis]
    segments = (1 - t) * (1 - t) / 2 * last + (0.5 + t - t * t) * this + t * t / 2 * next_
    return segments.reshape(-1, 2, n)


def _transform(dots: Floats, generator: "np.random.Generator") -> tuple[Floats, Floats]:
    """Scales, shears, rotates and shifts each image's dots at random; returns columns and rows (number, n)."""
    n = dots.shape[-1]
    x = dots[:, 0] * (1.3 + _uniform(generator, 0.35, n))
    y = dots[:, 1] * (1.8 + _uniform(generator, 0.3, n))
    x = x - y * _uniform(generator, 0.4, n)
    half = _uniform(generator, 0.12, n)  # the tangent of half the angle: sine and cosine follow by arithmetic
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    column, row = 13.5 + _uniform(generator, 2.5, 2, n)
    return x * cosine - y * sine + column, x * sine + y * cosine + row


def _squared_distance(columns: Floats, rows: Floats) -> Floats:
    """Returns each pixel's squared distance (28, 28, n) to the nearest dot."""
    pixels = np.arange(28, dtype=np.float32)[:, np.newaxis]
    nearest = np.full((28, 28, columns.shape[-1]), np.inf, np.float32)
    for column, row in zip(columns, rows, strict=True):
        dx, dy = pixels - column, pixels - row
        np.minimum(nearest, (dy * dy)[:, np.newaxis] + dx * dx, out=nearest)
    return nearest


def _uniform(generator: "np.random.Generator", limit: float, *shape: int) -> Floats:
    return (generator.random(shape, np.float32) - 0.5) * (2 * limit)
