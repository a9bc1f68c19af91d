"""`value_and_grad`: exact and pure, and it does not compute the input's gradient."""

from typing import Any

import numpy as np
import pytest

from fnn import (
    Key,
    LossError,
    Op,
    OpError,
    cross_entropy,
    dense,
    mse,
    relu,
    serial,
    tanh,
    tree_items,
    tree_map,
    value_and_grad,
)
from fnn.op import Array, Params, Vjp

NET = serial(dense(5), tanh, dense(3))
X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 2, 1, 0])
PARAMS = NET.init(0, (4,))
for array in (X, LABELS, *(leaf for _, leaf in tree_items(PARAMS))):
    array.flags.writeable = False


def test_value_and_grad_returns_value_output_and_gradients() -> None:
    (value, out), grads = value_and_grad(NET, cross_entropy)(PARAMS, X, LABELS)
    assert value == cross_entropy(out, LABELS)[0]
    assert np.array_equal(out, NET.apply(PARAMS, X)[0])
    shapes = tree_map(lambda p, g: p.shape == g.shape and p.dtype == g.dtype == np.float32, PARAMS, grads)
    assert all(same for _, same in tree_items(shapes))


def test_value_and_grad_equals_central_differences() -> None:
    params = tree_map(lambda p: p.astype(np.float64), PARAMS)
    x, step = X.astype(np.float64), 1e-6
    gradient = value_and_grad(NET, cross_entropy)
    _, grads = gradient(params, x, LABELS)
    for layer, name in (("dense1", "w"), ("dense1", "b"), ("dense2", "w"), ("dense2", "b")):
        values = []
        for move in (step, -step):
            moved = params[layer][name].copy()
            moved.flat[0] += move
            (value, _), _ = gradient({**params, layer: {**params[layer], name: moved}}, x, LABELS)
            values.append(value)
        assert grads[layer][name].flat[0] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def test_value_and_grad_is_pure() -> None:
    gradient = value_and_grad(NET, cross_entropy)
    (value, out), grads = gradient(PARAMS, X, LABELS)
    (again, out_again), grads_again = gradient(PARAMS, X, LABELS)
    assert value == again
    assert np.array_equal(out, out_again)
    assert all(same for _, same in tree_items(tree_map(np.array_equal, grads, grads_again)))


def test_value_and_grad_averages_over_the_batch() -> None:
    gradient = value_and_grad(NET, cross_entropy)
    _, grads = gradient(PARAMS, X, LABELS)
    _, twice = gradient(PARAMS, np.concatenate([X, X]), np.concatenate([LABELS, LABELS]))
    for (path, one), (_, other) in zip(tree_items(grads), tree_items(twice), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-7, err_msg=path)


def test_value_and_grad_does_not_compute_dx() -> None:
    asked = []

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            asked.append(need_dx)
            return {}, None

        return x, vjp

    value_and_grad(Op(lambda key, shape: {}, apply), mse)({}, X, X)
    assert asked == [False]


def test_value_and_grad_passes_the_key_on() -> None:
    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        shift = x.dtype.type(0 if key is None else key.seed)
        return x + shift, lambda dy, need_dx=True: ({}, dy)

    gradient = value_and_grad(Op(lambda key, shape: {}, apply, takes_key=True), mse)
    assert gradient({}, X, X, None)[0][0] == 0
    assert gradient({}, X, X, 2)[0][0] == pytest.approx(4, rel=1e-6)
    assert gradient({}, X, X, Key(3))[0][0] == pytest.approx(9, rel=1e-6)


def test_value_and_grad_of_a_net_without_params_is_empty() -> None:
    (_, out), grads = value_and_grad(serial(relu), mse)({"relu1": {}}, X, X)
    assert out.shape == X.shape
    assert grads == {"relu1": {}}


def test_value_and_grad_passes_errors_on() -> None:
    gradient = value_and_grad(NET, cross_entropy)
    with pytest.raises(OpError, match=r"^dense1: expected 4 input features, got 3$"):
        gradient(PARAMS, X[:, :3], LABELS)
    with pytest.raises(LossError, match=r"^cross_entropy: labels: expected integers from 0 to 2, got 7$"):
        gradient(PARAMS, X, LABELS + 7)
