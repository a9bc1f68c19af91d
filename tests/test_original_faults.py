"""The faults of the original program; it would fail each of these tests."""

import numpy as np
import pytest

from fnn import Op, conv, cross_entropy, mse, relu, softmax, tanh
from fnn.op import Array

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, 2, 7, 7))


def test_conv_input_gradient_uses_the_flipped_kernel() -> None:
    """For a cotangent with a single one, the input's gradient is the kernel itself."""
    w = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    y, vjp = conv(1, 3, bias=False).apply({"w": w}, np.zeros((1, 1, 5, 5)))
    dy = np.zeros_like(y)
    dy[0, 0, 1, 1] = 1
    _, dx = vjp(dy)
    assert np.array_equal(dx[0, 0, 1:4, 1:4], w[0, 0])
    assert dx.sum() == w.sum()


def test_conv_adds_its_bias() -> None:
    op = conv(3, 3)
    w = op.init(0, (2, 7, 7))["w"].astype(np.float64)
    without, _ = op.apply({"w": w, "b": np.zeros(3)}, IMAGES)
    with_bias, vjp = op.apply({"w": w, "b": np.array([1.0, -2.0, 3.0])}, IMAGES)
    np.testing.assert_allclose(with_bias - without, np.broadcast_to([[[1.0]], [[-2.0]], [[3.0]]], (2, 3, 5, 5)))
    np.testing.assert_allclose(vjp(np.ones_like(with_bias))[0]["b"], [50, 50, 50])


def test_conv_stride_2_has_a_vjp() -> None:
    op = conv(1, 3, stride=2, bias=False)
    y, vjp = op.apply({"w": np.ones((1, 2, 3, 3))}, IMAGES)
    dparams, dx = vjp(np.ones_like(y))
    reads = np.convolve([1, 0, 1, 0, 1], [1, 1, 1])  # how many windows read each row, and each column
    np.testing.assert_allclose(dx, np.broadcast_to(np.outer(reads, reads), IMAGES.shape))
    np.testing.assert_allclose(dparams["w"][0, :, 0, 0], IMAGES[:, :, 0:5:2, 0:5:2].sum((0, 2, 3)))


def test_losses_gradients_are_averaged_over_the_batch() -> None:
    logits, labels = RNG.standard_normal((5, 3)), np.array([0, 1, 2, 1, 0])
    each = [cross_entropy(logits[i : i + 1], labels[i : i + 1])[1]()[0] / 5 for i in range(5)]
    np.testing.assert_allclose(cross_entropy(logits, labels)[1](), each)
    np.testing.assert_allclose(mse(logits, np.zeros((5, 3)))[1](), 2 * logits / 15)


def test_tanh_of_800_is_one() -> None:
    y, vjp = tanh.apply({}, np.array([[800.0, -800.0]], np.float32))
    assert y.tolist() == [[1, -1]]
    assert vjp(np.ones_like(y))[1].tolist() == [[0, 0]]


@pytest.mark.parametrize("op", [softmax, relu], ids=repr)
def test_softmax_and_relu_do_not_change_their_input(op: Op) -> None:
    x: Array = RNG.standard_normal((3, 4))
    kept = x.copy()
    _, vjp = op.apply({}, x)
    dy = np.ones_like(x)
    vjp(dy)
    assert np.array_equal(x, kept)
    assert np.array_equal(dy, np.ones_like(x))


def test_softmax_has_a_gradient() -> None:
    y, vjp = softmax.apply({}, np.array([[0.0, 0.0]]))
    assert vjp(np.array([[1.0, 0.0]]))[1].tolist() == [[0.25, -0.25]]
    assert y.tolist() == [[0.5, 0.5]]
