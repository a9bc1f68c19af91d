"""`maxpool` and `avgpool` compared with their definitions, the gradients of ties, and errors."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import OpError, avgpool, maxpool
from fnn.kernels import pooling
from fnn.op import Array, Op
from tests.support.rubbish import rubbish_in_new_arrays
from tests.support.strategies import Example, both, numbers, poolings, seeds


def by_definition(x: Array, dy: Array, kind: str, config: Any) -> tuple[Array, Array]:
    """Computes the output and the input's cotangent for the output's cotangent `dy`, window by window."""
    kernel, padding = both(config["kernel_size"]), both(config["padding"])
    stride = kernel if config["stride"] is None else both(config["stride"])
    blank = -np.inf if kind == "maxpool" else 0.0
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)), constant_values=blank)
    out = [(n - k) // s + 1 for n, k, s in zip(padded.shape[2:], kernel, stride, strict=True)]
    y, dx = np.empty((*x.shape[:2], *out)), np.zeros(padded.shape)
    for n, c, i, j in np.ndindex(*y.shape):
        rows, columns = (slice(at * s, at * s + k) for at, s, k in zip((i, j), stride, kernel, strict=True))
        window = padded[n, c, rows, columns]
        y[n, c, i, j] = window.max() if kind == "maxpool" else window.sum() / window.size
        if kind == "maxpool":
            dx[n, c, rows, columns][np.unravel_index(window.argmax(), window.shape)] += dy[n, c, i, j]
        else:
            dx[n, c, rows, columns] += dy[n, c, i, j] / window.size
    return y, dx[:, :, padding[0] : padding[0] + x.shape[2], padding[1] : padding[1] + x.shape[3]]


def expect_definition(op: Op, shape: tuple[int, ...], seed: int, ties: bool, as_if_large: bool) -> None:
    rng = np.random.default_rng(seed)
    x = numbers(rng, (2, *shape), ties)
    with pytest.MonkeyPatch.context() as patch, rubbish_in_new_arrays():
        if as_if_large:
            patch.setattr(pooling, "SMALL", 0)
            patch.setattr(pooling, "BLOCK", 1)
        y, vjp = op.apply({}, x)
        dy = rng.standard_normal(y.shape)
        dx = vjp(dy)[1]
    wanted, wanted_dx = by_definition(x, dy, op.kind, op.config)
    np.testing.assert_allclose(y, wanted, atol=1e-12)
    np.testing.assert_allclose(dx, wanted_dx, atol=1e-12)


@given(poolings(), seeds, st.booleans(), st.booleans())
def test_pools_equal_their_definition_and_maxpool_ties_go_to_the_first(
    example: Example, seed: int, ties: bool, as_if_large: bool
) -> None:
    expect_definition(*example, seed, ties, as_if_large)


@pytest.mark.parametrize("as_if_large", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3, (4, 1)])
@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (2, 1), (2, 2), (3, 5), (4, 2)])
def test_pools_of_each_kernel_and_stride_equal_their_definition(kernel: Any, stride: Any, as_if_large: bool) -> None:
    for make, padded, size in product([maxpool, avgpool], [False, True], [(5, 6), (8, 5), (2, 3)]):
        padding = tuple(k // 2 for k in kernel) if padded else (0, 0)
        if all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel, strict=True)):
            expect_definition(make(kernel, stride, padding), (2, *size), 0, False, as_if_large)
            expect_definition(make(kernel, stride, padding), (3, *size), 1, True, as_if_large)


def test_maxpool_gradient_of_a_constant_image_goes_to_the_first_pixel() -> None:
    x = np.zeros((1, 1, 4, 4), np.float32)
    y, vjp = maxpool(2).apply({}, x)
    assert vjp(np.ones_like(y))[1][0, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("order", [list(p) for p in product([0, 1], repeat=4) if sum(p) > 1])
def test_maxpool_chooses_the_first_of_equal_maxima(order: list[int]) -> None:
    x = np.array(order, np.float64).reshape(1, 1, 2, 2)
    _, vjp = maxpool(2).apply({}, x)
    dx = vjp(np.full((1, 1, 1, 1), 5.0))[1]
    assert dx.ravel().tolist() == [5.0 * (i == order.index(1)) for i in range(4)]


def test_pools_stride_defaults_to_the_kernel_size() -> None:
    assert maxpool((2, 3)).output_shape({}, (4, 6, 9)) == (4, 3, 3)
    assert avgpool(3).output_shape({}, (4, 9, 9)) == (4, 3, 3)


def test_pools_drop_leftover_pixels() -> None:
    x = np.arange(25.0).reshape(1, 1, 5, 5)
    y, vjp = maxpool(2).apply({}, x)
    assert y[0, 0].tolist() == [[6, 8], [16, 18]]
    dx = vjp(np.ones_like(y))[1]
    assert not dx[..., 4].any()
    assert not dx[:, :, 4].any()


def test_avgpool_counts_padding_as_zeros() -> None:
    y, _ = avgpool(2, padding=1).apply({}, np.ones((1, 1, 2, 2)))
    assert y[0, 0].tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_maxpool_never_chooses_padding() -> None:
    y, vjp = maxpool(3, stride=1, padding=1).apply({}, np.full((1, 1, 2, 2), -7.0))
    assert y[0, 0].tolist() == [[-7, -7], [-7, -7]]
    assert vjp(np.ones_like(y))[1].sum() == 4


@pytest.mark.parametrize(("kernel", "padding"), [(2, 1), (3, 1), (5, 2), ((1, 4), (0, 2)), ((4, 1), (2, 0)), (3, 0)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_maxpool_treats_minus_infinity_as_any_small_number(kernel: Any, stride: int, padding: Any) -> None:
    op = maxpool(kernel, stride, padding)
    rng = np.random.default_rng(0)
    x = rng.choice([0.0, 1.0, 2.0], (5, 2, 5, 6), p=[0.8, 0.1, 0.1])
    infinite = np.where(x == 0, -np.inf, x)
    (y, vjp), (infinite_y, infinite_vjp) = op.apply({}, x), op.apply({}, infinite)
    dy = rng.standard_normal(y.shape)
    np.testing.assert_array_equal(infinite_y, np.where(y == 0, -np.inf, y))
    np.testing.assert_array_equal(infinite_vjp(dy)[1], vjp(dy)[1])


@pytest.mark.parametrize("op", [maxpool(2), avgpool(2, padding=1), maxpool(3, 1)])
def test_pools_of_many_channels_in_blocks_pool_each_channel_alone(monkeypatch: pytest.MonkeyPatch, op: Op) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 11, 4, 4))
    monkeypatch.setattr(pooling, "BLOCK", x.size // 6)
    y, vjp = op.apply({}, x)
    dy = rng.standard_normal(y.shape)
    dx = vjp(dy)[1]
    for channel in np.split(np.arange(11), 11):
        alone, alone_vjp = op.apply({}, x[:, channel])
        np.testing.assert_array_equal(y[:, channel], alone)
        np.testing.assert_array_equal(dx[:, channel], alone_vjp(dy[:, channel])[1])


@pytest.mark.parametrize("axis", [0, 1])
def test_avgpool_of_long_windows_is_exact(axis: int) -> None:
    kernel = (500, 1) if axis == 0 else (1, 500)
    x = np.random.default_rng(0).uniform(1, 2, (1, 2, 999, 3)).astype(np.float32)
    x = x if axis == 0 else x.swapaxes(2, 3)
    op = avgpool(kernel, 1)
    (y, vjp), (exact, exact_vjp) = op.apply({}, x), op.apply({}, x.astype(np.float64))
    dy = 1 + y
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, exact, rtol=1e-7)
    dx = vjp(dy)[1]
    assert dx.dtype == np.float32
    np.testing.assert_allclose(dx, exact_vjp(dy.astype(np.float64))[1], rtol=2e-7)


def test_pools_take_infinities() -> None:
    x = np.array([[-np.inf, -np.inf], [-np.inf, np.inf]]).reshape(1, 1, 2, 2)
    assert maxpool(2).apply({}, x)[0].item() == np.inf
    y, vjp = maxpool(2).apply({}, np.full((1, 1, 2, 2), -np.inf))
    assert y.item() == -np.inf
    assert vjp(np.ones_like(y))[1].ravel().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("make", [maxpool, avgpool])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "kernel_size: expected an int or a pair of ints of at least 1, got 0"),
        (("2",), "kernel_size: expected an int or a pair of ints of at least 1, got '2'"),
        ((2, 0), "stride: expected an int or a pair of ints of at least 1, got 0"),
        ((2, 2, -1), "padding: expected an int or a pair of ints of at least 0, got -1"),
        ((3, 2, 2), "padding: expected at most half of the kernel size (3, 3), got (2, 2)"),
        ((3, 2, (2, 0)), "padding: expected at most half of the kernel size (3, 3), got (2, 0)"),
        ((3, 2, (0, 2)), "padding: expected at most half of the kernel size (3, 3), got (0, 2)"),
    ],
)
def test_pools_refuse_bad_hyper_parameters(make: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(OpError) as caught:
        make(*arguments)
    assert str(caught.value) == f"{make.__name__}: {message}"


def test_pools_refuse_inputs_that_are_no_images() -> None:
    with pytest.raises(OpError) as caught:
        maxpool(2).apply({}, np.zeros((3, 8, 8)))
    wanted = "expected shape (batch, channels, height, width)"
    assert str(caught.value) == f"maxpool: {wanted}, got (3, 8, 8); for one example use x[None]"


def test_pools_init_refuses_images_smaller_than_the_window() -> None:
    with pytest.raises(OpError) as caught:
        maxpool(9).init(0, (3, 8, 8))
    assert str(caught.value) == "maxpool: expected at least 9 pixels for a window of 9, got 8"
