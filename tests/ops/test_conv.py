"""`conv` compared with its definition, and its errors."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import OpError, conv
from fnn.op import Array
from tests.support.strategies import Example, both, convolutions, seeds

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 8, 7)).astype(np.float32)


def by_definition(x: Array, w: Array, b: Array, low: tuple[int, int], size: tuple[int, int], config: Any) -> Array:
    """Computes each output number by the definition."""
    stride, dilation, groups = both(config["stride"]), both(config["dilation"]), config["groups"]
    batch, _, height, width = x.shape
    out, channels, kh, kw = w.shape
    y = np.zeros((batch, out, *size))
    for o, i, j in product(range(out), *map(range, size)):
        y[:, o, i, j] = b[o]
        first = o // (out // groups) * channels
        for c, t, s in product(range(channels), range(kh), range(kw)):
            row, column = i * stride[0] + t * dilation[0] - low[0], j * stride[1] + s * dilation[1] - low[1]
            if 0 <= row < height and 0 <= column < width:
                y[:, o, i, j] += w[o, c, t, s] * x[:, first + c, row, column]
    return y


@given(convolutions(), seeds)
def test_conv_equals_its_definition(example: Example, seed: int) -> None:
    op, shape = example
    rng, config, sizes = np.random.default_rng(seed), op.config, shape[1:]
    kernel, stride, dilation = both(config["kernel_size"]), both(config["stride"]), both(config["dilation"])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if config["padding"] == "same":
        out = tuple(-(-n // s) for n, s in zip(sizes, stride, strict=True))
        missing = [(o - 1) * s + span - n for o, s, span, n in zip(out, stride, spans, sizes, strict=True)]
        low = tuple(max(0, m) // 2 for m in missing)
    else:
        low = (0, 0) if config["padding"] == "valid" else both(config["padding"])
        out = tuple((n + 2 * p - span) // s + 1 for n, p, span, s in zip(sizes, low, spans, stride, strict=True))
    x = rng.standard_normal((2, *shape))
    w = rng.standard_normal(op.init(0, shape)["w"].shape)
    b = rng.standard_normal(len(w)) if config["bias"] else np.zeros(len(w))
    y, _ = op.apply({"w": w, "b": b} if config["bias"] else {"w": w}, x)
    np.testing.assert_allclose(y, by_definition(x, w, b, (low[0], low[1]), (out[0], out[1]), config), atol=1e-12)


def test_conv_params_have_conventional_shapes() -> None:
    params = conv(6, (3, 2), groups=2).init(0, (4, 8, 8))
    assert {name: leaf.shape for name, leaf in params.items()} == {"w": (6, 2, 3, 2), "b": (6,)}
    assert list(conv(6, 3, bias=False).init(0, (4, 8, 8))) == ["w"]


def test_conv_init_is_glorot_uniform_with_zero_bias() -> None:
    params = conv(64, 3).init(0, (32, 5, 5))
    limit = np.sqrt(6 / (9 * (32 + 64)))
    assert 0.99 * limit < np.abs(params["w"]).max() <= limit
    assert abs(params["w"].mean()) < limit / 50
    assert not params["b"].any()


def test_conv_same_padding_rounds_up() -> None:
    for size, stride, kernel in product(range(1, 9), range(1, 5), range(1, 6)):
        op = conv(1, kernel, stride, padding="same")
        assert op.output_shape(op.init(0, (1, size, 5)), (1, size, 5)) == (1, -(-size // stride), -(-5 // stride))


def test_conv_same_padding_puts_the_odd_pixel_at_the_end() -> None:
    op = conv(1, 2, padding="same", bias=False)
    y, _ = op.apply({"w": np.ones((1, 1, 2, 2), np.float32)}, np.ones((1, 1, 3, 3), np.float32))
    assert y[0, 0].tolist() == [[4, 4, 2], [4, 4, 2], [2, 2, 1]]


def test_conv_valid_padding_is_zero() -> None:
    op = conv(2, 3, padding="valid")
    params = op.init(0, (3, 8, 7))
    assert np.array_equal(op.apply(params, IMAGES)[0], conv(2, 3).apply(params, IMAGES)[0])


def test_conv_gradient_of_leftover_pixels_is_zero() -> None:
    op = conv(2, 2, stride=3)
    params = op.init(0, (3, 8, 7))
    y, vjp = op.apply(params, IMAGES)
    _, dx = vjp(np.ones_like(y))
    assert y.shape == (2, 2, 3, 2)
    assert not dx[:, :, 2].any()
    assert not dx[..., 6].any()
    assert dx[:, :, 0, 0].all()


def test_conv_groups_are_independent() -> None:
    op = conv(4, 3, groups=2)
    params = op.init(0, (2, 5, 5))
    x = IMAGES[:, :2, :5, :5]
    silent = x.copy()
    silent[:, 1] = 0
    y, other = op.apply(params, x)[0], op.apply(params, silent)[0]
    assert np.array_equal(y[:, :2], other[:, :2])
    assert not other[:, 2:].any()


@given(st.integers(1, 3), seeds)
def test_conv_1x1_is_a_matrix_product_at_each_pixel(channels: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, channels, 4, 3))
    w = np.random.default_rng(seed + 1).standard_normal((5, channels, 1, 1))
    y, _ = conv(5, 1, bias=False).apply({"w": w}, x)
    np.testing.assert_allclose(y, np.einsum("oc,nchw->nohw", w[:, :, 0, 0], x), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_channels": 0}, "conv: out_channels: expected an int of at least 1, got 0"),
        ({"out_channels": 4.0}, "conv: out_channels: expected an int of at least 1, got 4.0"),
        ({"groups": 3}, "conv: out_channels: expected a multiple of groups=3, got 4"),
        ({"groups": 0}, "conv: groups: expected an int of at least 1, got 0"),
        ({"kernel_size": 0}, "conv: kernel_size: expected an int or a pair of ints of at least 1, got 0"),
        (
            {"kernel_size": (3, 3, 3)},
            "conv: kernel_size: expected an int or a pair of ints of at least 1, got (3, 3, 3)",
        ),
        ({"stride": 0}, "conv: stride: expected an int or a pair of ints of at least 1, got 0"),
        ({"dilation": (1, 0)}, "conv: dilation: expected an int or a pair of ints of at least 1, got (1, 0)"),
        ({"padding": -1}, "conv: padding: expected an int or a pair of ints of at least 0, got -1"),
        ({"padding": "full"}, "conv: padding: expected 'same', 'valid' or a size, got 'full'"),
    ],
)
def test_conv_refuses_bad_hyper_parameters(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OpError) as caught:
        conv(**{"out_channels": 4, "kernel_size": 3, **arguments})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 8), "conv: expected shape (channels, height, width) with a multiple of 2 channels, got (8, 8)"),
        ((3, 8, 8), "conv: expected shape (channels, height, width) with a multiple of 2 channels, got (3, 8, 8)"),
        ((0, 8, 8), "conv: expected shape (channels, height, width) with a multiple of 2 channels, got (0, 8, 8)"),
        ((2, 8, 2), "conv: expected at least 3 pixels for a window of 3, got 2"),
        (
            (4, 2, 8, 8),
            "conv: expected shape (channels, height, width) with a multiple of 2 channels, got (4, 2, 8, 8)",
        ),
    ],
)
def test_conv_init_refuses_bad_shapes(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(OpError) as caught:
        conv(4, 3, groups=2).init(0, shape)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (IMAGES[:, :2], "conv: expected 3 input channels, got 2"),
        (IMAGES[0], "conv: expected shape (batch, 3, height, width), got (3, 8, 7); for one example use x[None]"),
        (
            IMAGES.astype(np.float64),
            "conv: expected float32 input as the params are, got float64; use x.astype(np.float32)",
        ),
        (IMAGES[:, :, :2], "conv: expected at least 3 pixels for a window of 3, got 2"),
    ],
)
def test_conv_refuses_bad_inputs(x: Array, message: str) -> None:
    op = conv(4, 3)
    with pytest.raises(OpError) as caught:
        op.apply(op.init(0, (3, 8, 7)), x)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"w": np.zeros((4, 3, 5, 5))}, "w: expected shape (4, any, 3, 3), got float64 (4, 3, 5, 5)"),
        ({"w": np.zeros((7, 3, 3, 3))}, "w: expected shape (4, any, 3, 3), got float64 (7, 3, 3, 3)"),
        ({"w": np.zeros((4, 3))}, "w: expected shape (4, any, 3, 3), got float64 (4, 3)"),
        ({"w": 3.0}, "w: expected an array of floats, got a float"),
        ({"b": np.zeros(5, np.float32)}, "b: expected shape (4,), got float32 (5,)"),
        ({"b": np.zeros(4)}, "b: expected float32 as 'w' is, got float64 (4,)"),
        ({"b": np.zeros((1, 4), np.float32)}, "b: expected shape (4,), got float32 (1, 4)"),
    ],
)
def test_conv_refuses_params_of_another_conv(changed: dict[str, Any], message: str) -> None:
    op = conv(4, 3)
    with pytest.raises(OpError) as caught:
        op.apply({**op.init(0, (3, 8, 7)), **changed}, IMAGES)
    assert str(caught.value) == f"conv: {message}"


def test_conv_refuses_an_image_without_rows() -> None:
    with pytest.raises(OpError, match="conv: expected at least 1 pixels for a window of 1, got 0"):
        conv(2, 1, stride=2, padding="same").init(0, (2, 0, 3))


def test_conv_sizes_may_be_arrays_and_numpy_ints() -> None:
    sizes: Any = (np.int64(4), np.array([3, 2]), [np.int8(1), 2], np.array([1, 0]))
    op = conv(*sizes)
    assert repr(op) == "conv(4, (3, 2), stride=(1, 2), padding=(1, 0))"
    with pytest.raises(OpError, match=r"^conv: padding: expected an int or a pair .*, got float64 \(2,\)$"):
        conv(4, 3, padding=np.array([1.0, 1.0]))  # type: ignore[arg-type]
