"""Norms compared with their formulas in extended precision: any memory order, size of blocks, offset and magnitude."""

from typing import Any

import numpy as np
import pytest

from fnn.kernels import memory, normalise, reductions
from fnn.kernels.normalise import normalise_channels, normalise_examples
from fnn.op import Array

# the shape of x, the axes, the shape of w and b: as in batch_norm, group_norm, and batch_norm of vectors
CHANNELS: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
CHANNELS = [((12, 3, 5), (0, 2), (1, 3, 1)), ((10, 2, 3, 4), (2, 3), (1, 2, 3, 1)), ((12, 5), (0,), (1, 5))]
CHANNELS += [((3, 1, 2, 5), (2, 3), (1, 1, 2, 1)), ((2, 5, 30), (0, 2), (1, 5, 1)), ((1, 4, 9), (0, 2), (1, 4, 1))]
EXAMPLES: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
EXAMPLES = [((12, 3, 5), (2,), (1, 1, 5)), ((12, 3, 5), (1, 2), (1, 3, 5)), ((4, 7), (1,), (1, 7))]
EXAMPLES += [((1, 3, 8), (2,), (1, 1, 8)), ((5, 2, 3, 4), (3,), (1, 1, 1, 4))]
EPS = 0.3


def norm(
    x: Array, w: Array, b: Array, axes: tuple[int, ...], dy: Array, statistics: Any = None, eps: float = EPS
) -> list[Array]:
    """y, dw, db and dx by the formulas."""
    x, w, b, dy = (a.astype(np.longdouble) for a in (x, w, b, dy))
    mean, var = statistics or (x.mean(axes, keepdims=True), x.var(axes, keepdims=True))
    scale = 1 / np.sqrt(var + np.longdouble(eps))
    z = (x - mean) * scale
    g, shared = dy * w, tuple(axis for axis, n in enumerate(w.shape) if n == 1)
    dx = g if statistics else g - g.mean(axes, keepdims=True) - z * (g * z).mean(axes, keepdims=True)
    return [z * w + b, (dy * z).sum(shared, keepdims=True), dy.sum(shared, keepdims=True), dx * scale]


def assert_near(found: list[Array], wanted: list[Array], tolerance: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(np.abs(b).max(initial=1e-300)))


def arrays(shape: tuple[int, ...], affine: tuple[int, ...], dtype: Any, order: str) -> list[Array]:
    rng = np.random.default_rng(0)
    x, dy = np.asarray(rng.normal(0.5, 2, (2, *shape)), dtype)
    w, b = rng.uniform(0.5, 2, (2, *affine)).astype(dtype)
    return [np.asarray(a, order=order) for a in (x, w, b, dy)]  # type: ignore[call-overload]


CASES = [(normalise_channels, *case) for case in CHANNELS] + [(normalise_examples, *case) for case in EXAMPLES]


@pytest.mark.parametrize(("f", "shape", "axes", "affine"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("cached", [None, 30])
@pytest.mark.parametrize("offset", [0, 3, 100])
def test_norms_equal_their_formulas(
    f: Any, shape: Any, axes: Any, affine: Any, dtype: Any, order: str, cached: Any, offset: float, monkeypatch: Any
) -> None:
    if cached:  # small arrays then take the way of large ones
        monkeypatch.setattr(memory, "CACHED", cached)
        monkeypatch.setattr(normalise, "SMALL", cached)
        monkeypatch.setattr(reductions, "SMALL", cached)
    x, w, b, dy = arrays(shape, affine, dtype, order)
    x += dtype(offset)
    y, pull = f(x, w, b, axes, EPS)
    dw, db, dx = pull(dy, True)
    assert {a.dtype for a in (y, dw, db, dx)} == {np.dtype(dtype)}
    long = [axis for axis, n in enumerate(shape) if n > 1]
    assert [(y.strides[i], dx.strides[i]) for i in long] == [(x.strides[i],) * 2 for i in long]
    assert_near([y, dw, db, dx], norm(x, w, b, axes, dy), 1e-10 if dtype is np.float64 else 3e-5)
    *same, none = pull(dy, False)
    assert none is None
    np.testing.assert_array_equal(same, [dw, db])


@pytest.mark.parametrize(("f", "shape", "axes", "affine"), CASES)
@pytest.mark.parametrize(("dtype", "magnitude"), [(np.float32, 1e30), (np.float64, 1e200)])
@pytest.mark.parametrize("all_large", [False, True])
def test_norms_of_numbers_whose_squares_overflow(
    f: Any, shape: Any, axes: Any, affine: Any, dtype: Any, magnitude: float, all_large: bool
) -> None:
    x, w, b, dy = arrays(shape, affine, dtype, "C")
    if all_large or len(axes) + 1 < x.ndim:
        x *= dtype(magnitude)
    else:  # one channel
        x[:, :1] *= dtype(magnitude)
    y, pull = f(x, w, b, axes, EPS)
    found, wanted = [y, *pull(dy, True)], norm(x, w, b, axes, dy)
    assert_near(found[:3], wanted[:3], 1e-10 if dtype is np.float64 else 3e-5)
    dx, exact = found[3] * np.longdouble(magnitude), wanted[3] * np.longdouble(magnitude)
    assert_near([dx], [exact], 1e-10 if dtype is np.float64 else 3e-5)


@pytest.mark.parametrize(("shape", "axes", "affine"), [case for case in CHANNELS if case[1][0] == 0])
@pytest.mark.parametrize("mean", [0.4, 50.0])
@pytest.mark.parametrize("order", ["C", "F"])
def test_normalise_channels_with_given_statistics(shape: Any, axes: Any, affine: Any, mean: float, order: str) -> None:
    x, w, b, dy = arrays(shape, affine, np.float32, order)
    x += np.float32(mean)
    rng = np.random.default_rng(1)
    statistics = tuple(a.astype(np.float32) for a in (rng.normal(mean, 0.1, affine), rng.uniform(1, 2, affine)))
    y, pull = normalise_channels(x, w, b, axes, EPS, statistics)
    dw, db, dx = pull(dy, True)
    assert dx is not None
    assert_near([y, dw, db, dx], norm(x, w, b, axes, dy, statistics), 3e-5)


@pytest.mark.parametrize("f", [normalise_channels, normalise_examples])
def test_norms_of_no_examples_have_empty_results_and_derivatives_zero(f: Any) -> None:
    axes = (0, 2) if f is normalise_channels else (1, 2)
    affine = (1, 3, 1) if f is normalise_channels else (1, 3, 5)
    x, w = np.zeros((0, 3, 5), np.float32), np.ones(affine, np.float32)
    y, pull = f(x, w, w, axes, EPS)
    dw, db, dx = pull(x, True)
    assert y.shape == dx.shape == x.shape
    assert dw.shape == db.shape == affine
    assert not dw.any()
    assert not db.any()
