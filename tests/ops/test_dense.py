"""`dense` compared with its formula, and its errors."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from fnn import OpError, dense
from tests.support.strategies import Example, denses, seeds

FEATURES = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)


@given(denses(), seeds)
def test_dense_is_the_product_with_weights_plus_bias(example: Example, seed: int) -> None:
    op, shape = example
    rng = np.random.default_rng(seed)
    params = {name: rng.standard_normal(leaf.shape) for name, leaf in op.init(0, shape).items()}
    x = rng.standard_normal((3, *shape))
    y, vjp = op.apply(params, x)
    dy = rng.standard_normal(y.shape)
    dparams, dx = vjp(dy)
    flat = x.reshape(3, -1)
    np.testing.assert_allclose(y, flat @ params["w"] + params.get("b", 0), atol=1e-12)
    np.testing.assert_allclose(dparams["w"], flat.T @ dy, atol=1e-12)
    np.testing.assert_allclose(dx, (dy @ params["w"].T).reshape(x.shape), atol=1e-12)
    if "b" in params:
        np.testing.assert_allclose(dparams["b"], dy.sum(0), atol=1e-12)


def test_dense_params_have_conventional_shapes() -> None:
    params = dense(5).init(0, (2, 3))
    assert {name: leaf.shape for name, leaf in params.items()} == {"w": (6, 5), "b": (5,)}
    assert list(dense(5, bias=False).init(0, (6,))) == ["w"]


def test_dense_init_is_glorot_uniform_with_zero_bias() -> None:
    params = dense(100).init(0, (200,))
    limit = np.sqrt(6 / 300)
    assert 0.99 * limit < np.abs(params["w"]).max() <= limit
    assert abs(params["w"].mean()) < limit / 50
    assert not params["b"].any()


@pytest.mark.parametrize("out_features", [0, -1, 2.0, "3"])
def test_dense_refuses_bad_widths(out_features: Any) -> None:
    with pytest.raises(OpError) as caught:
        dense(out_features)
    assert str(caught.value) == f"dense: out_features: expected an int of at least 1, got {out_features!r}"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (FEATURES[:, :5], "dense: expected 6 input features, got 5"),
        (FEATURES[0], "dense: expected shape (batch, 6), got (6,); for one example use x[None]"),
        (FEATURES.reshape(2, 2, 3)[:, :, :2], "dense: expected 6 input features, got 4 (2 * 2)"),
        (FEATURES[0].reshape(2, 3), "dense: expected shape (batch, 6), got (2, 3); for one example use x[None]"),
        (
            FEATURES.astype(np.float64),
            "dense: expected float32 input as the params are, got float64; use x.astype(np.float32)",
        ),
    ],
)
def test_dense_refuses_bad_inputs(x: Any, message: str) -> None:
    op = dense(4)
    with pytest.raises(OpError) as caught:
        op.apply(op.init(0, (6,)), x)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"w": np.zeros((6, 9))}, "w: expected shape (any, 4), got float64 (6, 9)"),
        ({"w": [[1.0]]}, "w: expected an array of floats, got a list; use np.array(w, np.float32)"),
        ({"b": np.zeros(1, np.float32)}, "b: expected shape (4,), got float32 (1,)"),
        ({"b": np.zeros(4)}, "b: expected float32 as 'w' is, got float64 (4,)"),
    ],
)
def test_dense_refuses_params_of_another_layer(changed: dict[str, Any], message: str) -> None:
    op = dense(4)
    with pytest.raises(OpError) as caught:
        op.apply({**op.init(0, (6,)), **changed}, FEATURES)
    assert str(caught.value) == f"dense: {message}"
