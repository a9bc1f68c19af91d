"""`dropout`: its rate and scale, and that its mask depends only on the key."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import Key, Op, OpError, dense, dropout, remat, serial, shard, tanh
from fnn.op import Array
from fnn.testing import check_op
from tests.support.strategies import seeds

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def mask(op: Op, shape: tuple[int, ...], key: Key | int) -> Array:
    """Applies `op` to ones."""
    y, _ = op.apply(op.init(0, shape[1:]), np.ones(shape, np.float32), key)
    return y


@given(st.floats(0, 0.95), shapes, st.none() | seeds)
def test_check_op_of_dropout(rate: float, shape: tuple[int, ...], key: int | None) -> None:
    check_op(dropout(rate), shape, key=key, batch=3)


@given(st.floats(0, 0.9), seeds)
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate: float, seed: int) -> None:
    y = mask(dropout(rate), (100, 100), seed)
    assert np.unique(y[y != 0]).tolist() == [np.float32(1) / np.float32(1 - rate)]
    assert np.mean(y == 0) == pytest.approx(rate, abs=0.03)


def test_dropout_without_a_key_is_the_identity() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y, vjp = dropout(0.9).apply({}, x)
    assert np.array_equal(y, x)
    assert np.array_equal(vjp(y)[1], x)


def test_dropout_gradient_is_zero_or_the_scale() -> None:
    x = np.random.default_rng(0).standard_normal((5, 7))
    y, vjp = dropout(0.5).apply({}, x, 0)
    assert np.array_equal(y, x * vjp(np.ones_like(y))[1])


@given(st.integers(1, 5), seeds)
def test_dropout_mask_depends_only_on_key_and_position(n: int, seed: int) -> None:
    whole = mask(dropout(0.5), (5, 3, 3), seed)
    assert np.array_equal(mask(dropout(0.5), (n, 3, 3), seed), whole[:n])


def test_dropout_mask_is_the_same_in_any_memory_order_and_dtype() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 6))
    wanted, _ = dropout(0.5).apply({}, x, 0)
    assert np.array_equal(dropout(0.5).apply({}, np.asfortranarray(x), 0)[0], wanted)
    assert np.array_equal(dropout(0.5).apply({}, x.astype(np.float32), 0)[0] == 0, wanted == 0)


def test_dropout_masks_differ_between_layers_shards_and_steps() -> None:
    # Of two in a row, a number comes through both in a quarter of the cases, and not in half.
    assert np.mean(mask(serial(dropout(0.5), dropout(0.5)), (100, 100), 0) > 0) == pytest.approx(0.25, abs=0.02)
    whole = mask(shard(dropout(0.5), workers=1, size=2), (4, 30), 0)
    assert not np.array_equal(whole[:2], whole[2:])
    one, other = (mask(dropout(0.5), (4, 30), Key(0).fold(step)) for step in (0, 1))
    assert not np.array_equal(one, other)


def test_dropout_mask_is_the_same_for_any_workers_and_in_remat() -> None:
    net = serial(dense(8), dropout(0.5), tanh)
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    params = net.init(0, (5,))

    def results(op: Op) -> list[Array]:
        y, vjp = op.apply(params, x, 3)
        dparams, dx = vjp(np.ones_like(y))
        return [y, dx, dparams["dense1"]["w"]]

    for one, other in ((net, remat(net)), (shard(net, 1, size=2), shard(net, 3, size=2))):
        assert all(np.array_equal(a, b) for a, b in zip(results(one), results(other), strict=True))


def test_dropout_rate_may_be_a_numpy_scalar() -> None:
    for scalar in np.float64(0.3), np.float32(0.3):
        y = mask(dropout(scalar), (100, 100), 0)  # type: ignore[arg-type]
        assert y.dtype == np.float32
        assert np.array_equal(y, mask(dropout(float(scalar)), (100, 100), 0))


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, np.nan, "0.5", None])
def test_dropout_refuses_bad_rates(rate: Any) -> None:
    with pytest.raises(OpError) as caught:
        dropout(rate)
    wanted = "expected a finite number of at least 0 and below 1"
    assert str(caught.value) == f"dropout: rate: {wanted}, got {rate!r}"
