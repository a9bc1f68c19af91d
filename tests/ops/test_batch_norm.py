"""batch_norm in training and prediction, and `calibrate` for nested nets."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import (
    Op,
    OpError,
    UncalibratedWarning,
    batch_norm,
    calibrate,
    check_finite,
    conv,
    dense,
    dropout,
    freeze,
    microbatch,
    mse,
    named,
    parallel,
    per_example,
    positionwise,
    relu,
    remat,
    repeat,
    residual,
    serial,
    sgd,
    shard,
    shared,
    tanh,
    tree_items,
    tree_map,
    value_and_grad,
)
from fnn.combinators import wrap
from fnn.op import Params, Vjp
from fnn.random import Key
from fnn.testing import check_op
from tests.support.strategies import orders, seeds, slow_unless

ROWS = np.random.default_rng(0).normal(3, 2, (4, 6, 5)).astype(np.float32)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@given(shapes, st.integers(2, 4), seeds)
def test_check_op_of_batch_norm_in_training(shape: tuple[int, ...], batch: int, seed: int) -> None:
    check_op(batch_norm(eps=0.1), shape, seed, batch=batch, key=seed, exempt=["batch independence", *slow_unless(seed)])


@given(shapes, st.integers(1, 4), seeds)
def test_check_op_of_batch_norm_in_prediction(shape: tuple[int, ...], batch: int, seed: int) -> None:
    check_op(batch_norm(), shape, seed, batch=batch, exempt=["gradient in params", *slow_unless(seed)])


def test_batch_norm_without_a_key_uses_its_statistics() -> None:
    op = batch_norm(eps=1.0)
    params = {"w": np.array([2.0]), "b": np.array([1.0]), "mean": np.array([5.0]), "var": np.array([3.0])}
    y, vjp = op.apply(params, np.array([[5.0], [7.0]]))
    assert y.tolist() == [[1], [3]]
    dparams, dx = vjp(np.array([[1.0], [10.0]]))
    assert {name: leaf.tolist() for name, leaf in dparams.items()} == {"w": [10], "b": [11], "mean": [0], "var": [0]}
    assert dx.tolist() == [[1], [10]]


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_batch_norm_predicts_exactly_also_with_a_mean_far_from_zero(mean: float) -> None:
    rng = np.random.default_rng(0)
    exact = {"w": rng.random(3) + 0.5, "b": rng.random(3), "mean": mean + rng.random(3), "var": rng.random(3) + 0.1}
    params = tree_map(np.float32, exact)
    x, dy = rng.standard_normal((2, 50, 3)).astype(np.float32)
    x += np.float32(mean)
    y, vjp = batch_norm().apply(params, x)
    wide_y, wide_vjp = batch_norm().apply(tree_map(np.float64, params), x.astype(float))
    (dparams, dx), (wide_dparams, wide_dx) = vjp(dy), wide_vjp(dy.astype(float))
    np.testing.assert_allclose(y, wide_y, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(dx, wide_dx, rtol=1e-6)
    np.testing.assert_allclose(dparams["w"], wide_dparams["w"], atol=1e-6 * np.abs(dy).sum())


def test_batch_norm_does_not_depend_on_the_key() -> None:
    op = batch_norm()
    params = op.init(0, (6, 5))
    assert np.array_equal(op.apply(params, ROWS, 1)[0], op.apply(params, ROWS, 2)[0])
    with pytest.warns(UncalibratedWarning):
        assert not np.allclose(op.apply(params, ROWS, 1)[0], op.apply(params, ROWS)[0])


def test_optimizers_do_not_change_batch_norm_statistics() -> None:
    net = serial(dense(3), batch_norm())
    params = calibrate(net, net.init(0, (6, 5)), [ROWS])
    optimizer = sgd(0.1, momentum=0.9)
    for key in 0, None:
        _, grads = value_and_grad(net, mse)(params, ROWS, np.ones((4, 3), np.float32), key)
        after, _ = optimizer.update(params, grads, optimizer.init(params))
        for name in "mean", "var":
            assert np.array_equal(after["batch_norm1"][name], params["batch_norm1"][name])
        assert not np.array_equal(after["batch_norm1"]["w"], params["batch_norm1"]["w"])


@given(st.lists(st.integers(2, 5), min_size=1, max_size=4), shapes, seeds, orders)
def test_calibrate_averages_means_and_unbiased_variances(
    sizes: list[int], shape: tuple[int, ...], seed: int, order: Any
) -> None:
    rng = np.random.default_rng(seed)
    batches = [rng.normal(2, 3, (n, *shape)) for n in sizes]
    channels = [np.moveaxis(x, 1, 0).reshape(shape[0], -1) for x in batches]
    op = batch_norm()
    params = calibrate(op, tree_map(lambda a: a.astype(float), op.init(0, shape)), map(order, batches))
    np.testing.assert_allclose(params["mean"], np.mean([c.mean(1) for c in channels], 0))
    unbiased = [c.var(1) * c.shape[1] / (c.shape[1] - 1) for c in channels]
    np.testing.assert_allclose(params["var"], np.mean(unbiased, 0), atol=1e-12)


def test_calibrate_makes_prediction_equal_training_on_the_batch() -> None:
    net = serial(conv(4, 3), batch_norm(), relu, conv(3, 2), batch_norm(), dense(2), batch_norm())
    x = np.random.default_rng(0).standard_normal((300, 2, 6, 6))
    params = tree_map(lambda a: a.astype(float), net.init(0, (2, 6, 6)))
    there = calibrate(net, params, [x])
    np.testing.assert_allclose(net.apply(there, x)[0], net.apply(params, x, 0)[0], rtol=0.01, atol=0.01)
    with pytest.warns(UncalibratedWarning, match="^batch_norm1, batch_norm2, batch_norm3: "):
        assert not np.allclose(net.apply(params, x)[0], net.apply(params, x, 0)[0], rtol=0.5, atol=0.5)


block = serial(dense(5), batch_norm(), tanh)
SAME: list[Callable[[Op], Op]] = [remat, check_finite, lambda op: named("block", op), lambda op: shard(op, 1, 64)]


@pytest.mark.parametrize("wrap", SAME)
def test_calibrate_gives_the_same_through_wrappers(wrap: Callable[[Op], Op]) -> None:
    x = ROWS[:, :, 0]
    params = block.init(0, (6,))
    wanted = dict(tree_items(calibrate(block, params, [x, 2 * x])))
    for path, leaf in tree_items(calibrate(wrap(block), params, [x, 2 * x])):
        assert np.array_equal(leaf, wanted[path])


@pytest.mark.parametrize(
    "net",
    [
        residual(serial(dense(6), batch_norm())),
        parallel(block, serial(batch_norm(), dense(5))),
        repeat(block, 3),
        serial(residual(repeat(serial(dense(6), batch_norm()), 2)), dropout(0.5), shard(block, 2, 2)),
        remat(microbatch(named("inner", serial(dense(4), batch_norm(), tanh)), 2)),
    ],
    ids=repr,
)
def test_calibrate_changes_every_batch_norm_and_nothing_else(net: Op) -> None:
    params = net.init(0, (6,))
    there = dict(tree_items(calibrate(net, params, [ROWS[:, :, 0], ROWS[:, :, 1]])))
    before = dict(tree_items(params))
    assert sum(path.endswith("/mean") for path in before) > 0
    for path, leaf in there.items():
        assert leaf.dtype == np.float32
        assert np.array_equal(leaf, before[path]) is not path.endswith(("/mean", "/var"))


def test_calibrate_weighs_shared_uses_and_pieces_equally() -> None:
    x = ROWS[:, :, 0].astype(float)
    op = batch_norm()
    params = tree_map(lambda a: a.astype(float), op.init(0, (6,)))
    halves = calibrate(microbatch(op, 2), params, [x])
    np.testing.assert_allclose(halves["mean"], x.mean(0))
    np.testing.assert_allclose(halves["var"], (x[:2].var(0, ddof=1) + x[2:].var(0, ddof=1)) / 2)
    twice = calibrate(shared(op, 2), {"batch_norm1": params}, [x])["batch_norm1"]
    np.testing.assert_allclose(twice["mean"], x.mean(0) / 2, atol=1e-12)


def test_calibrate_does_not_change_frozen_batch_norm() -> None:
    params = block.init(0, (6,))
    before, there = dict(tree_items(params)), calibrate(freeze(block), params, [ROWS[:, :, 0]])
    assert all(np.array_equal(leaf, before[path]) for path, leaf in tree_items(there))


def test_freeze_of_batch_norm_keeps_params_and_results() -> None:
    x, params = ROWS[:, :, 0], block.init(0, (6,))
    there = calibrate(block, params, [x])
    for key in 0, None:
        assert np.array_equal(freeze(block).apply(there, x, key)[0], block.apply(there, x, key)[0])


def test_calibrate_is_pure() -> None:
    params: Params = tree_map(lambda a: a.copy(), block.init(0, (6,)))
    for _, leaf in tree_items(params):
        leaf.flags.writeable = False
    x = ROWS[:, :, 0].copy()
    x.flags.writeable = False
    one, other = (dict(tree_items(calibrate(block, params, [x]))) for _ in range(2))
    assert all(np.array_equal(one[path], other[path]) for path in one)


def test_calibrate_passes_its_key_to_random_operators() -> None:
    net = serial(dropout(0.5), batch_norm())
    params = net.init(0, (6, 5))

    def mean(rng: int) -> list[float]:
        return calibrate(net, params, [ROWS], rng)["batch_norm1"]["mean"].tolist()  # type: ignore[no-any-return]

    assert mean(0) == mean(0) != mean(1)
    twice = calibrate(net, params, [ROWS, ROWS], 0)["batch_norm1"]["mean"]
    assert not np.allclose(twice, mean(0))  # two batches share no draws


def test_calibrate_folds_the_number_of_the_batch_into_the_key_which_is_0_by_default() -> None:
    keys: list[Key | None] = []

    def apply(params: Params, x: Any, key: Key | None) -> tuple[Any, Vjp]:
        keys.append(key)
        return x, lambda dy, need_dx=True: ({}, dy)

    net = Op(lambda key, shape: {}, apply, takes_key=True)
    calibrate(net, {}, [ROWS, ROWS])
    calibrate(net, {}, [ROWS], 7)
    assert keys == [Key(0, (0,)), Key(0, (1,)), Key(7, (0,))]


def test_calibrate_refuses_no_batches_and_empty_ones() -> None:
    op = batch_norm()
    params = op.init(0, (6, 5))
    with pytest.raises(ValueError, match=r"^calibrate: expected at least one batch, got none$"):
        calibrate(op, params, [])
    with pytest.raises(ValueError, match=r"^calibrate: expected batches of at least one example, got "):
        calibrate(op, params, [ROWS, ROWS[:0]])


@pytest.mark.parametrize("wrap", [lambda op: op, lambda op: microbatch(op, 2), lambda op: microbatch(op, 1)])
def test_calibrate_refuses_pieces_of_one_number(wrap: Callable[[Op], Op]) -> None:
    net = wrap(serial(dense(2), batch_norm()))
    x = np.ones((1 if net.kind == "serial" else 3, 4), np.float32)
    with pytest.raises(
        OpError, match=r"^batch_norm1: expected at least 2 numbers of each channel .*, got float32 \(1, 2\)"
    ):
        calibrate(net, net.init(0, (4,)), [x])


def test_calibrate_skips_empty_pieces() -> None:
    x = np.random.default_rng(0).normal(3, 2, (5, 3, 2)).astype(np.float32)  # five examples of three positions
    net = positionwise(batch_norm())
    params = net.init(0, (3, 2))
    pieces = [slice(i, i + 1) for i in range(5)]
    wanted = [calibrate(net, params, [x[piece]]) for piece in pieces]

    def apply_pieces(params: Params, x: np.ndarray, key: Key | None) -> tuple[np.ndarray, Vjp]:
        net.apply(params, x[:0], key)
        return microbatch(net, 1).apply(params, x, key)

    came = calibrate(wrap(net, apply_pieces), params, [x])
    for name in "mean", "var":
        np.testing.assert_allclose(came[name], np.mean([one[name] for one in wanted], 0), rtol=1e-6)


ONE = r"expected at least 2 examples in training, got 1, .*larger batch .*group_norm$"


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 5), (3, 2, 4, 5)])
def test_batch_norm_refuses_to_train_on_one_example(shape: tuple[int, ...]) -> None:
    op = batch_norm()
    batch = np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)
    params = calibrate(op, op.init(0, shape), [batch])
    x = np.ones((2, *shape), np.float32)
    with pytest.raises(OpError, match=f"^batch_norm: {ONE}"):
        op.apply(params, x[:1], 0)
    assert op.apply(params, x[:1])[0].shape == x[:1].shape  # prediction takes one
    assert op.apply(params, x, 0)[0].shape == x.shape
    y, vjp = op.apply(params, x[:0], 0)
    grads, dx = vjp(y)
    assert dx.shape == x[:0].shape
    assert all(not leaf.any() for leaf in grads.values())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda op: microbatch(op, 2),
        lambda op: microbatch(op, 1),
        lambda op: freeze(remat(check_finite(microbatch(op, 1)))),
    ],
)
def test_batch_norm_refuses_pieces_of_one_example(wrap: Callable[[Op], Op]) -> None:
    net = wrap(serial(dense(2), residual(batch_norm())))
    with pytest.raises(OpError, match=f"^residual1/batch_norm1: {ONE}"):
        value_and_grad(net, mse)(net.init(0, (4,)), np.ones((3, 4), np.float32), np.ones((3, 2), np.float32), 0)


def test_batch_norm_refuses_the_batches_of_per_example() -> None:
    net = serial(dense(2), batch_norm())
    params = calibrate(net, net.init(0, (4,)), [np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)])
    x, y = np.ones((3, 4), np.float32), np.ones((3, 2), np.float32)
    with pytest.raises(OpError, match=f"^batch_norm1: {ONE}"):
        per_example(net, mse)(params, x, y, 0)
    assert len(per_example(net, mse)(params, x, y, None)[0][0]) == 3


def test_batch_norm_in_positionwise_trains_on_one_example() -> None:
    net = positionwise(batch_norm())
    assert net.apply(net.init(0, (3, 2)), np.ones((1, 3, 2), np.float32), 0)[0].shape == (1, 3, 2)
