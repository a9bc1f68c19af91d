"""Sums and dot products compared with float64: any shape, axes and memory order, and ten million numbers."""

from collections.abc import Callable
from itertools import chain, combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn.kernels.reductions import accurate_mean, accurate_sum, exp_rows, square_sum, sum_at, wide_mean, wide_sum
from fnn.op import Array

Order = Callable[[Array], Array]


def permuted(order: list[int]) -> Order:
    """Returns a function that copies an array into this memory order of the axes."""
    return lambda a: np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))


@st.composite
def sums(draw: st.DrawFn) -> tuple[Array, tuple[int, ...], bool]:
    """Draws an array in any memory order, axes to sum over, and keepdims."""
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 7, 16, 33, 64, 130, 300]), min_size=1, max_size=5))
    while np.prod(shape) > 300_000:
        shape[int(np.argmax(shape))] //= 2
    axes = draw(st.lists(st.sampled_from(range(len(shape))), unique=True))
    signed = [axis - len(shape) if draw(st.booleans()) else axis for axis in axes]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x = rng.uniform(-1, 3, shape).astype(draw(st.sampled_from([np.float16, np.float32, np.float64])))
    x = permuted(draw(st.permutations(range(len(shape)))))(x)
    if draw(st.booleans()):
        x = np.repeat(x, 2, -1)[..., ::-2]  # strided and reversed
    return x, tuple(signed), draw(st.booleans())


@given(sums())
def test_accurate_sum_and_wide_sum_equal_float64(drawn: tuple[Array, tuple[int, ...], bool]) -> None:
    x, axes, keepdims = drawn
    wide = x.astype(np.float64)
    expected, magnitude = wide.sum(axes, keepdims=keepdims), np.abs(wide).sum(axes, keepdims=keepdims)
    rounding = {2: 1e-3, 4: 1e-6, 8: 1e-12}[x.itemsize]
    with np.errstate(over="ignore"):
        total = accurate_sum(x, axes, keepdims)
    assert (total.dtype, total.shape) == (x.dtype, expected.shape)
    fits = np.abs(expected) < np.finfo(x.dtype).max
    assert np.all(np.abs(total - expected)[fits] <= (rounding * magnitude)[fits])
    exact = wide_sum(x, axes, keepdims)
    assert exact.dtype == np.float64
    assert np.all(np.abs(exact - expected) <= min(rounding, 1e-6) * magnitude)
    other = np.cos(x)
    products = wide * other.astype(np.float64)
    dots = wide_sum(x, axes, keepdims, np.asfortranarray(other))
    assert dots.shape == expected.shape
    assert np.all(
        np.abs(dots - products.sum(axes, keepdims=keepdims)) <= rounding * np.abs(products).sum(axes, keepdims=keepdims)
    )


# Larger than SMALL. 257 is prime, 514 has no divisor that suits a block, 64 and 256 are whole blocks.
SHAPES = [(9000,), (40, 257), (130, 64), (33, 256), (20, 514), (32, 300), (3000, 3), (2, 5003), (9, 32, 40)]
EQUAL = [(70_001,), (3, 70_001), (70_001, 3), (300, 257), (257, 300), (70_000, 2), (2, 70_000)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wide_sum_over_any_axes_in_any_memory_order(shape: tuple[int, ...], dtype: type) -> None:
    x, times = np.random.default_rng(0).uniform(0.5, 1, (2, *shape)).astype(dtype)
    all_axes = range(len(shape))
    for axes in chain.from_iterable(combinations(all_axes, n) for n in range(len(shape) + 1)):
        for order in permutations(all_axes):
            copy = permuted(list(order))
            expected = x.sum(axes, float)
            np.testing.assert_allclose(wide_sum(copy(x), axes), expected, rtol=1e-6)
            kept = wide_sum(copy(x), axes, True, copy(times))
            np.testing.assert_allclose(kept, (x.astype(float) * times).sum(axes, keepdims=True), rtol=1e-6)
            assert wide_sum(x, axes).dtype == kept.dtype == np.float64


@pytest.mark.parametrize("shape", EQUAL)
@pytest.mark.parametrize("axis", [0, -1, None])
def test_sums_and_means_of_equal_numbers_are_exact(shape: tuple[int, ...], axis: int | None) -> None:
    x = np.full(shape, 0.3, np.float32)
    count = x.size if axis is None else shape[axis]
    exact = float(x.flat[0])
    np.testing.assert_allclose(accurate_sum(x, axis), count * exact, rtol=1e-6)
    np.testing.assert_allclose(wide_sum(x, axis, times=x), count * exact**2, rtol=1e-6)
    np.testing.assert_allclose(accurate_mean(x, axis), exact, rtol=1e-6)
    np.testing.assert_allclose(wide_mean(x, axis, times=x), exact**2, rtol=1e-6)


def test_mean_of_nothing_is_zero_and_of_one_number_the_number() -> None:
    assert wide_mean(np.zeros((0, 3), np.float32), 0).tolist() == [0, 0, 0]
    assert wide_mean(np.zeros((3, 0), np.float32), 0).shape == (0,)
    assert accurate_mean(np.array([[2.0, 3.0]]), 0).tolist() == [2, 3]


LONG = [
    ((10_000_000,), (0,)),
    ((1_000_000, 10), (0,)),
    ((10, 1_000_000), (1,)),
    ((16, 4, 400, 400), (0, 2, 3)),
    ((4, 10, 500, 500), (1, 2, 3)),
    ((5_000_000, 2), (1,)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "axes"), LONG)
@pytest.mark.parametrize("equal", [False, True])
def test_accurate_sum_of_ten_million_numbers_in_every_memory_order(
    shape: tuple[int, ...], axes: tuple[int, ...], equal: bool
) -> None:
    rng = np.random.default_rng(0)
    x = np.full(shape, 0.3, np.float32) if equal else rng.random(shape, np.float32)
    expected = x.sum(axes, dtype=np.float64)
    for order in {tuple(range(x.ndim)), tuple(reversed(range(x.ndim))), (3, 1, 2, 0)[4 - x.ndim :]}:
        if sorted(order) == list(range(x.ndim)):
            assert np.all(np.abs(accurate_sum(permuted([*order])(x), axes) / expected - 1) <= 1e-6)


def test_accurate_sum_of_float16_overflows_only_if_the_result_does() -> None:
    x = np.full((100_000, 2), 0.5, np.float16)
    x[50_000:] = -0.5
    assert accurate_sum(x, 0).tolist() == [0, 0]
    assert accurate_mean(np.full(100_000, 60_000, np.float16)) == 60_000


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4, 2)])
def test_accurate_sum_of_nothing_is_zero(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    assert accurate_sum(x) == 0
    assert accurate_sum(x, 0).tolist() == np.zeros(shape[1:]).tolist()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e25])
@pytest.mark.parametrize("size", [0, 1, 1000, 300_001])
def test_square_sum_neither_overflows_nor_depends_on_the_order(scale: float, size: int) -> None:
    x = (scale * np.random.default_rng(0).standard_normal((size, 2))).astype(np.float32)
    expected = float(np.square(x.astype(np.float64)).sum())
    least = 0 if scale >= 1 else 1e-40  # squares below that are no float32
    for a in (x, np.asfortranarray(x), x[::-1]):
        assert abs(square_sum(a) - expected) <= 1e-6 * expected + least * size


@pytest.mark.parametrize("size", [3, 256, 5000])
def test_square_sum_of_float16_and_float64_is_as_exact_as_in_float64(size: int) -> None:
    x = np.random.default_rng(0).uniform(5, 9, size)
    assert abs(square_sum(x) / float(np.square(x).sum()) - 1) <= 1e-12
    half = x.astype(np.float16)
    assert abs(square_sum(half) / float(np.square(half.astype(float)).sum()) - 1) <= 1e-12


@pytest.mark.parametrize("features", [1, 3, 64, 100])
@pytest.mark.parametrize(("count", "n"), [(0, 2), (1, 3), (50, 1), (300, 20), (5000, 3)])
def test_sum_at_adds_the_rows_of_each_place(count: int, n: int, features: int) -> None:
    rng = np.random.default_rng(count)
    places, x = rng.integers(0, n, count), rng.random((count, features), np.float32)
    expected = np.zeros((n, features))
    np.add.at(expected, places, x)
    total = sum_at(places, x, n)
    assert total.dtype == np.float32
    np.testing.assert_allclose(total, expected, rtol=1e-6)


@pytest.mark.parametrize("largest", [1, 30, 100, 1e30])
def test_exp_rows_is_a_multiple_of_exp_without_overflow(largest: float) -> None:
    x = np.array([[0, 1, -1], [0, largest, -largest]])
    e = exp_rows(x)
    assert 0 < e.max() < np.inf
    np.testing.assert_allclose(e[0] / e[0, 0], np.exp(x[0]))
    if largest < 100:
        np.testing.assert_allclose(e[1] / e[1, 0], np.exp(x[1]))


@pytest.mark.parametrize("offset", [-1000, -100, 0, 100, 1000])
def test_exp_rows_of_rows_far_from_zero_neither_overflows_nor_vanishes(offset: float) -> None:
    offsets = np.array([[1.0, 0.1, -0.5], [0.7, 0.3, 0.9]])[..., None] * offset  # a different one for each row
    x = np.random.default_rng(0).uniform(-3, 3, (2, 3, 5))
    e, expected = exp_rows(x + offsets), np.exp(x)
    largest = e.max(-1, keepdims=True)
    assert np.all((largest > 0) & np.isfinite(largest))
    np.testing.assert_allclose(e / largest, expected / expected.max(-1, keepdims=True), rtol=1e-10)


def test_exp_rows_of_nothing_is_empty() -> None:
    assert exp_rows(np.empty((0, 3))).shape == (0, 3)
