"""`conv_transpose` is the adjoint of `conv`; and its errors."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import Op, OpError, conv, conv_transpose
from fnn.op import Shape
from fnn.testing import check_op
from tests.support.strategies import both, seeds, sizes, slow_unless

IMAGES = np.zeros((2, 3, 4, 5), np.float32)


@st.composite
def transposed(draw: st.DrawFn) -> tuple[Op, Shape]:
    """Draws any transposed convolution, also with padding larger than the kernel."""
    groups = draw(st.integers(1, 3))
    kernel, stride, dilation, padding = draw(sizes(1, 4)), draw(sizes(1, 4)), draw(sizes(1, 3)), draw(sizes(0, 3))
    most = [max(s, d) - 1 for s, d in zip(both(stride), both(dilation), strict=True)]
    extra = tuple(draw(st.integers(0, n)) for n in most)
    least = [
        max(1, -(-(2 * p - (k - 1) * d - e) // s) + 1)
        for k, s, d, p, e in zip(*map(both, (kernel, stride, dilation, padding, extra)), strict=True)
    ]
    height, width = (draw(st.integers(n, n + 4)) for n in least)
    out, channels = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    op = conv_transpose(out, kernel, stride, padding, extra, dilation, groups, bias=draw(st.booleans()))
    return op, (channels, height, width)


@given(transposed(), st.integers(1, 4), seeds)
def test_check_op_of_conv_transpose(example: tuple[Op, Shape], batch: int, seed: int) -> None:
    check_op(*example, seed, batch=batch, exempt=slow_unless(seed))


def test_conv_transpose_is_the_input_gradient_of_conv() -> None:
    rng = np.random.default_rng(0)
    down = conv(6, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2, bias=False)
    up = conv_transpose(4, (3, 2), stride=2, padding=1, output_padding=1, dilation=(1, 2), groups=2, bias=False)
    w, x = rng.standard_normal((6, 2, 3, 2)), rng.standard_normal((2, 4, 8, 8))
    y, vjp = down.apply({"w": w}, x)
    dy = rng.standard_normal(y.shape)
    back, vjp_up = up.apply({"w": w}, dy)
    np.testing.assert_allclose(back, vjp(dy)[1], atol=1e-12)
    np.testing.assert_allclose(vjp_up(x)[1], y, atol=1e-12)


def test_conv_transpose_params_have_conventional_shapes() -> None:
    params = conv_transpose(4, (3, 2), groups=2).init(0, (6, 5, 5))
    assert {name: leaf.shape for name, leaf in params.items()} == {"w": (6, 2, 3, 2), "b": (4,)}
    assert list(conv_transpose(4, 3, bias=False).init(0, (1, 5, 5))) == ["w"]


def test_conv_transpose_doubles_an_image() -> None:
    op = conv_transpose(2, 3, stride=2, padding=1, output_padding=1)
    assert op.output_shape(op.init(0, (3, 7, 5)), (3, 7, 5)) == (2, 14, 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            {"output_padding": 1},
            "output_padding: expected less than the stride (1, 1) or the dilation (1, 1), got (1, 1)",
        ),
        ({"groups": 2}, "out_channels: expected a multiple of groups=2, got 3"),
        ({"padding": -1}, "padding: expected an int or a pair of ints of at least 0, got -1"),
        ({"kernel_size": 0}, "kernel_size: expected an int or a pair of ints of at least 1, got 0"),
        ({"stride": 0}, "stride: expected an int or a pair of ints of at least 1, got 0"),
        ({"dilation": 0}, "dilation: expected an int or a pair of ints of at least 1, got 0"),
        ({"output_padding": -1}, "output_padding: expected an int or a pair of ints of at least 0, got -1"),
        ({"padding": "same"}, "padding: expected an int or a pair of ints of at least 0, got 'same'"),
    ],
)
def test_conv_transpose_refuses_bad_hyper_parameters(make: Any, message: str) -> None:
    with pytest.raises(OpError) as caught:
        conv_transpose(**{"out_channels": 3, "kernel_size": 2, **make})
    assert str(caught.value) == f"conv_transpose: {message}"


@pytest.mark.parametrize("shape", [(3, 4), (5, 4, 4), (0, 4, 4)])
def test_conv_transpose_init_refuses_bad_shapes(shape: Shape) -> None:
    with pytest.raises(OpError) as caught:
        conv_transpose(4, 2, groups=2).init(0, shape)
    wanted = "expected shape (channels, height, width) with a multiple of 2 channels"
    assert str(caught.value) == f"conv_transpose: {wanted}, got {shape}"


def test_conv_transpose_init_refuses_padding_that_leaves_nothing() -> None:
    with pytest.raises(OpError) as caught:
        conv_transpose(1, 2, padding=2).init(0, (1, 3, 4))
    assert str(caught.value) == "conv_transpose: expected at least one pixel of input and of output, got 3 and 0"


def test_conv_transpose_init_refuses_images_without_pixels() -> None:
    with pytest.raises(OpError, match=r"^conv_transpose: expected at least one pixel .* and of output, got 0 and 1$"):
        conv_transpose(1, 2).init(0, (1, 0, 4))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (IMAGES[0], f"expected shape (batch, 3, height, width), got {IMAGES[0].shape}; for one example use x[None]"),
        (IMAGES[:, :2], "expected 3 input channels, got 2"),
        (IMAGES.astype(float), "expected float32 input as the params are, got float64; use x.astype(np.float32)"),
    ],
)
def test_conv_transpose_refuses_bad_inputs(x: Any, message: str) -> None:
    op = conv_transpose(2, 2)
    with pytest.raises(OpError) as caught:
        op.apply(op.init(0, (3, 4, 5)), x)
    assert str(caught.value) == f"conv_transpose: {message}"


def test_conv_transpose_refuses_params_of_another_layer() -> None:
    with pytest.raises(OpError) as caught:
        conv_transpose(2, 2).apply(conv(2, 3).init(0, (3, 4, 5)), IMAGES)
    assert str(caught.value) == "conv_transpose: w: expected shape (any, 2, 2, 2), got float32 (2, 3, 3, 3)"


def test_conv_transpose_refuses_channels_that_groups_do_not_divide() -> None:
    with pytest.raises(OpError, match=r"^conv_transpose: w: expected a multiple of groups=2 input channels, got 3$"):
        conv_transpose(2, 2, groups=2, bias=False).apply({"w": np.ones((3, 1, 2, 2), np.float32)}, IMAGES)
