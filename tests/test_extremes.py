"""Very large, very small and infinite numbers: finite input never gives nan, and infinity gives the limit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import (
    Op,
    adam,
    averaged,
    batch_norm,
    binary_cross_entropy,
    clip_by_global_norm,
    cross_entropy,
    dropout,
    elu,
    gelu,
    group_norm,
    huber,
    layer_norm,
    leaky_relu,
    log_softmax,
    maxpool,
    mse,
    relu,
    serial,
    sgd,
    sigmoid,
    silu,
    smoothed_cross_entropy,
    softmax,
    softplus,
    tanh,
    tree_items,
    value_and_grad,
)
from fnn.op import Array
from fnn.testing.table import TABLE
from fnn.testing.table import Example as Row

INF = np.inf
ROWS = [pytest.param(row, id=f"{name}-{i}") for name, rows in TABLE.items() for i, row in enumerate(rows)]


def array(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


# Losses


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "value"),
    [
        (smoothed_cross_entropy(0.0), array(0, -INF, 1)[None], np.array([0]), 1.3132616),
        (cross_entropy, array(0, -INF, 1)[None], np.array([0]), 1.3132616),
        (cross_entropy, array(0, -INF, 1)[None], np.array([1]), INF),
        (cross_entropy, array(-1e38, 1e38)[None], np.array([1]), 0),
        (binary_cross_entropy, array(INF), array(1), 0),
        (binary_cross_entropy, array(-INF), array(0), 0),
        (binary_cross_entropy, array(INF, -INF), array(1, 0), 0),
        (binary_cross_entropy, array(INF), array(0), INF),
        (binary_cross_entropy, array(-INF), array(0.5), INF),
        (binary_cross_entropy, array(3e38, -3e38), array(1, 0), 0),
        (binary_cross_entropy, array(100), array(0), 100),
        (huber(), array(INF), array(0), INF),
        (mse, array(1e-30), array(0), 0),
    ],
)
def test_losses_of_extreme_outputs(loss: Any, outputs: Array, targets: Array, value: float) -> None:
    came, vjp = loss(outputs, targets)
    np.testing.assert_allclose(came, value, rtol=1e-6)
    assert not np.isnan(vjp()).any()


def test_binary_cross_entropy_has_the_limits_of_its_gradient() -> None:
    _, vjp = binary_cross_entropy(array(INF, -INF, INF, -INF), array(1, 0, 0, 1))
    assert vjp().tolist() == [0, 0, 0.25, -0.25]


# Pooling, relu and dropout: what is not selected gets exactly zero


def test_maxpool_of_minus_infinity_gives_no_gradient_to_the_padding() -> None:
    y, vjp = maxpool(2, 1, 1).apply({}, np.full((1, 1, 2, 2), -INF, np.float32))
    assert vjp(np.ones_like(y))[1].sum() == 9


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2), st.integers(0, 1000))
def test_maxpool_gradients_all_reach_the_image(kernel: int, stride: int, padding: int, seed: int) -> None:
    op = maxpool(kernel, stride, min(padding, kernel // 2))
    x = np.random.default_rng(seed).choice(array(-INF, -1, 0), (2, 2, 5, 6))
    y, vjp = op.apply({}, x)
    dy = np.random.default_rng(seed).integers(1, 9, y.shape).astype(np.float32)
    dx = vjp(dy)[1]
    assert dx.sum() == dy.sum()
    # A gradient goes to a number that is the largest of some window: moving it down a little changes an output.
    assert np.all(x[dx != 0] >= -INF)


@pytest.mark.parametrize("op", [maxpool(2), maxpool(3, 1, 1), maxpool(2, 3)])
@pytest.mark.parametrize("bad", [INF, -INF, np.nan])
def test_maxpool_gives_an_infinite_cotangent_to_one_number(op: Op, bad: float) -> None:
    x = np.random.default_rng(0).standard_normal((1, 1, 6, 6)).astype(np.float32)
    y, vjp = op.apply({}, x)
    for at in np.ndindex(y.shape):
        dy = np.zeros_like(y)
        dy[at] = bad
        dx = vjp(dy)[1]
        assert np.count_nonzero(dx) == 1
        np.testing.assert_array_equal(dx[dx != 0], array(bad))


def test_relu_and_dropout_stop_infinite_cotangents() -> None:
    y, vjp = relu.apply({}, array(-1, 0, 1))
    assert vjp(array(INF, np.nan, INF))[1].tolist() == [0, 0, INF]
    x = np.full((4, 50), INF, np.float32)
    y, vjp = dropout(0.5).apply({}, x, 1)
    dropped = y == 0
    assert 0 < dropped.sum() < y.size
    assert np.all(y[~dropped] == INF)
    np.testing.assert_array_equal(vjp(x)[1], y)


# Elementwise functions


@pytest.mark.parametrize(
    ("op", "low", "high", "slopes"),
    [
        (tanh, -1, 1, [0, 0]),
        (relu, 0, INF, [0, 1]),
        (sigmoid, 0, 1, [0, 0]),
        (silu, 0, INF, [0, 1]),
        (gelu, 0, INF, [0, 1]),
        (softplus, 0, INF, [0, 1]),
        (elu(0.5), -0.5, INF, [0, 1]),
        (leaky_relu(0.1), -INF, INF, [0.1, 1]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("largest", [INF, 3e38])
def test_activations_have_their_limits_at_both_ends(
    op: Op, low: float, high: float, slopes: list[float], largest: float
) -> None:
    with np.errstate(all="raise"):
        y, vjp = op.apply({}, array(-largest, largest))
        dx = vjp(array(1, 1))[1]
    expected = [limit if np.isfinite(limit) else np.copysign(largest, limit) for limit in (low, high)]
    np.testing.assert_allclose(y, expected, rtol=1e-6 if op.kind != "leaky_relu" else 0.9)
    np.testing.assert_allclose(dx, slopes, atol=1e-6)


def test_softmax_of_minus_infinity_is_zero() -> None:
    x = array(-INF, 0, 0)[None]
    y, vjp = softmax.apply({}, x)
    assert y.tolist() == [[0, 0.5, 0.5]]
    assert np.isfinite(vjp(array(1, 2, 3)[None])[1]).all()
    y, vjp = log_softmax.apply({}, x)
    assert y[0, 0] == -INF
    assert np.isfinite(vjp(array(1, 2, 3)[None])[1]).all()


# Norm layers


@pytest.mark.parametrize("op", [layer_norm(), layer_norm(2), group_norm(1), group_norm(2), batch_norm()], ids=repr)
@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-10, 1e10, 1e19, 1e30, 1.5e38])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norm_layers_neither_overflow_nor_mix_examples_of_different_scales(op: Op, scale: float, dtype: type) -> None:
    factor = scale if dtype == np.float32 else scale**7
    if factor == 0 or not np.isfinite(factor):
        pytest.skip("not a number of this dtype")
    base = np.random.default_rng(0).uniform(-1, 1, (5, 4, 6)).astype(np.float32).astype(np.float64)
    x: Array = base.astype(dtype)
    ordinary: Array = base.astype(dtype)
    part = np.s_[:, 1] if op.kind == "batch_norm" else np.s_[1]  # one channel, or one example
    x[part] *= dtype(factor)
    params = {name: leaf.astype(dtype) for name, leaf in op.init(0, x.shape[1:]).items()}
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y, vjp = op.apply(params, x, 1)
        dparams, dx = vjp(np.cos(base).astype(dtype))
    whole, vjp_whole = op.apply(params, ordinary, 1)
    dx_whole = vjp_whole(np.cos(base).astype(dtype))[1]
    tolerance = 2e-6 if dtype == np.float32 else 1e-12
    others = np.ones(x.shape, bool)
    others[part] = False
    np.testing.assert_allclose(y[others], whole[others], atol=tolerance)
    np.testing.assert_allclose(dx[others], dx_whole[others], atol=tolerance * 10)
    assert all(np.isfinite(leaf).all() for _, leaf in tree_items({"y": y, "dx": dx, "params": dparams}))
    if factor > 1e9:  # eps no longer matters
        exact = op.apply({name: leaf.astype(np.float64) for name, leaf in params.items()}, base * 1e9, 1)[0]
        np.testing.assert_allclose(y[part], exact[part], atol=tolerance)


def test_layer_norm_of_numbers_whose_squares_overflow() -> None:
    op = layer_norm()
    y, _ = op.apply(op.init(0, (4,)), array(1, 2, 3, 4)[None] * np.float32(1e19))
    np.testing.assert_allclose(y[0], [-1.3416408, -0.4472136, 0.4472136, 1.3416408], rtol=1e-6)


# Optimizers


@pytest.mark.parametrize("largest", [1e25, 3e38])
def test_clip_by_global_norm_clips_gradients_whose_squares_overflow(largest: float) -> None:
    optimizer = clip_by_global_norm(sgd(1.0), 1.0)
    params = {"w": np.zeros(2, np.float64), "b": np.zeros(1, np.float32)}
    grads = {"w": np.array([largest, 0]) ** (6 if largest < 1e30 else 1), "b": array(largest)}
    moved, _ = optimizer.update(params, grads, optimizer.init(params))
    norm = np.sqrt(sum(float(np.square(leaf.astype(float)).sum()) for _, leaf in tree_items(moved)))
    assert abs(norm - 1) < 1e-5


# Floating-point errors


@pytest.mark.filterwarnings("ignore::fnn.UncalibratedWarning")
@pytest.mark.parametrize("row", ROWS)
def test_operators_take_underflow_to_zero_as_correct(row: Row) -> None:
    rng = np.random.default_rng(0)
    x = row.x if row.x is not None else (40 * rng.standard_normal((row.batch, *row.shape))).astype(np.float32)
    params = row.op.init(0, row.shape)
    with np.errstate(all="raise"):
        y, vjp = row.op.apply(params, x, row.key)
        vjp(np.full_like(y, 2e-38))


@pytest.mark.parametrize("workers", [1, 2])
def test_training_steps_take_underflow_to_zero_as_correct(workers: int) -> None:
    from fnn import attention, conv, dense, flatten, shard

    net = serial(conv(3, 3), relu, maxpool(2), group_norm(1), flatten, dense(6), gelu, dense(4), log_softmax)
    sequences = serial(attention(2), layer_norm(), dense(4))
    optimizer = averaged(clip_by_global_norm(adam(0.1), 1e-30), 0.9)
    rng = np.random.default_rng(0)
    for op, shape in ((net, (2, 8, 8)), (sequences, (5, 4))):
        op = shard(op, workers=workers, size=2)
        params, x = op.init(0, shape), (1e3 * rng.standard_normal((4, *shape))).astype(np.float32)
        state = optimizer.init(params)
        with np.errstate(all="raise"):
            for _ in range(3):
                (value, _), grads = value_and_grad(op, cross_entropy)(params, x, np.arange(4))
                params, state = optimizer.update(params, grads, state)
        assert np.isfinite(value)


@pytest.mark.parametrize("loss", [cross_entropy, smoothed_cross_entropy(0.1)])
def test_cross_entropies_take_underflow_to_zero_as_correct(loss: Any) -> None:
    with np.errstate(all="raise"):
        value, vjp = loss(array(0, 1000)[None], np.array([0]))
        assert value > 900
        assert np.isfinite(vjp()).all()


@pytest.mark.parametrize("loss", [binary_cross_entropy, mse, huber()])
def test_other_losses_take_underflow_to_zero_as_correct(loss: Any) -> None:
    with np.errstate(all="raise"):
        value, vjp = loss(array(1e-30, 500), array(0, 1))
        assert np.isfinite(value)
        assert np.isfinite(vjp()).all()
