"""Initialisers: their distributions, and operators that take them."""

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import (
    Key,
    Op,
    attention,
    batch_norm,
    conv,
    conv_transpose,
    dense,
    embedding,
    group_norm,
    layer_norm,
    position_embedding,
)
from fnn.init import (
    Initialiser,
    constant,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    lecun_normal,
    lecun_uniform,
    ones,
    orthogonal,
    truncated_normal,
    zeros,
)
from fnn.op import Array

ALL = [
    glorot_uniform,
    glorot_normal,
    he_uniform,
    he_normal,
    lecun_uniform,
    lecun_normal,
    orthogonal,
    truncated_normal(0.5),
    constant(3),
    zeros,
    ones,
]
VARIANCES: list[tuple[Initialiser, Initialiser, Callable[[int, int], float]]] = [
    (glorot_uniform, glorot_normal, lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    (he_uniform, he_normal, lambda fan_in, fan_out: 2 / fan_in),
    (lecun_uniform, lecun_normal, lambda fan_in, fan_out: 1 / fan_in),
]


@pytest.mark.parametrize("init", ALL)
@given(st.lists(st.integers(0, 4), max_size=4).map(tuple), st.integers(0, 9), st.integers(0, 9))
def test_initialisers_return_float32_that_depends_on_the_key(
    init: Initialiser, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> None:
    one = init(Key(0), shape, fan_in, fan_out)
    assert one.shape == shape
    assert one.dtype == np.float32
    assert np.array_equal(one, init(Key(0), shape, fan_in, fan_out))
    assert np.isfinite(one).all()


@pytest.mark.parametrize("init", [init for pair in VARIANCES for init in pair[:2]] + [orthogonal, truncated_normal(1)])
def test_initialisers_differ_between_keys(init: Initialiser) -> None:
    assert not np.isclose(init(Key(0), (3, 4), 3, 4), init(Key(1), (3, 4), 3, 4)).any()


@pytest.mark.parametrize(("uniform", "normal", "variance"), VARIANCES)
@pytest.mark.parametrize("fans", [(300, 100), (100, 300)])
def test_initialisers_have_the_variances_of_the_papers(
    uniform: Initialiser, normal: Initialiser, variance: Callable[[int, int], float], fans: tuple[int, int]
) -> None:
    expected = variance(*fans)
    drawn = uniform(Key(0), (300, 100), *fans)
    assert drawn.var() == pytest.approx(expected, rel=0.03)
    assert 0.99 * sqrt(3 * expected) < np.abs(drawn).max() <= np.float32(sqrt(3 * expected))
    drawn = normal(Key(0), (300, 100), *fans)
    assert drawn.var() == pytest.approx(expected, rel=0.03)
    assert np.mean(np.abs(drawn) < sqrt(expected)) == pytest.approx(0.6827, abs=0.01)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple), st.integers(0, 99))
def test_orthogonal_times_its_transpose_is_the_identity(shape: tuple[int, ...], seed: int) -> None:
    matrix: Array = orthogonal(Key(seed), shape, 0, 0).reshape(shape[0], prod(shape[1:]))
    if shape[0] > prod(shape[1:]):
        matrix = matrix.T
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-6)


def test_orthogonal_has_both_signs_equally_often() -> None:
    numbers = np.array([orthogonal(Key(seed), (2, 2), 0, 0) for seed in range(400)])
    assert np.abs(numbers.mean(0)).max() < 0.15
    assert np.mean(np.linalg.det(numbers) > 0) == pytest.approx(0.5, abs=0.1)


def test_truncated_normal_ends_at_two_deviations() -> None:
    drawn = truncated_normal(0.5)(Key(0), (300, 100), 0, 0)
    assert 0.99 < np.abs(drawn).max() <= 1
    # Of the normal distribution cut off at 2, the variance is 0.7737 and a share of 0.7153 within 1.
    assert drawn.var() == pytest.approx(0.25 * 0.7737, rel=0.03)
    assert np.mean(np.abs(drawn) < 0.5) == pytest.approx(0.7153, abs=0.01)


def test_constant_initialisers() -> None:
    assert constant(3)(Key(0), (2,), 1, 1).tolist() == [3, 3]
    assert zeros(Key(0), (2,), 1, 1).tolist() == [0, 0]
    assert ones(Key(0), (2,), 1, 1).tolist() == [1, 1]


LAYERS: list[tuple[Callable[..., Op], tuple[Any, ...], tuple[int, ...], bool]] = [
    (dense, (3,), (4,), True),
    (conv, (3, 2), (2, 4, 4), True),
    (conv_transpose, (3, 2), (2, 4, 4), True),
    (attention, (2,), (3, 4), True),
    (layer_norm, (), (3, 4), True),
    (group_norm, (2,), (4, 3), True),
    (batch_norm, (), (4, 3), True),
    (embedding, (3, 4), (2,), False),
    (position_embedding, (), (3, 4), False),
]


@pytest.mark.parametrize(("make", "args", "shape", "bias"), LAYERS, ids=lambda value: getattr(value, "__name__", ""))
def test_operators_take_initialisers(
    make: Callable[..., Op], args: tuple[Any, ...], shape: tuple[int, ...], bias: bool
) -> None:
    op = make(*args, w_init=constant(2), **({"b_init": constant(3)} if bias else {}))
    for name, leaf in op.init(0, shape).items():
        if name not in ("mean", "var"):
            assert np.all(leaf == (3 if name.startswith("b") else 2)), name
    first = make(*args, w_init=lecun_normal).init(0, shape)
    drawn = [leaf.ravel()[:4].tolist() for name, leaf in first.items() if name.startswith("w")]
    assert len({tuple(numbers) for numbers in drawn}) == len(drawn)


def test_initialisers_repr_is_their_call() -> None:
    assert repr(dense(3, w_init=he_normal, b_init=constant(0.5))) == "dense(3, w_init=he_normal, b_init=constant(0.5))"
    assert repr(dense(3, w_init=truncated_normal(0.02))) == "dense(3, w_init=truncated_normal(0.02))"


@pytest.mark.parametrize(
    ("make", "args", "shape"),
    [
        (dense, (5,), (3,)),
        (dense, (5,), (2, 3, 4)),
        (conv, (6, (2, 3)), (4, 5, 7)),
        (conv, (6, (2, 3), 1, 0, 1, 2), (4, 5, 7)),
        (conv, (4, 3, 1, 0, 2, 4), (4, 9, 9)),
        (conv_transpose, (6, (2, 3)), (4, 5, 7)),
        (conv_transpose, (6, (2, 3), 1, 0, 0, 1, 2), (4, 5, 7)),
    ],
)
def test_initialisers_get_the_fans_of_dense_conv_and_conv_transpose(
    make: Callable[..., Op], args: tuple[Any, ...], shape: tuple[int, ...]
) -> None:
    """With weights of one, an output in the interior is its number of inputs, and a cotangent its number of outputs."""
    fans = []

    def record(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
        fans.append((fan_in, fan_out))
        return np.ones(shape, np.float32)

    op = make(*args, w_init=record)
    y, vjp = op.apply(op.init(0, shape), np.ones((1, *shape), np.float32))
    assert fans == [(y.max(), vjp(np.ones_like(y))[1].max())]
