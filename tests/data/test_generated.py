import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnn.data import Examples, digits
from fnn.random import Key


@pytest.fixture(scope="module")
def train() -> Examples:
    return digits(3000, Key(0).fold("train"))


@pytest.fixture(scope="module")
def unseen() -> Examples:
    return digits(1000, Key(0).fold("test"))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 200), st.integers(0, 2**70))
def test_digits_of_any_number_have_balanced_labels(n: int, seed: int) -> None:
    images, labels = digits(n, seed)
    assert images.shape == (n, 28, 28)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    counts = np.bincount(labels, minlength=10)
    assert counts.shape == (10,)
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1


def test_digits_depend_only_on_the_key() -> None:
    first, same, other = digits(300, 3), digits(300, Key(3)), digits(300, Key(3).fold("test"))
    assert np.array_equal(first.images, same.images)
    assert np.array_equal(first.labels, same.labels)
    assert not np.array_equal(first.images, other.images)
    assert not np.array_equal(first.labels, other.labels)


def test_digits_are_the_same_bytes_on_every_machine() -> None:
    images, labels = digits(1000, 0)
    assert (zlib.crc32(images.tobytes()), labels[:12].tolist()) == (78266828, [1, 5, 0, 1, 8, 6, 7, 1, 3, 5, 8, 8])


def test_digits_labels_are_in_random_order(train: Examples) -> None:
    share_of_pairs = np.mean(train.labels[1:] == train.labels[:-1])
    assert 0.07 < share_of_pairs < 0.13


def test_digits_images_are_all_different(train: Examples) -> None:
    assert len({image.tobytes() for image in train.images}) == len(train.images)


def test_digits_have_bright_ink_on_a_dark_noisy_background(train: Examples) -> None:
    ink = np.mean(train.images > 128, axis=(1, 2))
    assert ink.min() > 0.01
    assert ink.max() < 0.45
    assert np.median(train.images, axis=(1, 2)).max() < 30
    assert train.images.std(axis=0).min() > 0


def test_digits_rarely_touch_the_edge(train: Examples) -> None:
    edge = train.images.copy()
    edge[:, 1:-1, 1:-1] = 0
    assert np.mean(np.max(edge, axis=(1, 2)) > 128) < 0.06


def flat_pixels(images: np.ndarray) -> np.ndarray:
    return np.asarray(images.reshape(len(images), -1) / 255 - 0.2)


def test_digits_are_not_solved_by_a_linear_model(train: Examples, unseen: Examples) -> None:
    x, targets = flat_pixels(train.images), np.eye(10)[train.labels] - 0.1
    w = np.linalg.solve(x.T @ x + 30 * np.eye(784), x.T @ targets)
    assert 0.5 < np.mean(np.argmax(flat_pixels(unseen.images) @ w, axis=1) == unseen.labels) < 0.8


def test_digits_are_solved_by_nearest_neighbours(train: Examples, unseen: Examples) -> None:
    x, y = flat_pixels(train.images), flat_pixels(unseen.images)
    distances = (x * x).sum(axis=1) - 2 * y @ x.T
    assert np.mean(train.labels[distances.argmin(axis=1)] == unseen.labels) > 0.75


@pytest.mark.slow
def test_digits_uses_little_more_memory_than_it_returns() -> None:
    digits(1, 0)
    tracemalloc.start()
    try:
        images, labels = digits(3000, 0)
        assert tracemalloc.get_traced_memory()[1] < images.nbytes + labels.nbytes + (4 << 20)
    finally:
        tracemalloc.stop()


def test_digits_returns_new_arrays() -> None:
    images, labels = digits(20, 0)
    before = images.copy()
    images[:], labels[:] = 7, 7
    assert np.array_equal(digits(20, 0).images, before)


def test_digits_refuses_bad_numbers() -> None:
    with pytest.raises(ValueError, match=r"^n: expected an int of at least 0, got -1$"):
        digits(-1, 0)
    with pytest.raises(ValueError, match=r"^n: expected an int of at least 0, got 5\.0$"):
        digits(5.0, 0)  # type: ignore[arg-type]


def test_digits_refuses_bad_keys() -> None:
    with pytest.raises(TypeError, match=r"^rng: expected an int seed or a Key, got a NumPy Generator"):
        digits(5, np.random.default_rng(0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a seed of at least 0, got -1"):
        digits(5, -1)
