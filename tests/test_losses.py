"""Losses: their values and exact gradients for the mean, at any size of the numbers, and what they refuse."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import LossError, cross_entropy, mse
from fnn.op import Array
from fnn.testing import check_loss
from tests.support.strategies import seeds

LOGITS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


@given(st.integers(1, 6), st.integers(1, 6), seeds)
def test_cross_entropy_is_what_a_loss_must_be(batch: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_loss(cross_entropy, 5 * rng.standard_normal((batch, classes)), rng.integers(0, classes, batch), seed)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), seeds)
def test_mse_is_what_a_loss_must_be(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_loss(mse, rng.standard_normal(shape), rng.standard_normal(shape), seed)


@given(st.integers(1, 6), st.integers(1, 6), seeds)
def test_cross_entropy_is_the_mean_of_minus_the_log_of_each_labels_probability(
    batch: int, classes: int, seed: int
) -> None:
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
def test_labels_may_be_integers_of_any_dtype(dtype: type) -> None:
    assert cross_entropy(LOGITS, np.array([0, 3, 1], dtype))[0] == cross_entropy(LOGITS, np.array([0, 3, 1]))[0]


def test_what_is_not_a_number_stays_visible() -> None:
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
def test_labels_that_are_none_are_refused(labels: Any, message: str) -> None:
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
def test_logits_that_are_none_are_refused(logits: Any, message: str) -> None:
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
def test_mse_refuses_what_does_not_match(predictions: Array, targets: Array, message: str) -> None:
    with pytest.raises(LossError) as caught:
        mse(predictions, targets)
    assert str(caught.value) == f"mse: {message}"


def test_a_loss_error_is_a_value_error() -> None:
    assert issubclass(LossError, ValueError)
