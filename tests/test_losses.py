"""Losses: their values and gradients, also of very large and small numbers, and their errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fnn
from fnn import LossError, cross_entropy, dense, mse, serial, value_and_grad
from fnn.losses import MANY, Loss, binary_cross_entropy, huber, smoothed_cross_entropy
from fnn.op import Array
from fnn.testing import check_loss
from tests.support.strategies import seeds

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
LOGITS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), seeds)
def test_check_loss_of_mse(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_loss(mse, rng.standard_normal(shape), rng.standard_normal(shape), seed)


@given(st.integers(1, 6), st.integers(1, 6) | st.integers(MANY - 1, MANY + 1), seeds)
@example(3, MANY + 1, 0)
def test_cross_entropy_equals_its_formula(batch: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((batch, classes)), rng.integers(0, classes, batch)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    value, vjp = cross_entropy(logits, labels)
    np.testing.assert_allclose(value, -np.log(p[np.arange(batch), labels]).mean())
    np.testing.assert_allclose(vjp(), (p - np.eye(classes)[labels]) / batch, atol=1e-15)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), seeds)
def test_mse_is_the_mean_over_all_numbers(shape: tuple[int, ...], seed: int) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, *shape))
    value, vjp = mse(a, b)
    np.testing.assert_allclose(value, ((a - b) ** 2).sum() / a.size)
    np.testing.assert_allclose(vjp(), 2 * (a - b) / a.size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_is_right_at_any_size(dtype: type) -> None:
    logits: Array = np.array([[1e4, 0], [0, -1e4], [-1e30, 1e30]], dtype)
    value, vjp = cross_entropy(logits, np.array([1, 0, 1]))
    assert value == pytest.approx(1e4 / 3)
    assert vjp().tolist() == [[dtype(1) / 3, -dtype(1) / 3], [0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint64])
def test_cross_entropy_takes_labels_of_any_integer_dtype(dtype: type) -> None:
    assert cross_entropy(LOGITS, np.array([0, 3, 1], dtype))[0] == cross_entropy(LOGITS, np.array([0, 3, 1]))[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_cross_entropy_takes_many_classes_and_examples(dtype: type) -> None:
    rng = np.random.default_rng(0)
    for count, classes in ((3, 200), (300, 3), (300, 200)):
        logits, labels = rng.standard_normal((count, classes)), rng.integers(0, classes, count, dtype)
        value, vjp = cross_entropy(logits, labels)
        places = np.arange(count), labels.astype(int)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        np.testing.assert_allclose(value, -log_p[places].mean())
        expected = np.exp(log_p)
        expected[places] -= 1
        np.testing.assert_allclose(vjp(), expected / count, atol=1e-15)


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy, mse])
def test_losses_have_the_name_and_the_docstring_of_their_formula(loss: Loss) -> None:
    assert getattr(fnn.losses, loss.__name__) is loss
    assert (loss.__doc__ or "").startswith("The mean of ")


def test_losses_pass_nan_on() -> None:
    value, vjp = cross_entropy(np.full((1, 2), np.nan), np.array([0]))
    assert np.isnan(value)
    assert np.isnan(vjp()).all()
    assert np.isnan(mse(np.array([np.nan, 0]), np.zeros(2))[0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 4]), "labels: expected integers from 0 to 3, got 4"),
        (np.array([0, -1, 4]), "labels: expected integers from 0 to 3, got -1"),
        (np.array([0, 2**40, 1]), "labels: expected integers from 0 to 3, got 1099511627776"),
        (np.array([0, 255, 1], np.uint8), "labels: expected integers from 0 to 3, got 255"),
        (
            np.array([0.0, 1.0, 2.0]),
            "labels: expected an array of integers, got float64 (3,); use labels.astype(np.int64)",
        ),
        (
            np.array([True, False, True]),
            "labels: expected an array of integers, got bool (3,); use labels.astype(np.int64)",
        ),
        (np.array([0, 1]), "labels: expected shape (3,), got (2,)"),
        (np.array([[0], [1], [2]]), "labels: expected shape (3,), got (3, 1); use labels[..., 0]"),
        (np.eye(4)[:3], "labels: expected shape (3,), got (3, 4); of one-hot rows use labels.argmax(-1)"),
        ([0, 1, 2], "labels: expected an array of integers, got a list; use np.array(labels, np.int64)"),
    ],
)
def test_cross_entropy_refuses_bad_labels(labels: Any, message: str) -> None:
    with pytest.raises(LossError) as caught:
        cross_entropy(LOGITS, labels)
    assert str(caught.value) == f"cross_entropy: {message}"


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (LOGITS[0], "outputs: expected shape (batch, ..., classes), got (4,)"),
        (LOGITS[None], "labels: expected shape (1, 3), got (3,)"),
        (LOGITS[:0], "outputs: expected at least one example, got float32 (0, 4)"),
        (LOGITS[:, :0], "outputs: expected at least one example, got float32 (3, 0)"),
        (
            LOGITS.astype(np.int64),
            "outputs: expected an array of floats, got int64 (3, 4); use outputs.astype(np.float32)",
        ),
        ([[1.0]], "outputs: expected an array of floats, got a list; use np.array(outputs, np.float32)"),
        (1.0, "outputs: expected an array of floats, got a float"),
    ],
)
def test_cross_entropy_refuses_bad_logits(logits: Any, message: str) -> None:
    with pytest.raises(LossError) as caught:
        cross_entropy(logits, np.array([0, 1, 2]))
    assert str(caught.value) == f"cross_entropy: {message}"


@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [
        (LOGITS, LOGITS[0], "targets: expected shape (3, 4), got (4,)"),
        (LOGITS, LOGITS.T, "targets: expected shape (3, 4), got (4, 3)"),
        (
            LOGITS,
            LOGITS.astype(float),
            "targets: expected float32 as the outputs are, got float64 (3, 4); use targets.astype(np.float32)",
        ),
        (
            LOGITS,
            LOGITS.astype(int),
            "targets: expected float32 as the outputs are, got int64 (3, 4); use targets.astype(np.float32)",
        ),
        (LOGITS[:0], LOGITS[:0], "outputs: expected at least one example, got float32 (0, 4)"),
        (
            LOGITS.astype(int),
            LOGITS,
            "outputs: expected an array of floats, got int64 (3, 4); use outputs.astype(np.float32)",
        ),
        (LOGITS, 1.0, "targets: expected an array of floats, got a float"),
        (1.0, LOGITS, "outputs: expected an array of floats, got a float"),
    ],
)
def test_mse_refuses_shapes_that_differ(predictions: Array, targets: Array, message: str) -> None:
    with pytest.raises(LossError) as caught:
        mse(predictions, targets)
    assert str(caught.value) == f"mse: {message}"


def test_loss_error_is_a_value_error() -> None:
    assert issubclass(LossError, ValueError)


@given(shapes, st.integers(1, 5), st.floats(0, 1), seeds)
def test_check_loss_of_cross_entropy_and_smoothed_cross_entropy(
    shape: tuple[int, ...], classes: int, smoothing: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = 5 * rng.standard_normal((*shape, classes)), rng.integers(0, classes, shape)
    check_loss(cross_entropy, logits, labels, seed)
    check_loss(smoothed_cross_entropy(smoothing), logits, labels, seed)


@given(shapes, seeds)
def test_check_loss_of_binary_cross_entropy(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_loss(binary_cross_entropy, 5 * rng.standard_normal(shape), rng.random(shape), seed)


@given(shapes, st.floats(0.1, 3), seeds)
def test_check_loss_of_huber(shape: tuple[int, ...], delta: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_loss(huber(delta), 3 * rng.standard_normal(shape), rng.standard_normal(shape), seed)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), seeds)
def test_cross_entropy_of_a_sequence_averages_its_positions(batch: int, time: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((batch, time, classes)), rng.integers(0, classes, (batch, time))
    value, vjp = cross_entropy(logits, labels)
    expected, vjp_expected = cross_entropy(logits.reshape(-1, classes), labels.ravel())
    assert value == expected
    assert np.array_equal(vjp(), vjp_expected().reshape(logits.shape))


@given(shapes, st.integers(1, 5), st.floats(0, 1), seeds)
def test_smoothed_cross_entropy_equals_smooth_targets(
    shape: tuple[int, ...], classes: int, smoothing: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((*shape, classes)), rng.integers(0, classes, shape)
    targets = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    value, vjp = smoothed_cross_entropy(smoothing)(logits, labels)
    np.testing.assert_allclose(value, -(targets * np.log(p)).sum() / labels.size, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(vjp(), (p - targets) / labels.size, atol=1e-14)


@given(shapes, seeds)
def test_binary_cross_entropy_equals_its_formula(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, targets = rng.standard_normal(shape), rng.random(shape)
    p = 1 / (1 + np.exp(-logits))
    value, vjp = binary_cross_entropy(logits, targets)
    np.testing.assert_allclose(value, -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean())
    np.testing.assert_allclose(vjp(), (p - targets) / p.size, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_is_right_at_any_size(dtype: type) -> None:
    logits: Array = np.array([1e4, -1e4, 1e30, -1e30, 0], dtype)
    value, vjp = binary_cross_entropy(logits, np.array([0, 1, 1, 0, 0.5], dtype))
    assert value == pytest.approx((2e4 + np.log(2)) / 5)
    assert vjp().tolist() == [dtype(1) / 5, -dtype(1) / 5, 0, 0, 0]
    small, _ = binary_cross_entropy(np.array([40], dtype), np.ones(1, dtype))
    assert small == pytest.approx(np.exp(-40.0), rel=1e-5, abs=0)


def test_huber_is_quadratic_near_zero_and_linear_beyond() -> None:
    value, vjp = huber(2)(np.array([1.0, -5, 2]), np.zeros(3))
    assert value == pytest.approx((0.5 + 2 * (5 - 1) + 2) / 3)
    np.testing.assert_allclose(vjp(), np.array([1, -2, 2]) / 3)


@given(shapes, seeds)
def test_huber_of_small_errors_is_half_of_mse(shape: tuple[int, ...], seed: int) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, *shape))
    np.testing.assert_allclose(huber(100)(a, b)[0], mse(a, b)[0] / 2)


@pytest.mark.parametrize("loss", [huber(np.float64(0.5)), smoothed_cross_entropy(np.float64(0.1))])
def test_losses_stay_float32_with_numpy_hyper_parameters(loss: Loss) -> None:
    logits = np.ones((2, 3), np.float32)
    value, vjp = loss(logits, np.zeros(2, int) if "smoothed" in loss.__qualname__ else logits)
    assert value.dtype == vjp().dtype == np.float32


@pytest.mark.parametrize("loss", [smoothed_cross_entropy(0.1), cross_entropy])
def test_value_and_grad_takes_cross_entropies(loss: Loss) -> None:
    net = serial(dense(3))
    x = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    (value, out), grads = value_and_grad(net, loss)(net.init(0, (2,)), x, np.array([0, 2, 1, 1]))
    assert value == loss(out, np.array([0, 2, 1, 1]))[0]
    assert grads["dense1"]["w"].shape == (2, 3)


@pytest.mark.parametrize("smoothing", [0.1, 0.0])
def test_smoothed_cross_entropy_refuses_what_cross_entropy_refuses(smoothing: float) -> None:
    with pytest.raises(LossError) as caught:
        smoothed_cross_entropy(smoothing)(np.zeros((2, 3)), np.array([0, 3]))
    assert str(caught.value) == "cross_entropy: labels: expected integers from 0 to 2, got 3"


@pytest.mark.parametrize("targets", [[0.5, 1.5], [-0.5, 0.5], [0.5, np.nan]])
def test_binary_cross_entropy_refuses_targets_outside_0_to_1(targets: list[float]) -> None:
    with pytest.raises(LossError) as caught:
        binary_cross_entropy(np.zeros(2), np.array(targets))
    low, high = np.min(targets), np.max(targets)
    assert str(caught.value) == f"binary_cross_entropy: targets: expected numbers from 0 to 1, got {low} to {high}"


@pytest.mark.parametrize(("loss", "name"), [(binary_cross_entropy, "binary_cross_entropy"), (huber(), "huber")])
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.zeros(2), "targets: expected float32 as the outputs are, got float64 (2,); use targets.astype(np.float32)"),
        (
            np.zeros(2, int),
            "targets: expected float32 as the outputs are, got int64 (2,); use targets.astype(np.float32)",
        ),
        (np.zeros((2, 1), np.float32), "targets: expected shape (2,), got (2, 1); use targets[..., 0]"),
        ([0, 0], "targets: expected an array of floats, got a list; use np.array(targets, np.float32)"),
    ],
)
def test_losses_refuse_targets_unlike_the_outputs(loss: Loss, name: str, targets: Any, message: str) -> None:
    with pytest.raises(LossError) as caught:
        loss(np.zeros(2, np.float32), targets)
    assert str(caught.value) == f"{name}: {message}"


@pytest.mark.parametrize("loss", [binary_cross_entropy, huber()])
def test_losses_refuse_an_empty_batch(loss: Loss) -> None:
    with pytest.raises(LossError, match="outputs: expected at least one example"):
        loss(np.zeros((0, 3)), np.zeros((0, 3)))


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (huber, 0, "huber: delta: expected a finite number above 0, got 0"),
        (huber, np.nan, "huber: delta: expected a finite number above 0, got nan"),
        (huber, None, "huber: delta: expected a finite number above 0, got None"),
        (
            smoothed_cross_entropy,
            "much",
            "smoothed_cross_entropy: smoothing: expected a number from 0 to 1, got 'much'",
        ),
        (smoothed_cross_entropy, 1.5, "smoothed_cross_entropy: smoothing: expected a number from 0 to 1, got 1.5"),
        (smoothed_cross_entropy, np.nan, "smoothed_cross_entropy: smoothing: expected a number from 0 to 1, got nan"),
    ],
)
def test_losses_refuse_bad_hyper_parameters(make: Callable[[Any], Loss], value: Any, message: str) -> None:
    with pytest.raises(LossError) as caught:
        make(value)
    assert str(caught.value) == message
