from math import pi
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnn.data import affine, as_float, compose, digits, elastic, erase, shift
from fnn.data.augment import Augmentation, Images, resample, transform
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.random import Key

EACH = pytest.mark.parametrize(
    "augment",
    [shift(2), affine(15, 0.1, 0.2), elastic(1.2, 4), erase(8), compose(shift(2), affine(15, 0.1, 0.2), erase(8))],
    ids=["shift", "affine", "elastic", "erase", "compose"],
)


def noise(n: int, channels: int, height: int, width: int, seed: int = 0) -> Images:
    """Read-only images from -1 to 1, with some pixels of exactly -1 and 1."""
    rng = np.random.default_rng(seed)
    images = (rng.random((n, channels, height, width), np.float32) * 4 - 2).clip(-1, 1)
    images.flags.writeable = False
    return images


def same(image: Images, n: int) -> Images:
    """The image (C, H, W), repeated n times."""
    return np.repeat(image[np.newaxis], n, axis=0)


@pytest.fixture(scope="module")
def images() -> Images:
    pixels = as_float(digits(40, 0).images)
    pixels.flags.writeable = False
    return pixels


@EACH
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 5), st.integers(1, 3), st.integers(8, 20), st.integers(8, 20), st.integers(0, 99))
def test_shape_dtype_and_range_are_kept(
    augment: Augmentation, n: int, channels: int, height: int, width: int, seed: int
) -> None:
    changed = augment(noise(n, channels, height, width, seed), seed)
    assert changed.shape == (n, channels, height, width)
    assert changed.dtype == np.float32
    assert n == 0 or (changed.min() >= -1 and changed.max() <= 1)


@EACH
def test_the_key_alone_decides(augment: Augmentation, images: Images) -> None:
    first = augment(images, 3)
    assert np.array_equal(first, augment(images, Key(3)))
    assert not np.array_equal(first, augment(images, 4))
    assert not np.array_equal(first, images)


@EACH
def test_the_memory_order_of_the_images_does_not_matter(augment: Augmentation) -> None:
    images = noise(5, 2, 9, 12)
    other = from_wchn(to_wchn(images))
    other.flags.writeable = False
    assert np.array_equal(augment(images, 0), augment(other, 0))


@EACH
def test_what_comes_back_has_the_batch_innermost_and_is_the_callers_own(augment: Augmentation, images: Images) -> None:
    changed = augment(images, 0)
    assert changed.transpose(3, 1, 2, 0).flags.c_contiguous
    assert changed.flags.writeable
    assert not np.shares_memory(changed, images)


@EACH
def test_each_image_gets_a_draw_of_its_own(augment: Augmentation) -> None:
    changed = augment(same(noise(1, 1, 28, 28)[0], 20), 0)
    assert len({image.tobytes() for image in changed}) > 12


@EACH
def test_an_image_is_changed_without_regard_to_the_others(augment: Augmentation, images: Images) -> None:
    others = images.copy()
    others[1:] = images[:-1]
    assert np.array_equal(augment(images, 0)[0], augment(others, 0)[0])


@EACH
def test_channels_are_changed_alike(augment: Augmentation, images: Images) -> None:
    changed = augment(np.repeat(images, 3, axis=1), 0)
    assert np.array_equal(changed, np.repeat(augment(images, 0), 3, axis=1))


@pytest.mark.parametrize("augment", [shift(0), affine(), affine(0, 0, 0), elastic(0, 4), erase(0)])
def test_no_strength_is_no_change(augment: Augmentation) -> None:
    images = noise(7, 2, 9, 12)
    assert np.array_equal(augment(images, 0), images)


def test_shift_moves_by_every_whole_number_of_pixels() -> None:
    image = noise(1, 2, 7, 9)[0]
    framed = np.pad(image, ((0, 0), (2, 2), (2, 2)), constant_values=-1)
    wanted = {framed[:, 2 - y : 9 - y, 2 - x : 11 - x].tobytes(): (y, x) for y in range(-2, 3) for x in range(-2, 3)}
    seen = [wanted[moved.tobytes()] for moved in shift(2)(same(image, 500), 0)]
    assert len(set(seen)) == 25
    assert max(seen.count(move) for move in set(seen)) < 45


def test_erase_leaves_background_in_one_rectangle_and_the_rest_as_it_was() -> None:
    images = noise(300, 2, 12, 15).clip(-0.5, 1)
    erased = erase(4)(images, 0)
    mask = (erased == -1)[:, 0]
    assert np.array_equal(erased, np.where(mask[:, np.newaxis], np.float32(-1), images))
    rows, columns = mask.any(axis=2), mask.any(axis=1)
    assert np.array_equal(mask, rows[:, :, np.newaxis] & columns[:, np.newaxis])
    for sides in (rows, columns):
        assert set(sides.sum(axis=1)) == {0, 1, 2, 3, 4}
        assert (np.diff(sides.astype(int), axis=1) == 1).sum(axis=1).max() <= 1
        assert sides.any(axis=0).all()


def full(value: float, n: int = 1) -> Images:
    return np.full(n, value, np.float32)


@pytest.mark.parametrize("quarters", [-2, -1, 0, 1, 2, 3])
def test_a_turn_by_quarters_is_numpys(quarters: int) -> None:
    images = noise(3, 2, 9, 9)
    turned = transform(images, full(quarters * pi / 2, 3), full(0, 3), full(1, 3), full(1, 3))
    assert np.allclose(turned, np.rot90(images, quarters, (2, 3)), rtol=0, atol=1e-5)


def test_affine_turns_by_up_to_so_many_degrees_either_way() -> None:
    image = np.full((1, 41, 41), -1, np.float32)
    image[0, 20, 38:41] = 1  # far right of the middle
    turned = affine(degrees=30)(same(image, 200), 0)[:, 0] + 1
    rows = (turned.sum(axis=2) @ np.arange(41)) / turned.sum(axis=(1, 2)) - 20
    columns = (turned.sum(axis=1) @ np.arange(41)) / turned.sum(axis=(1, 2)) - 20
    angles = np.degrees(np.arctan2(-rows, columns))
    assert 28 < angles.max() < 30.5
    assert -30.5 < angles.min() < -28


def test_doubled_width_shows_the_middle_half() -> None:
    images = np.broadcast_to(np.linspace(-1, 1, 9, dtype=np.float32), (1, 1, 5, 9))
    stretched = transform(images, full(0), full(0), full(2), full(1))
    assert np.allclose(stretched[0, 0], np.linspace(-0.5, 0.5, 9), rtol=0, atol=1e-6)


def test_halved_height_has_background_above_and_below() -> None:
    shrunk = transform(np.ones((1, 1, 9, 3), np.float32), full(0), full(0), full(1), full(0.5))
    assert shrunk[0, 0, :, 0].tolist() == [-1, -1, 1, 1, 1, 1, 1, -1, -1]


def test_a_slant_of_one_moves_each_row_one_further_to_the_right() -> None:
    images = noise(1, 1, 5, 5)
    slanted = transform(images, full(0), full(1), full(1), full(1))
    framed = np.pad(images[0, 0], ((0, 0), (2, 2)), constant_values=-1)
    wanted = [framed[row, 4 - row : 9 - row] for row in range(5)]
    assert np.allclose(slanted[0, 0], wanted, rtol=0, atol=1e-6)


def oracle(image: Images, column: float, row: float) -> float:
    """The image (H, W) at a point, by bilinear interpolation; pixels outside of it are -1."""
    height, width = image.shape
    total = 0.0
    for y in range(-2, height + 2):
        for x in range(-2, width + 2):
            inside = 0 <= y < height and 0 <= x < width
            total += max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row)) * (image[y, x] if inside else -1)
    return total


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999))
def test_resampling_is_bilinear(seed: int) -> None:
    images = noise(2, 2, 4, 5, seed)
    rng = np.random.default_rng(seed)
    columns, rows = (rng.uniform(-2, n, (5, 1, 4, 2)).astype(np.float32) for n in (6, 5))
    wanted = np.empty(images.shape)
    for n, channel, row, column in np.ndindex(images.shape):
        where = column, 0, row, n
        near = min(max(columns[where], -1), 5), min(max(rows[where], -1), 4)
        wanted[n, channel, row, column] = oracle(images[n, channel], *near)
    assert np.allclose(resample(images, columns, rows), wanted, rtol=0, atol=2e-6)


def ramps(n: int) -> Images:
    """Images with the column in the first channel and the row in the second, in tenths of a pixel."""
    rows, columns = np.mgrid[-20:21, -20:21] / np.float32(10)
    return same(np.stack([columns, rows]).astype(np.float32), n)


def test_elastic_moves_are_as_strong_and_as_smooth_as_told() -> None:
    moves = (elastic(1.5, 4)(ramps(400), 0) - ramps(400))[:, :, 8:-8, 8:-8] * 10
    assert np.allclose(moves.std(axis=(0, 2, 3)), 1.5, rtol=0.05)
    assert np.abs(moves.mean()) < 0.05
    assert np.abs(np.mean(moves[:, 0] * moves[:, 1])) < 0.1
    for apart in (2, 6):  # smoothed white noise: its autocorrelation is a Gaussian of twice the variance
        for there, here in [(moves[..., apart:], moves[..., :-apart]), (moves[:, :, apart:], moves[:, :, :-apart])]:
            assert np.abs(np.mean(there * here) / 1.5**2 - np.exp(-(apart**2) / (4 * 4**2))) < 0.05


def test_elastic_moves_the_edges_as_much_as_the_middle() -> None:
    ink = np.ones((2000, 1, 12, 12), np.float32)
    blank = (elastic(1.5, 3)(ink, 0) < 1).mean(axis=0)[0]
    assert np.allclose(blank[0], blank[-1], atol=0.06)
    assert np.abs(blank[0, 1:-1].mean() - 0.5) < 0.04


def test_composed_parts_draw_apart_and_in_order(images: Images) -> None:
    both = compose(shift(2), erase(6))(images, 7)
    assert np.array_equal(both, erase(6)(shift(2)(images, Key(7).fold(0)), Key(7).fold(1)))
    twice = compose(shift(2), shift(2))(images, 7)
    assert not np.array_equal(twice, shift(2)(shift(2)(images, 7), 7))


@pytest.mark.parametrize("away", [0, 1e-3, 0.5, 1, 100, 1e30])
def test_beyond_the_edge_an_image_fades_into_background(away: float) -> None:
    wanted = 2 * max(0, 1 - away) ** 2 - 1
    for point in (-away, 8 + away):
        points = np.full((9, 1, 9, 1), point, np.float32)
        assert np.allclose(resample(np.ones((1, 1, 9, 9), np.float32), points, points), wanted, rtol=0, atol=1e-5)


@EACH
@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 28, 28), np.uint8), np.zeros((2, 1, 28, 28)), np.zeros((2, 28, 28), np.float32), [[0.0]]],
    ids=["uint8", "float64", "no channels", "list"],
)
def test_what_are_no_images_is_refused(augment: Augmentation, wrong: Images) -> None:
    with pytest.raises(ValueError, match=r"^images: expected (float32 \(N, C, H, W\)|an array of floats)"):
        augment(wrong, 0)


@EACH
def test_a_generator_is_no_key(augment: Augmentation, images: Images) -> None:
    with pytest.raises(TypeError, match=r"^rng: expected an int seed or a Key, got a NumPy Generator"):
        augment(images, np.random.default_rng(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("augment", [shift(9), erase(9)])
def test_images_smaller_than_the_change_are_refused(augment: Augmentation) -> None:
    with pytest.raises(ValueError, match=r"^images: expected at least 9 x 9 pixels, got 20 x 8$"):
        augment(noise(2, 1, 20, 8), 0)


@pytest.mark.parametrize("wrong", [-1, 1.0, "2", None, float("nan")])
def test_numbers_of_pixels_are_whole_and_not_negative(wrong: int) -> None:
    with pytest.raises(ValueError, match=r"^pixels: expected an int of at least 0, got"):
        shift(wrong)
    with pytest.raises(ValueError, match=r"^size: expected an int of at least 0, got"):
        erase(wrong)


@pytest.mark.parametrize("wrong", [-1, "2", None, float("nan"), float("inf")])
def test_strengths_are_numbers_within_reason(wrong: float) -> None:
    for name, most in [("degrees", "0 to 180"), ("scale", "0 to 0.9"), ("shear", "0 to 1")]:
        with pytest.raises(ValueError, match=f"^{name}: expected a number from {most}, got"):
            affine(**{name: wrong})
    with pytest.raises(ValueError, match=r"^strength: expected a number from 0 to 1000, got"):
        elastic(wrong, 4)
    with pytest.raises(ValueError, match=r"^smoothness: expected a number from 0\.1 to 1000, got"):
        elastic(1, wrong)


def test_arguments_may_be_numpys_numbers() -> None:
    images = noise(3, 1, 8, 8)
    number: Any = np.float64
    assert affine(number(5), number(0.1), number(0.1))(images, 0).dtype == np.float32
    assert elastic(number(1), number(4))(images, 0).dtype == np.float32
    whole: Any = np.int64
    assert np.array_equal(shift(whole(2))(images, 0), shift(2)(images, 0))
