"""The preparation of drawings as a user meets it: test digits of any size, place and slant, answered by a run."""

from pathlib import Path

import numpy as np
import pytest

from fnn.data import as_float
from fnn.data.augment import resample, transform
from fnn.data.pictures import fit_digit
from fnn.page.server import CANVAS
from fnn.run import SavedRun, load_run, read_data

N = 2000


def draw_large(images: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Returns the images (N, 28, 28) on canvases, scaled, moved and turned if there is a generator."""
    n = len(images)
    x = as_float(images)
    if rng is not None:
        size, angle = rng.uniform(0.5, 1.1, n), np.radians(rng.uniform(-15, 15, n))
        x = transform(x, *(a.astype(np.float32) for a in (angle, np.zeros(n), size, size)))
    moves = np.zeros((2, n)) if rng is None else rng.uniform(-5, 5, (2, n))
    places = ((np.arange(CANVAS) + 0.5) * 28 / CANVAS - 0.5)[:, None] - moves[:, None]
    columns, rows = places[0][:, None, None], places[1][None, None]
    grid = np.broadcast_arrays(columns.astype(np.float32), rows.astype(np.float32))
    large = resample(x, *map(np.ascontiguousarray, grid))
    return ((large[:, 0] + 1) * 127.5).round().astype(np.uint8)


def accuracy(run: SavedRun, images: np.ndarray, labels: np.ndarray) -> float:
    return float((run.net.apply(run.params, as_float(images))[0].argmax(1) == labels).mean())


@pytest.mark.slow
def test_digits_of_any_size_place_and_slant_are_recognised(trained: Path) -> None:
    run, rng = load_run(trained), np.random.default_rng(0)
    test = read_data(run.config["data"], None, print).test
    images, labels = test.images[:N], test.labels[:N]
    untouched, changed = (
        np.concatenate(
            [
                [fit_digit(c.astype(np.float32)) for c in draw_large(images[i : i + 100], generator)]
                for i in range(0, N, 100)
            ]
        )
        for generator in (None, rng)
    )
    assert accuracy(run, untouched, labels) >= accuracy(run, images, labels) - 0.007
    assert accuracy(run, changed, labels) >= 0.9


def test_draw_large_moves_and_scales() -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 10:18, 12:16] = 255
    large = draw_large(image, None)
    assert large.shape == (1, CANVAS, CANVAS)
    rows, columns = np.argwhere(large[0] > 127).min(0), np.argwhere(large[0] > 127).max(0)
    np.testing.assert_allclose([*rows, *columns], [100, 120, 179, 159], atol=1)
