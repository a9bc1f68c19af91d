"""`positionwise`: an operator at every position of a sequence."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import Op, OpError, conv, dense, positionwise, serial, softmax, tanh
from fnn.testing import check_op
from tests.support.strategies import orders, seeds, slow_unless


@pytest.mark.parametrize(
    ("op", "shape"),
    [(dense(3), (2,)), (serial(dense(4), tanh, dense(2)), (3,)), (conv(2, 2), (1, 3, 3)), (softmax, (4,))],
)
@given(st.integers(0, 4), st.integers(1, 3), seeds)
def test_check_op_of_positionwise(op: Op, shape: tuple[int, ...], time: int, batch: int, seed: int) -> None:
    check_op(positionwise(op), (time, *shape), seed, batch=batch, exempt=slow_unless(seed))


def test_positionwise_repr_is_its_call() -> None:
    assert repr(positionwise(dense(3))) == "positionwise(dense(3))"


@given(seeds, orders)
def test_positionwise_applies_the_operator_at_each_position(seed: int, order: Any) -> None:
    op, rng = dense(4), np.random.default_rng(seed)
    params = {"w": rng.standard_normal((5, 4)), "b": rng.standard_normal(4)}
    x = rng.standard_normal((2, 3, 5))
    y, vjp = positionwise(op).apply(params, order(x))
    np.testing.assert_allclose(y, x @ params["w"] + params["b"], atol=1e-12)
    dparams, dx = vjp(order(y))
    np.testing.assert_allclose(dparams["w"], np.einsum("bti,bto->io", x, y), atol=1e-12)
    np.testing.assert_allclose(dx, y @ params["w"].T, atol=1e-12)


def test_positionwise_has_the_params_and_name_of_its_operator() -> None:
    net = serial(positionwise(dense(4)), tanh)
    assert net.init(0, (3, 5))["dense1"]["w"].shape == (5, 4)
    assert np.array_equal(net.init(0, (3, 5))["dense1"]["w"], serial(dense(4)).init(0, (5,))["dense1"]["w"])


def test_positionwise_refuses_inputs_without_positions() -> None:
    with pytest.raises(OpError) as caught:
        positionwise(tanh).init(0, ())
    assert str(caught.value) == "positionwise: expected shape (time, ...), got ()"
    with pytest.raises(OpError) as caught:
        positionwise(tanh).apply({}, np.zeros(3))
    assert str(caught.value) == "positionwise: expected shape (batch, time, ...), got (3,)"


def test_positionwise_refuses_what_is_no_operator() -> None:
    for value, came in (3, "3"), (dense, "the function dense; call it: dense(...)"):
        with pytest.raises(OpError) as caught:
            positionwise(value)  # type: ignore[arg-type]
        assert str(caught.value) == f"positionwise: expected an operator, got {came}"
