"""Activations: exact where a simple formula overflows, and without warnings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fnn import Op, OpError, elu, gelu, leaky_relu, log_softmax, relu, sigmoid, silu, softmax, softplus, tanh
from fnn.op import Array
from fnn.testing import check_op
from tests.support.strategies import seeds, slow_unless

FLOATS = [np.float32, np.float64]


def value_and_slope(op: Op, numbers: list[float], dtype: type) -> tuple[Array, Array]:
    """Returns the outputs and the derivatives; each example is one number."""
    y, vjp = op.apply({}, np.array(numbers, dtype)[:, None])
    return y[:, 0], vjp(np.ones_like(y))[1][:, 0]


@pytest.mark.parametrize("dtype", FLOATS)
def test_tanh_is_right_at_any_size(dtype: type) -> None:
    y, slope = value_and_slope(tanh, [800, -800, 0, np.inf, 1e-30], dtype)
    assert y.tolist() == [1, -1, 0, 1, dtype(1e-30)]
    assert slope.tolist() == [0, 0, 1, 0, 1]


@pytest.mark.parametrize("dtype", FLOATS)
def test_sigmoid_is_right_at_any_size(dtype: type) -> None:
    y, slope = value_and_slope(sigmoid, [-1000, 1000, 0, -np.inf, np.inf], dtype)
    assert y.tolist() == [0, 1, 0.5, 0, 1]
    assert slope.tolist() == [0, 0, 0.25, 0, 0]


@pytest.mark.parametrize("dtype", FLOATS)
def test_sigmoid_keeps_its_relative_precision_far_below_zero(dtype: type) -> None:
    y, slope = value_and_slope(sigmoid, [-60, -80], dtype)
    np.testing.assert_allclose(y, np.exp([-60.0, -80.0]), rtol=4e-6 if dtype is np.float32 else 1e-13)
    np.testing.assert_allclose(slope, np.exp([-60.0, -80.0]), rtol=4e-6 if dtype is np.float32 else 1e-13)


@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax_is_right_at_any_size(dtype: type) -> None:
    y, _ = softmax.apply({}, np.array([[1e4, 0], [-1e4, 0], [1e30, 1e30], [-np.inf, 0]], dtype))
    assert y.tolist() == [[1, 0], [0, 1], [0.5, 0.5], [0, 1]]


@pytest.mark.parametrize("dtype", FLOATS)
def test_log_softmax_is_right_at_any_size(dtype: type) -> None:
    y, vjp = log_softmax.apply({}, np.array([[1e4, 0], [-1e4, 0], [5e4, 5e4]], dtype))
    np.testing.assert_allclose(y, [[0, -1e4], [-1e4, 0], [-np.log(2), -np.log(2)]], rtol=1e-6)
    assert np.isfinite(vjp(np.ones_like(y))[1]).all()


@given(arrays(np.float64, (3, 4), elements=st.floats(-1e6, 1e6)))
def test_softmax_sums_to_one_and_its_logarithm_is_log_softmax(x: Array) -> None:
    y, _ = softmax.apply({}, x)
    np.testing.assert_allclose(y.sum(-1), 1)
    np.testing.assert_allclose(np.exp(log_softmax.apply({}, x)[0]), y, atol=1e-12)


@pytest.mark.parametrize("op", [softmax, log_softmax])
def test_softmax_works_along_the_last_axis(op: Op) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    whole, _ = op.apply({}, x)
    rows = [[op.apply({}, row[None])[0][0] for row in example] for example in x]
    np.testing.assert_allclose(whole, rows, atol=1e-12)


def test_softmax_gradient_equals_its_formula() -> None:
    y, vjp = softmax.apply({}, np.array([[1.0, 2, 3]]))
    jacobian = np.array([vjp(row[None])[1][0] for row in np.eye(3)])
    np.testing.assert_allclose(jacobian, np.diag(y[0]) - np.outer(y[0], y[0]), atol=1e-15)


def test_relu_has_no_slope_at_zero() -> None:
    y, slope = value_and_slope(relu, [-2, -0.0, 0, 3, np.inf], np.float32)
    assert y.tolist() == [0, 0, 0, 3, np.inf]
    assert slope.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("op", [tanh, relu, sigmoid, softmax, log_softmax], ids=repr)
@pytest.mark.parametrize("dtype", FLOATS)
def test_activations_pass_nan_on(op: Op, dtype: type) -> None:
    y, _ = op.apply({}, np.full((1, 2), np.nan, dtype))
    assert np.isnan(y).all()


def test_activations_are_operators_and_print_as_their_names() -> None:
    assert repr([tanh, relu, sigmoid, softmax, log_softmax]) == "[tanh, relu, sigmoid, softmax, log_softmax]"
    assert tanh.init(0, (3,)) == {}


@pytest.mark.parametrize("dtype", FLOATS)
def test_silu_and_gelu_are_right_at_any_size(dtype: type) -> None:
    for op in silu, gelu:
        y, slope = value_and_slope(op, [1e30, -1e30, 800, -800, 0], dtype)
        assert y.tolist() == [dtype(1e30), 0, 800, 0, 0]
        assert slope.tolist() == [1, 0, 1, 0, 0.5]


@given(arrays(np.float64, 5, elements=st.floats(-12, 12)))
def test_gelu_uses_the_tanh_approximation(x: Array) -> None:
    y, _ = value_and_slope(gelu, x.tolist(), np.float64)
    np.testing.assert_allclose(y, x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2, atol=1e-14)
    assert value_and_slope(gelu, [1.0], np.float64)[0] == pytest.approx(0.8411919906082768)


@pytest.mark.parametrize("dtype", FLOATS)
def test_softplus_is_right_at_any_size(dtype: type) -> None:
    y, slope = value_and_slope(softplus, [1e30, -1e30, 0, np.inf, -np.inf], dtype)
    assert y.tolist() == [dtype(1e30), 0, np.log(dtype(2)), np.inf, 0]
    np.testing.assert_allclose(slope, [1, 0, 0.5, 1, 0], rtol=1e-6)
    y, slope = value_and_slope(softplus, [-60], dtype)
    np.testing.assert_allclose([y, slope], np.exp(-60.0), rtol=4e-6 if dtype is np.float32 else 1e-13)


@pytest.mark.parametrize("dtype", FLOATS)
def test_leaky_relu_and_elu_are_right_at_any_size(dtype: type) -> None:
    y, slope = value_and_slope(leaky_relu(0.25), [-4, 0, 3, -np.inf, np.inf], dtype)
    assert y.tolist() == [-1, 0, 3, -np.inf, np.inf]
    assert slope.tolist() == [0.25, 0.25, 1, 0.25, 1]
    y, slope = value_and_slope(elu(2), [-1e30, 0, 1e30, -np.inf, np.inf], dtype)
    assert y.tolist() == [-2, 0, dtype(1e30), -2, np.inf]
    assert slope.tolist() == [0, 2, 1, 0, 1]


@pytest.mark.parametrize("make", [leaky_relu, elu])
@pytest.mark.parametrize("scalar", [np.float64, np.float32, np.float16])
def test_activations_stay_float32_with_numpy_hyper_parameters(
    make: Callable[[float], Op], scalar: Callable[[float], float]
) -> None:
    y, slope = value_and_slope(make(scalar(0.1)), [-1, 1], np.float32)
    assert y.dtype == slope.dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf, "1", None])
def test_elu_and_leaky_relu_refuse_hyper_parameters_that_are_no_numbers(value: Any) -> None:
    for make, name in (leaky_relu, "slope"), (elu, "alpha"):
        with pytest.raises(OpError) as caught:
            make(value)
        assert str(caught.value) == f"{make.__name__}: {name}: expected a finite number, got {value!r}"


@given(st.sampled_from([leaky_relu, elu]), st.floats(-3, 3), seeds)
def test_check_op_of_leaky_relu_and_elu_of_any_slope_and_alpha(
    make: Callable[[float], Op], value: float, seed: int
) -> None:
    check_op(make(value), (4,), seed)


@pytest.mark.parametrize("op", [gelu, silu, softplus, leaky_relu(), elu()], ids=repr)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple), st.integers(1, 4), seeds)
def test_check_op_of_activations(op: Op, shape: tuple[int, ...], batch: int, seed: int) -> None:
    check_op(op, shape, seed, batch=batch, exempt=slow_unless(seed))


@pytest.mark.parametrize("op", [gelu, silu, softplus, leaky_relu(), elu()], ids=repr)
def test_more_activations_pass_nan_on(op: Op) -> None:
    assert np.isnan(op.apply({}, np.full((1, 2), np.nan, np.float32))[0]).all()


@pytest.mark.parametrize("op", [softmax, log_softmax])
@pytest.mark.parametrize("shape", [(3,), (2, 0)])
def test_softmax_without_classes_is_refused(op: Op, shape: tuple[int, ...]) -> None:
    message = (
        r"expected shape \(batch, \.\.\., classes\), got \(3,\); for one|expected at least one class, got \(2, 0\)"
    )
    with pytest.raises(OpError, match=f"softmax: ({message})"):
        op.apply({}, np.ones(shape, np.float32))


@pytest.mark.parametrize("op", [softmax, log_softmax], ids=repr)
def test_softmax_takes_no_positions_but_not_no_classes(op: Op) -> None:
    y, vjp = op.apply({}, np.zeros((2, 0, 3)))
    assert (y.shape, vjp(y)[1].shape) == ((2, 0, 3), (2, 0, 3))
    with pytest.raises(OpError, match=rf"^{op.kind}: expected at least one class, got \(2, 3, 0\)$"):
        op.apply({}, np.zeros((2, 3, 0)))
