"""`flatten` and `reshape` keep the order of the numbers, in any memory order."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import OpError, flatten, reshape
from fnn.op import Array
from fnn.testing import check_op
from tests.support.strategies import orders, seeds


@given(st.lists(st.integers(1, 4), max_size=4).map(tuple), orders)
def test_flatten_keeps_the_order_of_numbers(shape: tuple[int, ...], order: object) -> None:
    assert callable(order)
    x: Array = np.arange(3.0 * np.prod(shape, dtype=int)).reshape(3, *shape)
    y, vjp = flatten.apply({}, order(x))
    assert np.array_equal(y, x.reshape(3, -1))
    assert np.array_equal(vjp(order(y))[1], x)


def test_flatten_passes_features_unchanged() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(flatten.apply({}, x)[0], x)


@given(st.permutations([1, 2, 3, 4]), st.sampled_from(list(permutations([2, 3, 4]))), orders, st.integers(-1, 2))
def test_reshape_keeps_the_order_of_numbers(
    shape: list[int], new: tuple[int, ...], order: object, open_axis: int
) -> None:
    assert callable(order)
    x: Array = np.arange(48.0).reshape(2, *shape)
    y, vjp = reshape(*(-1 if i == open_axis else n for i, n in enumerate(new))).apply({}, order(x))
    assert np.array_equal(y, x.reshape(2, *new))
    assert np.array_equal(vjp(order(y))[1], x)


@given(st.sampled_from([(12,), (-1,), (3, -1), (2, 6), (2, 2, 3), (2, 1, -1, 3)]), seeds)
def test_check_op_of_any_reshape(new: tuple[int, ...], seed: int) -> None:
    check_op(reshape(*new), (3, 4), seed)
    check_op(reshape(*new), (1, 4, 3), seed)


def test_reshape_infers_minus_one_for_an_empty_batch() -> None:
    assert reshape(2, -1).output_shape({}, (3, 4)) == (2, 6)
    assert reshape(-1).output_shape({}, ()) == (1,)
    assert reshape().output_shape({}, (1, 1)) == ()


@pytest.mark.parametrize("shape", [(-1, 5), (5,), (0, -1), (2, 7), ()])
def test_reshape_init_refuses_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(OpError) as caught:
        reshape(*shape).init(0, (3, 4))
    assert str(caught.value) == f"reshape: expected examples that fit shape {shape}, got 12 numbers in (3, 4)"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((-1, -1), "shape: expected at most one -1, got (-1, -1)"),
        ((-2,), "shape: expected an int of at least -1, got -2"),
        (("2",), "shape: expected an int of at least -1, got '2'"),
        ((True,), "shape: expected an int of at least -1, got True"),
        (((2, 3),), "expected reshape(*sizes), got reshape((2, 3)); unpack it with *"),
    ],
)
def test_reshape_refuses_what_is_no_shape(shape: tuple[Any, ...], message: str) -> None:
    with pytest.raises(OpError) as caught:
        reshape(*shape)
    assert str(caught.value) == f"reshape: {message}"
