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

ALL_AUGMENTATIONS = pytest.mark.parametrize(
    "augment",
    [shift(2), affine(15, 0.1, 0.2), elastic(1.2, 4), erase(8), compose(shift(2), affine(15, 0.1, 0.2), erase(8))],
    ids=["shift", "affine", "elastic", "erase", "compose"],
)


def noise(n: int, channels: int, height: int, width: int, seed: int = 0) -> Images:
    """Returns read-only images from -1 to 1, with some pixels of exactly -1 and 1."""
    rng = np.random.default_rng(seed)
    images = (rng.random((n, channels, height, width), np.float32) * 4 - 2).clip(-1, 1)
    images.flags.writeable = False
    return images


def repeat(image: Images, n: int) -> Images:
    """Returns the image (C, H, W), repeated n times."""
    return np.repeat(image[np.newaxis], n, axis=0)


@pytest.fixture(scope="module")
def images() -> Images:
    pixels = as_float(digits(40, 0).images)
    pixels.flags.writeable = False
    return pixels


@ALL_AUGMENTATIONS
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 5), st.integers(1, 3), st.integers(8, 20), st.integers(8, 20), st.integers(0, 99))
def test_augmentations_keep_shape_dtype_and_range(
    augment: Augmentation, n: int, channels: int, height: int, width: int, seed: int
) -> None:
    changed = augment(noise(n, channels, height, width, seed), seed)
    assert changed.shape == (n, channels, height, width)
    assert changed.dtype == np.float32
    assert n == 0 or (changed.min() >= -1 and changed.max() <= 1)


@ALL_AUGMENTATIONS
def test_augmentations_depend_only_on_the_key(augment: Augmentation, images: Images) -> None:
    first = augment(images, 3)
    assert np.array_equal(first, augment(images, Key(3)))
    assert not np.array_equal(first, augment(images, 4))
    assert not np.array_equal(first, images)


@ALL_AUGMENTATIONS
def test_augmentations_do_not_depend_on_the_memory_order(augment: Augmentation) -> None:
    images = noise(5, 2, 9, 12)
    other = from_wchn(to_wchn(images))
    other.flags.writeable = False
    assert np.array_equal(augment(images, 0), augment(other, 0))


@ALL_AUGMENTATIONS
def test_augmentations_return_new_images_with_the_batch_innermost(augment: Augmentation, images: Images) -> None:
    changed = augment(images, 0)
    assert changed.transpose(3, 1, 2, 0).flags.c_contiguous
    assert changed.flags.writeable
    assert not np.shares_memory(changed, images)


@ALL_AUGMENTATIONS
def test_augmentations_change_each_image_differently(augment: Augmentation) -> None:
    changed = augment(repeat(noise(1, 1, 28, 28)[0], 20), 0)
    assert len({image.tobytes() for image in changed}) > 12


@ALL_AUGMENTATIONS
def test_augmentations_of_an_image_do_not_depend_on_the_others(augment: Augmentation, images: Images) -> None:
    others = images.copy()
    others[1:] = images[:-1]
    assert np.array_equal(augment(images, 0)[0], augment(others, 0)[0])


@ALL_AUGMENTATIONS
def test_augmentations_change_all_channels_alike(augment: Augmentation, images: Images) -> None:
    changed = augment(np.repeat(images, 3, axis=1), 0)
    assert np.array_equal(changed, np.repeat(augment(images, 0), 3, axis=1))


@pytest.mark.parametrize("augment", [shift(0), affine(), affine(0, 0, 0), elastic(0, 4), erase(0)])
def test_augmentations_of_zero_strength_change_nothing(augment: Augmentation) -> None:
    images = noise(7, 2, 9, 12)
    assert np.array_equal(augment(images, 0), images)


def test_shift_moves_by_every_number_of_pixels_equally_often() -> None:
    image = noise(1, 2, 7, 9)[0]
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), constant_values=-1)
    offsets = {padded[:, 2 - y : 9 - y, 2 - x : 11 - x].tobytes(): (y, x) for y in range(-2, 3) for x in range(-2, 3)}
    seen = [offsets[moved.tobytes()] for moved in shift(2)(repeat(image, 500), 0)]
    assert len(set(seen)) == 25
    assert max(seen.count(move) for move in set(seen)) < 45


def test_erase_sets_one_rectangle_to_background() -> None:
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


def filled(value: float, n: int = 1) -> Images:
    """Returns n equal numbers."""
    return np.full(n, value, np.float32)


@pytest.mark.parametrize("quarters", [-2, -1, 0, 1, 2, 3])
def test_transform_by_quarter_turns_equals_rot90(quarters: int) -> None:
    images = noise(3, 2, 9, 9)
    turned = transform(images, filled(quarters * pi / 2, 3), filled(0, 3), filled(1, 3), filled(1, 3))
    assert np.allclose(turned, np.rot90(images, quarters, (2, 3)), rtol=0, atol=1e-5)


def test_affine_turns_by_up_to_degrees_either_way() -> None:
    image = np.full((1, 41, 41), -1, np.float32)
    image[0, 20, 38:41] = 1  # far right of the middle
    turned = affine(degrees=30)(repeat(image, 200), 0)[:, 0] + 1
    rows = (turned.sum(axis=2) @ np.arange(41)) / turned.sum(axis=(1, 2)) - 20
    columns = (turned.sum(axis=1) @ np.arange(41)) / turned.sum(axis=(1, 2)) - 20
    angles = np.degrees(np.arctan2(-rows, columns))
    assert 28 < angles.max() < 30.5
    assert -30.5 < angles.min() < -28


def test_transform_of_doubled_width_shows_the_middle_half() -> None:
    images = np.broadcast_to(np.linspace(-1, 1, 9, dtype=np.float32), (1, 1, 5, 9))
    stretched = transform(images, filled(0), filled(0), filled(2), filled(1))
    assert np.allclose(stretched[0, 0], np.linspace(-0.5, 0.5, 9), rtol=0, atol=1e-6)


def test_transform_of_halved_height_has_background_above_and_below() -> None:
    shrunk = transform(np.ones((1, 1, 9, 3), np.float32), filled(0), filled(0), filled(1), filled(0.5))
    assert shrunk[0, 0, :, 0].tolist() == [-1, -1, 1, 1, 1, 1, 1, -1, -1]


def test_transform_with_shear_one_moves_each_row_by_one_more_pixel() -> None:
    images = noise(1, 1, 5, 5)
    slanted = transform(images, filled(0), filled(1), filled(1), filled(1))
    padded = np.pad(images[0, 0], ((0, 0), (2, 2)), constant_values=-1)
    expected = [padded[row, 4 - row : 9 - row] for row in range(5)]
    assert np.allclose(slanted[0, 0], expected, rtol=0, atol=1e-6)


def interpolate(image: Images, column: float, row: float) -> float:
    """Returns the image (H, W) at a point, by bilinear interpolation; pixels outside of it are -1."""
    height, width = image.shape
    total = 0.0
    for y in range(-2, height + 2):
        for x in range(-2, width + 2):
            inside = 0 <= y < height and 0 <= x < width
            total += max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row)) * (image[y, x] if inside else -1)
    return total


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999))
def test_resample_is_bilinear(seed: int) -> None:
    images = noise(2, 2, 4, 5, seed)
    rng = np.random.default_rng(seed)
    columns, rows = (rng.uniform(-2, n, (5, 1, 4, 2)).astype(np.float32) for n in (6, 5))
    expected = np.empty(images.shape)
    for n, channel, row, column in np.ndindex(images.shape):
        index = column, 0, row, n
        point = min(max(columns[index], -1), 5), min(max(rows[index], -1), 4)
        expected[n, channel, row, column] = interpolate(images[n, channel], *point)
    assert np.allclose(resample(images, columns, rows), expected, rtol=0, atol=2e-6)


def ramps(n: int) -> Images:
    """Returns images with the column in the first channel and the row in the second, in tenths of a pixel."""
    rows, columns = np.mgrid[-20:21, -20:21] / np.float32(10)
    return repeat(np.stack([columns, rows]).astype(np.float32), n)


def test_elastic_moves_have_the_given_strength_and_smoothness() -> None:
    moves = (elastic(1.5, 4)(ramps(400), 0) - ramps(400))[:, :, 8:-8, 8:-8] * 10
    assert np.allclose(moves.std(axis=(0, 2, 3)), 1.5, rtol=0.05)
    assert np.abs(moves.mean()) < 0.05
    assert np.abs(np.mean(moves[:, 0] * moves[:, 1])) < 0.1
    for distance in (2, 6):  # smoothed white noise: its autocorrelation is a Gaussian of twice the variance
        for one, other in [
            (moves[..., distance:], moves[..., :-distance]),
            (moves[:, :, distance:], moves[:, :, :-distance]),
        ]:
            assert np.abs(np.mean(one * other) / 1.5**2 - np.exp(-(distance**2) / (4 * 4**2))) < 0.05


def test_elastic_moves_the_edges_as_much_as_the_middle() -> None:
    ink = np.ones((2000, 1, 12, 12), np.float32)
    blank = (elastic(1.5, 3)(ink, 0) < 1).mean(axis=0)[0]
    assert np.allclose(blank[0], blank[-1], atol=0.06)
    assert np.abs(blank[0, 1:-1].mean() - 0.5) < 0.04


def test_compose_applies_its_parts_in_order_with_separate_keys(images: Images) -> None:
    both = compose(shift(2), erase(6))(images, 7)
    assert np.array_equal(both, erase(6)(shift(2)(images, Key(7).fold(0)), Key(7).fold(1)))
    twice = compose(shift(2), shift(2))(images, 7)
    assert not np.array_equal(twice, shift(2)(shift(2)(images, 7), 7))


@pytest.mark.parametrize("distance", [0, 1e-3, 0.5, 1, 100, 1e30])
def test_resample_beyond_the_edge_fades_into_background(distance: float) -> None:
    expected = 2 * max(0, 1 - distance) ** 2 - 1
    for point in (-distance, 8 + distance):
        points = np.full((9, 1, 9, 1), point, np.float32)
        assert np.allclose(resample(np.ones((1, 1, 9, 9), np.float32), points, points), expected, rtol=0, atol=1e-5)


@ALL_AUGMENTATIONS
@pytest.mark.parametrize(
    "bad",
    [np.zeros((2, 28, 28), np.uint8), np.zeros((2, 1, 28, 28)), np.zeros((2, 28, 28), np.float32), [[0.0]]],
    ids=["uint8", "float64", "no channels", "list"],
)
def test_augmentations_refuse_other_dtypes_and_shapes(augment: Augmentation, bad: Images) -> None:
    with pytest.raises(ValueError, match=r"^images: expected (float32 \(N, C, H, W\)|an array of floats)"):
        augment(bad, 0)


@ALL_AUGMENTATIONS
def test_augmentations_refuse_a_generator(augment: Augmentation, images: Images) -> None:
    with pytest.raises(TypeError, match=r"^rng: expected an int seed or a Key, got a NumPy Generator"):
        augment(images, np.random.default_rng(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("augment", [shift(9), erase(9)])
def test_augmentations_refuse_images_smaller_than_the_change(augment: Augmentation) -> None:
    with pytest.raises(ValueError, match=r"^images: expected at least 9 x 9 pixels, got 20 x 8$"):
        augment(noise(2, 1, 20, 8), 0)


@pytest.mark.parametrize("bad", [-1, 1.0, "2", None, float("nan")])
def test_shift_and_erase_refuse_bad_numbers_of_pixels(bad: int) -> None:
    with pytest.raises(ValueError, match=r"^pixels: expected an int of at least 0, got"):
        shift(bad)
    with pytest.raises(ValueError, match=r"^size: expected an int of at least 0, got"):
        erase(bad)


@pytest.mark.parametrize("bad", [-1, "2", None, float("nan"), float("inf")])
def test_affine_and_elastic_refuse_bad_strengths(bad: float) -> None:
    for name, most in [("degrees", "0 to 180"), ("scale", "0 to 0.9"), ("shear", "0 to 1")]:
        with pytest.raises(ValueError, match=f"^{name}: expected a number from {most}, got"):
            affine(**{name: bad})
    with pytest.raises(ValueError, match=r"^strength: expected a number from 0 to 1000, got"):
        elastic(bad, 4)
    with pytest.raises(ValueError, match=r"^smoothness: expected a number from 0\.1 to 1000, got"):
        elastic(1, bad)


def test_augmentations_take_numpy_numbers() -> None:
    images = noise(3, 1, 8, 8)
    float_type: Any = np.float64
    assert affine(float_type(5), float_type(0.1), float_type(0.1))(images, 0).dtype == np.float32
    assert elastic(float_type(1), float_type(4))(images, 0).dtype == np.float32
    integer: Any = np.int64
    assert np.array_equal(shift(integer(2))(images, 0), shift(2)(images, 0))
