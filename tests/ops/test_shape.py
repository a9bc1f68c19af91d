"""Flattening is a reshape, whatever the memory order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import orders

from fnn import flatten
from fnn.op import Array


@given(st.lists(st.integers(1, 4), max_size=4).map(tuple), orders)
def test_it_lists_each_examples_numbers_in_the_order_of_reading(shape: tuple[int, ...], order: object) -> None:
    assert callable(order)
    x: Array = np.arange(3.0 * np.prod(shape, dtype=int)).reshape(3, *shape)
    y, vjp = flatten.apply({}, order(x))
    assert np.array_equal(y, x.reshape(3, -1))
    assert np.array_equal(vjp(order(y))[1], x)


def test_features_pass_as_they_are() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(flatten.apply({}, x)[0], x)
