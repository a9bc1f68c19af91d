"""`layer_norm` and `group_norm` compared with their formulas, and their errors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import Key, Op, OpError, batch_norm, group_norm, layer_norm, tree_map
from fnn.kernels.threads import parallel_map
from fnn.op import Array
from fnn.testing import check_op
from tests.support.strategies import seeds, slow_unless

ROWS = np.random.default_rng(0).normal(3, 2, (4, 6, 5)).astype(np.float32)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@given(shapes, st.integers(1, 3), st.integers(1, 4), seeds)
def test_check_op_of_layer_norm(shape: tuple[int, ...], axes: int, batch: int, seed: int) -> None:
    check_op(layer_norm(min(axes, len(shape)), eps=0.1), shape, seed, batch=batch, exempt=slow_unless(seed))


@given(st.integers(1, 3), st.integers(1, 3), shapes, st.integers(1, 4), seeds)
def test_check_op_of_group_norm(groups: int, each: int, shape: tuple[int, ...], batch: int, seed: int) -> None:
    check_op(group_norm(groups, eps=0.1), (groups * each, *shape[1:]), seed, batch=batch, exempt=slow_unless(seed))


def moments(a: Array, axes: Any) -> tuple[Array, Array]:
    return a.mean(axes), a.std(axes)


@pytest.mark.parametrize(
    ("op", "over"),
    [
        (layer_norm(), 2),
        (layer_norm(2), (1, 2)),
        (group_norm(1), (1, 2)),
        (group_norm(6), 2),
        (batch_norm(), (0, 2)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norm_layers_give_mean_zero_and_deviation_one(op: Op, over: Any, dtype: type) -> None:
    x: Array = (ROWS * 1000 + 50).astype(dtype)
    params = tree_map(lambda a: a.astype(dtype), op.init(0, x.shape[1:]))
    mean, std = moments(op.apply(params, x, 0)[0], over)
    np.testing.assert_allclose(mean, 0, atol=1e-6)
    np.testing.assert_allclose(std, 1, atol=1e-5)


def test_group_norm_takes_channels_in_runs() -> None:
    op = group_norm(2)
    y, _ = op.apply(op.init(0, (6, 5)), ROWS)
    mean, std = moments(y.reshape(4, 2, 15), 2)
    np.testing.assert_allclose(mean, 0, atol=1e-6)
    np.testing.assert_allclose(std, 1, atol=1e-5)


@pytest.mark.parametrize("op", [layer_norm(), layer_norm(2), group_norm(3), batch_norm()], ids=repr)
def test_norm_layers_of_constants_give_the_shift_without_a_warning(op: Op) -> None:
    x = np.full((4, 6, 5), 1e6, np.float32)
    params = {**op.init(0, (6, 5)), "b": op.init(0, (6, 5))["b"] + 7}
    y, vjp = op.apply(params, x, 0)
    assert np.array_equal(y, np.full_like(x, 7))
    assert np.isfinite(vjp(np.ones_like(y))[1]).all()


def test_norm_layers_params_have_conventional_shapes() -> None:
    def of(op: Op) -> dict[str, tuple[int, ...]]:
        return {name: leaf.shape for name, leaf in op.init(0, (6, 4, 5)).items()}

    assert of(layer_norm()) == {"w": (5,), "b": (5,)}
    assert of(layer_norm(2)) == {"w": (4, 5), "b": (4, 5)}
    assert of(group_norm(3)) == {"w": (6,), "b": (6,)}
    assert of(batch_norm()) == {"w": (6,), "b": (6,), "mean": (6,), "var": (6,)}


@pytest.mark.parametrize("make", [layer_norm, partial(group_norm, 2), batch_norm])
def test_norm_layers_stay_float32_with_numpy_eps(make: Callable[..., Op]) -> None:
    for scalar in np.float64(0.5), np.float32(0.5):
        op = make(eps=scalar)
        y, vjp = op.apply(op.init(0, (6, 5)), ROWS, 0)
        assert y.dtype == vjp(y)[1].dtype == np.float32
        assert np.array_equal(y, make(eps=0.5).apply(op.init(0, (6, 5)), ROWS, 0)[0])


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (layer_norm, 0, "layer_norm: axes: expected an int of at least 1, got 0"),
        (layer_norm, (1,), "layer_norm: axes: expected an int of at least 1, got (1,)"),
        (layer_norm, 65, "layer_norm: axes: expected an int of at most 64, got 65"),
        (layer_norm, 10**12, "layer_norm: axes: expected an int of at most 64, got 1000000000000"),
        (group_norm, 2.0, "group_norm: groups: expected an int of at least 1, got 2.0"),
        (batch_norm, 0, "batch_norm: eps: expected a finite number above 0, got 0"),
        (batch_norm, np.inf, "batch_norm: eps: expected a finite number above 0, got inf"),
        (batch_norm, np.nan, "batch_norm: eps: expected a finite number above 0, got nan"),
        (batch_norm, "1", "batch_norm: eps: expected a finite number above 0, got '1'"),
    ],
)
def test_norm_layers_refuse_bad_hyper_parameters(make: Callable[[Any], Op], value: Any, message: str) -> None:
    with pytest.raises(OpError) as caught:
        make(value)
    assert str(caught.value) == message


@pytest.mark.parametrize("make", [batch_norm, layer_norm, partial(group_norm, 2)])
def test_norm_layers_tell_the_initialisers_that_each_number_has_one_input(make: Any) -> None:
    def record(key: Key, size: tuple[int, ...], *fans: int) -> Array:
        calls.append((size, *fans))
        return np.zeros(size, np.float32)

    calls: list[tuple[Any, ...]] = []
    make(w_init=record, b_init=record).init(0, (4,))
    assert calls == [((4,), 1, 1)] * 2


def test_group_norm_of_single_numbers_is_the_shift() -> None:
    op, x = group_norm(6), ROWS[:, :, 0]
    y, vjp = op.apply({"w": np.ones(6, np.float32), "b": np.arange(6, dtype=np.float32)}, x)
    dparams, dx = vjp(ROWS[:, :, 1])
    assert (y == np.arange(6)).all()
    np.testing.assert_allclose(dx, 0, atol=1e-6 * np.abs(ROWS).max() / np.sqrt(1e-5))
    assert not dparams["w"].any()


def test_group_norm_refuses_channels_that_groups_do_not_divide() -> None:
    params = {"w": np.ones(3, np.float32), "b": np.ones(3, np.float32)}
    with pytest.raises(OpError, match=r"^group_norm: expected a multiple of 2 channels, got 3$"):
        group_norm(2).apply(params, np.ones((4, 3, 5), np.float32))


def test_layer_norm_takes_as_many_axes_as_numpy() -> None:
    assert repr(layer_norm(64)) == "layer_norm(axes=64)"


@pytest.mark.parametrize(
    ("op", "shape", "message"),
    [
        (layer_norm(2), (3,), "layer_norm: expected a shape of at least 2 axes, got (3,)"),
        (group_norm(1), (), "group_norm: expected shape (channels, ...), got ()"),
        (group_norm(2), (3, 4), "group_norm: expected shape (channels, ...) with a multiple of 2 channels, got (3, 4)"),
        (batch_norm(), (), "batch_norm: expected shape (channels, ...), got ()"),
    ],
)
def test_norm_layers_init_refuses_bad_shapes(op: Op, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(OpError) as caught:
        op.init(0, shape)
    assert str(caught.value) == message


@pytest.mark.parametrize("x", [ROWS[:, :4, :4], ROWS[:, 0, 0]])
@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        (layer_norm(2), "(batch, ..., 6, 5)"),
        (group_norm(2), "(batch, 6, ...)"),
        (batch_norm(), "(batch, 6, ...)"),
    ],
)
def test_norm_layers_refuse_bad_inputs(op: Op, wanted: str, x: Array) -> None:
    with pytest.raises(OpError) as caught:
        op.apply(op.init(0, (6, 5)), x)
    assert str(caught.value) == f"{op.kind}: expected shape {wanted}, got {x.shape}"


@pytest.mark.parametrize("op", [layer_norm(2), group_norm(2), batch_norm()], ids=repr)
def test_norm_layers_refuse_another_dtype_than_the_params(op: Op) -> None:
    with pytest.raises(OpError) as caught:
        op.apply(op.init(0, (6, 5)), ROWS.astype(float))
    message = "expected float32 input as the params are, got float64; use x.astype(np.float32)"
    assert str(caught.value) == f"{op.kind}: {message}"


def test_norm_layers_refuse_an_example_without_batch_axis() -> None:
    op = layer_norm()
    with pytest.raises(
        OpError, match=r"^layer_norm: expected shape \(batch, \.\.\., 5\), got \(5,\); for one example use x\[None\]$"
    ):
        op.apply(op.init(0, (5,)), ROWS[0, 0])


@pytest.mark.parametrize(("op", "name"), [(layer_norm(2), "b"), (group_norm(2), "b"), (batch_norm(), "var")])
def test_norm_layers_refuse_params_of_another_layer(op: Op, name: str) -> None:
    params = op.init(0, (6, 5))
    wrong = np.zeros(1, np.float32)
    with pytest.raises(OpError) as caught:
        op.apply({**params, name: wrong}, ROWS)
    shape = params["w"].shape
    assert str(caught.value) == f"{op.kind}: {name}: expected shape {shape}, got float32 (1,)"


@pytest.mark.parametrize("op", [batch_norm(), layer_norm(3), group_norm(2)], ids=repr)
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, lambda a: np.ascontiguousarray(a.T).T])
@pytest.mark.parametrize("threads", [2, 3])
def test_norms_of_large_arrays_have_the_same_bits_on_any_number_of_threads(
    op: Op, arrange: Callable[[Array], Array], threads: int
) -> None:
    x, dy = (arrange(a) for a in np.random.default_rng(0).standard_normal((2, 32, 4, 96, 100), np.float32))
    params = op.init(0, x.shape[1:])

    def run(_: int) -> list[Array]:
        y, vjp = op.apply(params, x, 0)
        dparams, dx = vjp(dy)
        return [y, dx, *dparams.values()]

    [alone], [shared] = parallel_map(run, 1, 1), parallel_map(run, 1, threads)
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(a, b)
