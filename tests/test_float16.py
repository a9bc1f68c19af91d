"""float16 is computed in float32 and rounded once."""

from typing import Any

import numpy as np
import pytest

from fnn import (
    averaged,
    batch_norm,
    binary_cross_entropy,
    conv,
    cross_entropy,
    dense,
    embedding,
    huber,
    maxpool,
    microbatch,
    mse,
    serial,
    sgd,
    smoothed_cross_entropy,
    tanh,
    tree_leaves,
    tree_map,
    tree_sum,
    value_and_grad,
)
from fnn.op import Array, OpError
from fnn.optim import average


def half(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.astype(np.float16), tree)


def drawn(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float16)


@pytest.mark.parametrize("count", [1000, 29_000, 94_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_cross_entropy_of_float16_counts_any_number_of_labels(count: int) -> None:
    logits, labels = drawn(count, 2), np.random.default_rng(1).integers(0, 2, count)
    for loss in (cross_entropy, smoothed_cross_entropy(0.1)):
        value, vjp = loss(logits, labels)
        expected, vjp_expected = loss(logits.astype(np.float32), labels)
        assert (type(value), value) == (np.float16, np.float16(expected))
        gradient = vjp()
        np.testing.assert_array_equal(gradient, vjp_expected().astype(np.float16))
        assert np.count_nonzero(gradient)


@pytest.mark.parametrize("count", [1000, 70_000, 300_000])
@pytest.mark.parametrize("loss", [huber(), binary_cross_entropy, mse])
def test_other_losses_of_float16_count_any_number(loss: Any, count: int) -> None:
    outputs, targets = drawn(count), np.random.default_rng(1).random(count).astype(np.float16)
    value, vjp = loss(outputs, targets)
    expected, vjp_expected = loss(outputs.astype(np.float32), targets.astype(np.float32))
    assert (type(value), value) == (np.float16, np.float16(expected))
    np.testing.assert_array_equal(vjp(), vjp_expected().astype(np.float16))
    assert np.count_nonzero(vjp())


def test_batch_norm_of_many_float16_numbers_is_finite() -> None:
    op, x = batch_norm(), drawn(100, 6, 28, 28)
    y, vjp = op.apply(half(op.init(0, x.shape[1:])), x, 1)
    assert y.dtype == np.float16
    assert np.abs(y.astype(float).mean((0, 2, 3))).max() < 1e-3
    dparams, dx = vjp(x / 100)
    assert all(np.isfinite(leaf).all() for leaf in [dx, *tree_leaves(dparams)])


def test_value_and_grad_in_float16_follows_float32() -> None:
    net = serial(conv(6, 3, padding=1), maxpool(2), tanh, dense(10))
    params, x, labels = net.init(0, (1, 12, 12)), drawn(50, 1, 12, 12), np.arange(50) % 10
    (value, _), grads = value_and_grad(net, cross_entropy)(half(params), x, labels)
    (expected, _), grads_expected = value_and_grad(net, cross_entropy)(
        half(params) and tree_map(lambda leaf: leaf.astype(np.float16).astype(np.float32), params),
        x.astype(np.float32),
        labels,
    )
    assert abs(float(value) / float(expected) - 1) < 1e-2
    for came, wanted in zip(tree_leaves(grads), tree_leaves(grads_expected), strict=True):
        assert came.dtype == np.float16
        assert np.abs(came - wanted).max() < 2e-2 * np.abs(wanted).max()


def test_tree_sum_of_float16_is_rounded_once() -> None:
    trees = [{"w": np.full(3, 0.1, np.float16)} for _ in range(1000)]
    total = tree_sum(trees)["w"]
    np.testing.assert_array_equal(total, np.full(3, 1000 * np.float32(np.float16(0.1)), np.float16))
    huge = [{"w": np.full(2, sign * 60_000.0, np.float16)} for sign in (1, 1, -1, -1)]
    assert tree_sum(huge)["w"].tolist() == [0, 0]


@pytest.mark.slow
def test_microbatch_adds_gradients_of_float16_in_float32() -> None:
    net, x = dense(1, bias=True), np.ones((3000, 1), np.float16)
    params = half(net.init(0, (1,)))
    dy = np.full((3000, 1), 0.1, np.float16)
    dparams, _ = microbatch(net, 1).apply(params, x)[1](dy)
    np.testing.assert_array_equal(dparams["b"], net.apply(params, x)[1](dy)[0]["b"])


def test_averaged_moves_the_average_of_float16_by_less_than_its_precision() -> None:
    optimizer = averaged(sgd(1.0), 0.999)
    params = {"w": np.ones(1, np.float16)}
    state = optimizer.init(params)
    for _ in range(2000):
        params, state = optimizer.update(params, {"w": np.zeros(1, np.float16)}, state)
    params = {"w": np.full(1, 2, np.float16)}
    before = average(state)["w"]
    _, state = optimizer.update(params, {"w": np.zeros(1, np.float16)}, state)
    assert before.dtype == np.float32
    assert 0 < average(state)["w"][0] - before[0] < 2e-3


def test_dense_refuses_float16_input_for_float32_params() -> None:
    net = dense(2)
    with pytest.raises(OpError, match="float16"):
        net.apply(net.init(0, (3,)), drawn(4, 3))


@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_embedding_of_float16_rounds_its_gradient_once(dtype: Any) -> None:
    op, symbols, dy = embedding(2, 64), np.zeros(3000, dtype), np.abs(drawn(3000, 64))
    _, vjp = op.apply(half(op.init(0, ())), symbols)
    dparams, dx = vjp(dy)
    np.testing.assert_array_equal(dparams["w"][0], dy.sum(0, dtype=float).astype(np.float16))
    assert (dparams["w"].dtype, dx.dtype, dx.shape) == (np.float16, np.float16, (3000,))


def test_serial_of_float16_rounds_the_output_of_each_part() -> None:
    first, second, x = dense(8), dense(3), drawn(20, 6)
    net = serial(first, second)
    params = half(net.init(0, (6,)))
    h, _ = first.apply(params["dense1"], x)
    y, _ = second.apply(params["dense2"], h)
    np.testing.assert_array_equal(net.apply(params, x)[0], y)
    wide, _ = net.apply(tree_map(lambda a: a.astype(np.float32), params), x.astype(np.float32))
    assert not np.array_equal(wide.astype(np.float16), y)
