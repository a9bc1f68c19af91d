"""Embeddings of symbols and of positions, and the integers that operators may take."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import (
    Key,
    Op,
    OpError,
    dense,
    embedding,
    microbatch,
    mse,
    named,
    parallel,
    position_embedding,
    positionwise,
    remat,
    serial,
    shard,
    tanh,
    value_and_grad,
)
from fnn.op import Array
from fnn.testing import check_op
from tests.support.strategies import seeds


@given(st.integers(1, 5), st.integers(1, 4), st.lists(st.integers(0, 4), max_size=2).map(tuple), seeds)
def test_check_op_of_embedding(n: int, features: int, shape: tuple[int, ...], seed: int) -> None:
    check_op(embedding(n, features), shape, seed, x=np.random.default_rng(seed).integers(0, n, (3, *shape)))


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (lambda w_init: embedding(5, 3, w_init), (), ("w", (5, 3), 1, 3)),
        (position_embedding, (7, 3), ("w", (7, 3), 1, 3)),
    ],
)
def test_embeddings_tell_the_initialiser_that_each_symbol_is_one_input(
    make: Any, shape: tuple[int, ...], expected: tuple[Any, ...]
) -> None:
    def w_init(key: Key, size: tuple[int, ...], *fans: int) -> Array:
        calls.append((key.path[-1], size, *fans))
        return np.zeros(size, np.float32)

    calls: list[tuple[Any, ...]] = []
    make(w_init).init(0, shape)
    assert calls == [expected]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
def test_embedding_looks_up_rows_and_adds_their_gradients(dtype: type) -> None:
    op = embedding(4, 2)
    w = np.arange(8.0).reshape(4, 2)
    x: Array = np.array([[3, 0, 3]], dtype)
    y, vjp = op.apply({"w": w}, x)
    assert y.tolist() == [[[6, 7], [0, 1], [6, 7]]]
    dparams, dx = vjp(np.array([[[1.0, 2], [3, 4], [5, 6]]]))
    assert dparams["w"].tolist() == [[3, 4], [0, 0], [0, 0], [6, 8]]
    assert dx.shape == x.shape
    assert not dx.any()


def test_embedding_init_has_variance_one() -> None:
    w = embedding(200, 50).init(0, ())["w"]
    assert w.shape == (200, 50)
    assert w.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("value", "came"), [(-1, "-1 to 0"), (3, "0 to 3")])
def test_embedding_refuses_integers_without_a_row(value: int, came: str) -> None:
    op = embedding(3, 2)
    with pytest.raises(OpError) as caught:
        op.apply(op.init(0, (2,)), np.array([[0, value]]))
    assert str(caught.value) == f"embedding: expected integers from 0 to 2, got {came}"


def test_embedding_refuses_floats() -> None:
    op = embedding(3, 2)
    with pytest.raises(OpError) as caught:
        op.apply(op.init(0, (2,)), np.zeros((4, 2)))
    message = "embedding: expected an array of integers, got float64 (4, 2); use x.astype(np.int64)"
    assert str(caught.value) == message


def test_operators_of_floats_refuse_integers() -> None:
    op = dense(3)
    with pytest.raises(OpError) as caught:
        op.apply(op.init(0, (2,)), np.zeros((4, 2), int))
    assert str(caught.value) == "dense: expected an array of floats, got int64 (4, 2); use x.astype(np.float32)"


@pytest.mark.parametrize(
    ("n", "features", "came"), [(0, 2, "n: 0"), (2, 0, "features: 0"), (2.0, 2, "n: 2.0"), (2, "2", "features: '2'")]
)
def test_embedding_refuses_bad_sizes(n: Any, features: Any, came: str) -> None:
    with pytest.raises(OpError) as caught:
        embedding(n, features)
    assert str(caught.value) == "embedding: {}: expected an int of at least 1, got {}".format(*came.split(": "))


NETS = [
    serial(embedding(5, 4), dense(3)),
    serial(serial(embedding(5, 4)), tanh),
    parallel(embedding(5, 4), embedding(5, 4)),
    positionwise(embedding(5, 4)),
    serial(named("symbols", embedding(5, 4)), dense(2)),
    remat(serial(embedding(5, 4), dense(3))),
    microbatch(serial(embedding(5, 4), dense(3)), 2),
    shard(serial(embedding(5, 4), dense(3)), 1, 2),
]


@pytest.mark.parametrize("net", NETS, ids=repr)
def test_composites_take_integers_if_their_first_part_does(net: Op) -> None:
    assert net.integers
    x = np.random.default_rng(0).integers(0, 5, (6, 3))
    check_op(net, (3,), x=x)
    y, _ = net.apply(net.init(0, (3,)), x)
    (_, out), grads = value_and_grad(net, mse)(net.init(0, (3,)), x, np.zeros_like(y))
    assert out.dtype == np.float32
    assert grads.keys() == net.init(0, (3,)).keys()


@given(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4), seeds)
def test_check_op_of_position_embedding(time: int, features: int, batch: int, seed: int) -> None:
    check_op(position_embedding(), (time, features), seed, batch=batch)


def test_position_embedding_adds_the_first_rows_to_shorter_sequences() -> None:
    w = np.arange(6.0).reshape(3, 2)
    y, vjp = position_embedding().apply({"w": w}, np.ones((2, 2, 2)))
    assert y.tolist() == [[[1, 2], [3, 4]]] * 2
    dparams, dx = vjp(np.ones_like(y))
    assert dparams["w"].tolist() == [[2, 2], [2, 2], [0, 0]]
    assert np.array_equal(dx, np.ones_like(y))


@pytest.mark.parametrize("shape", [(3,), (), (2, 3, 4)])
def test_position_embedding_init_refuses_bad_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(OpError) as caught:
        position_embedding().init(0, shape)
    assert str(caught.value) == f"position_embedding: expected shape (time, features), got {shape}"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((2, 4, 2)), "expected at most 3 positions, got 4"),
        (np.ones((2, 3, 5)), "expected 2 input features, got 5"),
        (np.ones((2, 2)), "expected shape (batch, time, 2), got (2, 2); for one example use x[None]"),
        (np.ones((2, 3, 2), "f"), "expected float64 input as the params are, got float32; use x.astype(np.float64)"),
    ],
)
def test_position_embedding_refuses_longer_sequences_and_other_features(x: Any, message: str) -> None:
    with pytest.raises(OpError) as caught:
        position_embedding().apply({"w": np.ones((3, 2))}, x)
    assert str(caught.value) == f"position_embedding: {message}"
