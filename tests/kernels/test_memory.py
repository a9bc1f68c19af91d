"""Memory orders: functions return views if the order is already right, else copies, with the same numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import Op, conv, dense, flatten, maxpool, tanh
from fnn.kernels.memory import CACHED, from_features, from_wchn, map_blocks, memory_order, to_features, to_wchn
from fnn.op import Array
from tests.support.strategies import orders

IMAGES = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


@given(orders)
def test_to_wchn_is_contiguous_with_width_first_and_batch_last(order: object) -> None:
    assert callable(order)
    memory = to_wchn(order(IMAGES))
    assert memory.shape == (5, 3, 4, 2)
    assert memory.flags.c_contiguous
    assert all(memory[w, c, h, n] == IMAGES[n, c, h, w] for n, c, h, w in np.ndindex(IMAGES.shape))
    assert np.array_equal(from_wchn(memory), IMAGES)


def test_to_wchn_does_not_copy_wchn_memory() -> None:
    memory = to_wchn(IMAGES)
    assert np.shares_memory(from_wchn(memory), memory)
    assert np.shares_memory(to_wchn(from_wchn(memory)), memory)


@given(st.lists(st.integers(1, 4), max_size=4).map(tuple), orders)
def test_to_features_keeps_rows_and_else_makes_columns(shape: tuple[int, ...], order: object) -> None:
    assert callable(order)
    x: Array = order(np.arange(3.0 * np.prod(shape, dtype=int)).reshape(3, *shape))
    h = to_features(x)
    assert np.array_equal(h, x.reshape(3, -1))
    assert np.array_equal(from_features(h, shape), x)
    assert np.array_equal(from_features(order(h), shape), x)
    assert np.shares_memory(h, x) if x.flags.c_contiguous else h.T.flags.c_contiguous


def columns(x: Array) -> Array:
    """Returns features with contiguous columns."""
    return np.asfortranarray(x.reshape(len(x), -1))


def test_from_features_of_columns_gives_images_in_the_fast_order() -> None:
    batch = from_features(columns(np.arange(24.0).reshape(2, 12)), (3, 2, 2))
    assert np.shares_memory(to_wchn(batch), batch)


def test_operators_return_the_memory_order_of_the_next_operator() -> None:
    for op in (conv(2, 3), maxpool(2)):
        y, vjp = op.apply(op.init(0, (3, 4, 5)), IMAGES)
        assert np.shares_memory(to_wchn(y), y)
        _, dx = vjp(y)
        assert np.shares_memory(to_wchn(dx), dx)
    images = from_wchn(to_wchn(IMAGES))
    y, _ = tanh.apply({}, images)
    assert np.shares_memory(to_wchn(y), y)
    layer = dense(3)
    y, _ = layer.apply(layer.init(0, (3, 4, 5)), images)
    assert y.T.flags.c_contiguous
    assert flatten.apply({}, images)[0].T.flags.c_contiguous


@pytest.mark.parametrize("shape", [(30,), (3, 2, 5)])
@pytest.mark.parametrize("layer", [dense(4), flatten])
def test_operators_of_features_keep_the_memory_order_of_their_input(layer: Op, shape: tuple[int, ...]) -> None:
    x = np.ones((2, *shape), np.float32)
    params = layer.init(0, shape)
    y, vjp = layer.apply(params, x)
    assert y.flags.c_contiguous
    assert vjp(y)[1].flags.c_contiguous
    x = from_features(columns(x), shape)
    y, vjp = layer.apply(params, x)
    assert y.T.flags.c_contiguous
    assert vjp(y)[1].strides == x.strides


@pytest.mark.parametrize(("length", "blocks"), [(1, 1), (3, 1), (5, 5), (9, 9), (11, 11)])
def test_map_blocks_cuts_large_arrays_along_the_first_axis(length: int, blocks: int) -> None:
    x, whole = np.arange(float(length * CACHED)).reshape(length, CACHED), np.ones((1, CACHED))
    parts = map_blocks(lambda a, b: (a, b), x, whole)
    assert len(parts) == blocks
    assert np.array_equal(np.concatenate([a for a, _ in parts]), x)
    assert all(b is whole for _, b in parts)


def test_map_blocks_cuts_arrays_of_two_rows() -> None:
    x = np.ones((2, 2 * CACHED), np.float32)
    assert map_blocks(lambda a, b: (a.shape, b.shape), x, x) == [((1, 2 * CACHED), (1, 2 * CACHED))] * 2


def test_memory_order_is_from_the_outermost_axis_to_the_innermost() -> None:
    memory = np.empty((4, 3, 1, 5))
    order, back = memory_order(memory.transpose(3, 2, 0, 1).shape, memory.transpose(3, 2, 0, 1).strides)
    assert memory.transpose(3, 2, 0, 1).transpose(order).shape == (4, 3, 5, 1)
    assert [order[axis] for axis in back] == [0, 1, 2, 3]
