"""`global_avgpool`: the mean of each channel."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import OpError, global_avgpool
from fnn.testing import check_op
from tests.support.strategies import orders, seeds

shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


@given(shapes, st.integers(1, 4), seeds)
def test_check_op_of_global_avgpool(shape: tuple[int, ...], batch: int, seed: int) -> None:
    check_op(global_avgpool, shape, seed, batch=batch)


@given(shapes, seeds, orders)
def test_global_avgpool_is_the_mean_and_splits_the_gradient(shape: tuple[int, ...], seed: int, order: Any) -> None:
    x = np.random.default_rng(seed).standard_normal((2, *shape))
    y, vjp = global_avgpool.apply({}, order(x))
    np.testing.assert_allclose(y, x.mean((2, 3)), atol=1e-14)
    np.testing.assert_allclose(vjp(y)[1], np.broadcast_to(y[..., None, None], x.shape) / (shape[1] * shape[2]))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3,), "expected shape (batch, channels, height, width), got (0, 3)"),
        ((3, 4), "expected shape (batch, channels, height, width), got (0, 3, 4); for one example use x[None]"),
        ((2, 0, 4), "expected at least one pixel, got 0 x 4"),
        ((2, 4, 0), "expected at least one pixel, got 4 x 0"),
        ((1, 2, 3, 4), "expected shape (batch, channels, height, width), got (0, 1, 2, 3, 4)"),
    ],
)
def test_global_avgpool_init_refuses_shapes_that_are_no_images(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(OpError) as caught:
        global_avgpool.init(0, shape)
    assert str(caught.value) == f"global_avgpool: {message}"
