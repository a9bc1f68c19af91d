import pickle
import re
from collections.abc import Callable
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fnn.optim import (
    Optimizer,
    adagrad,
    adam,
    adamw,
    average,
    averaged,
    clip_by_global_norm,
    frozen,
    masked,
    rmsprop,
    sgd,
)
from fnn.optim.descent import descent
from fnn.optim.schedules import cosine, one_cycle, warmup
from fnn.tree import Tree, TreeError, tree_items, tree_leaves, tree_map

# Every optimizer as a function of its rate, with every option that adds to its state or to its sums.
Make = Callable[[Any], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": sgd,
    "momentum": lambda rate: sgd(rate, momentum=0.9),
    "nesterov": lambda rate: sgd(rate, momentum=0.9, nesterov=True),
    "rmsprop": rmsprop,
    "rmsprop-momentum": lambda rate: rmsprop(rate, momentum=0.9),
    "adagrad": adagrad,
    "adam": adam,
    "adamw": lambda rate: adamw(rate, weight_decay=0),
    "clipped": lambda rate: clip_by_global_norm(sgd(rate), 10),
    "averaged": lambda rate: averaged(adam(rate), 0.9),
    "masked": lambda rate: masked(adam(rate), lambda path: path.endswith(("x", "w")), sgd(rate, momentum=0.9)),
    "nested": lambda rate: averaged(clip_by_global_norm(masked(adam(rate), lambda path: True), 10), 0.5),
}
DECAYED: dict[str, Make] = {
    "sgd-decay": lambda rate: sgd(rate, weight_decay=0.1),
    "nesterov-decay": lambda rate: sgd(rate, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop-decay": lambda rate: rmsprop(rate, momentum=0.9, weight_decay=0.1),
    "adagrad-decay": lambda rate: adagrad(rate, weight_decay=0.1),
    "adam-decay": lambda rate: adam(rate, weight_decay=0.1),
    "adamw-decay": adamw,
}
every_optimizer = pytest.mark.parametrize(
    "make", [*OPTIMIZERS.values(), *DECAYED.values()], ids=[*OPTIMIZERS, *DECAYED]
)


def read_only(tree: Tree) -> Tree:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, np.ndarray):
            leaf.flags.writeable = False
    return tree


def random_params(dtype: type = np.float64, seed: int = 0) -> Tree:
    """Returns a tree of arrays in several memory orders."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    return {
        "conv1": {"w": normal(3, 2, 4, 5).transpose(3, 1, 0, 2), "b": np.asarray(normal())},
        "tanh1": {},
        "dense1": {"w": normal(6, 4).T, "b": normal(6)},
        "dense2": {"w": normal(8, 6)[::2, ::3], "b": normal(0)},
    }


def gradient(params: Tree) -> Tree:
    """Returns a gradient that depends on the params, in another memory order."""
    return tree_map(lambda p: np.asarray(np.sin(3 * p) + p, order="C"), params)


def steps(optimizer: Optimizer, params: Tree, state: Tree, n: int) -> tuple[Tree, Tree]:
    for _ in range(n):
        params, state = optimizer.update(params, gradient(params), state)
    return params, state


def assert_same_bits(first: Tree, second: Tree) -> None:
    def same(a: Any, b: Any) -> None:
        assert type(a) is type(b)
        assert not isinstance(a, np.ndarray) or (a.dtype == b.dtype and a.shape == b.shape)
        assert np.array_equal(a, b)

    tree_map(same, first, second)


# What holds for every optimizer


@every_optimizer
def test_optimizer_update_is_pure(make: Make) -> None:
    optimizer = make(cosine(0.1, 0.0, 10))
    params, grads = read_only(random_params()), read_only(random_params(seed=1))
    state = read_only(optimizer.update(params, grads, read_only(optimizer.init(params)))[1])
    before = pickle.dumps((params, grads, state))
    first, second = optimizer.update(params, grads, state), optimizer.update(params, grads, state)
    assert pickle.dumps((params, grads, state)) == before
    assert_same_bits(first[0], second[0])
    assert_same_bits(first[1], second[1])


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_optimizers_keep_dtypes_and_float32_state_for_float16(make: Make, dtype: type) -> None:
    for rate in (np.float64(0.01), 0.01, np.array([0.01])[0], lambda step: np.float64(0.01)):
        optimizer = make(rate)
        params, state = steps(optimizer, start := random_params(dtype), optimizer.init(start), 3)
        assert {leaf.dtype for leaf in tree_leaves(params)} == {np.dtype(dtype)}
        assert {leaf.dtype for leaf in tree_leaves(state) if isinstance(leaf, np.ndarray)} <= {np.dtype(np.float32)}


@every_optimizer
def test_optimizers_compute_float16_in_float32_and_round_once(make: Make) -> None:
    """Gradients that are zero, tiny, or too large to square give finite steps, rounded once."""
    optimizer = make(0.01)
    given = {"w": np.array([0.0, 1e-7, -6e-5, 1e-3, -1.0, 300.0, -6e4], np.float16)}
    half = {"w": np.linspace(1, 2, 7).astype(np.float16)}
    wide = {"w": half["w"].astype(np.float32)}
    half_state, wide_state = optimizer.init(half), optimizer.init(wide)
    for _ in range(3):
        rounded, half_state = optimizer.update(half, given, half_state)
        moved, wide_state = optimizer.update(wide, {"w": given["w"].astype(np.float32)}, wide_state)
        np.testing.assert_array_equal(rounded["w"], moved["w"].astype(np.float16))
        half, wide = rounded, {"w": rounded["w"].astype(np.float32)}
        wide_state = pickle.loads(pickle.dumps(half_state))
        assert np.isfinite(half["w"]).all()


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_optimizers_make_no_nan_of_finite_gradients(make: Make, dtype: type) -> None:
    largest = 6e4 if dtype == np.float16 else 1e30  # the square overflows float32
    optimizer = make(1e-3)
    params: Any = {"w": np.ones(6, dtype)}
    state = optimizer.init(params)
    with np.errstate(over="ignore"):
        for sign in (1, -1, 1, -1):
            given: Any = {"w": (sign * np.array([0, 1e-45, 1e-20, largest, -largest, largest / 2])).astype(dtype)}
            params, state = optimizer.update(params, given, state)
            assert not any(np.isnan(leaf).any() for leaf in tree_leaves(params))


@every_optimizer
def test_optimizers_keep_float32_with_float64_gradients(make: Make) -> None:
    params, optimizer = random_params(np.float32), make(0.01)
    grads = gradient(random_params(np.float64))
    assert {leaf.dtype for leaf in tree_leaves(optimizer.update(params, grads, optimizer.init(params))[0])} == {
        np.dtype(np.float32)
    }


def axes(array: Any) -> list[int]:
    """Returns the axes from the outermost in memory to the innermost."""
    return sorted(range(array.ndim), key=lambda axis: -array.strides[axis])


@every_optimizer
def test_optimizers_keep_the_memory_order(make: Make) -> None:
    optimizer = make(0.01)
    params, _ = steps(optimizer, start := random_params(), optimizer.init(start), 3)
    tree_map(lambda new, old: axes(new) == axes(old) or pytest.fail(f"{new.strides} {old.strides}"), params, start)
    assert all(isinstance(leaf, np.ndarray) for leaf in tree_leaves(params))


@every_optimizer
def test_optimizer_states_are_nested_dicts_of_arrays_and_counts(make: Make) -> None:
    optimizer = make(0.01)
    _, state = steps(optimizer, start := random_params(), optimizer.init(start), 2)
    for path, leaf in tree_items(state):
        assert leaf == 2 if path.endswith("step") else isinstance(leaf, np.ndarray)
        assert type(leaf) in (int, np.ndarray)


@every_optimizer
def test_optimizer_state_survives_pickle(make: Make) -> None:
    optimizer = make(0.01)
    _, state = steps(optimizer, start := random_params(), optimizer.init(start), 2)
    assert_same_bits(pickle.loads(pickle.dumps(state)), state)


@every_optimizer
def test_optimizer_resumed_from_a_pickle_gives_the_same_bits(make: Make) -> None:
    def optimizer() -> Optimizer:
        return make(warmup(cosine(0.1, 0.001, 15), 4))

    params = random_params(np.float32)
    whole = steps(optimizer(), params, optimizer().init(params), 20)
    kept = pickle.dumps(steps(optimizer(), params, optimizer().init(params), 9))
    half, state = pickle.loads(kept)
    resumed = steps(optimizer(), half, state, 11)
    assert_same_bits(whole[0], resumed[0])
    assert_same_bits(whole[1], resumed[1])


@every_optimizer
def test_optimizers_with_rate_zero_change_nothing(make: Make) -> None:
    params, optimizer = random_params(), make(lambda step: 0.0)
    assert_same_bits(steps(optimizer, params, optimizer.init(params), 3)[0], params)


@every_optimizer
def test_optimizers_ask_the_schedule_for_steps_from_0(make: Make) -> None:
    asked: list[int] = []

    def schedule(step: int) -> float:
        asked.append(step)
        return 0.01

    optimizer = make(schedule)
    steps(optimizer, params := random_params(), optimizer.init(params), 4)
    assert sorted(set(asked)) == [0, 1, 2, 3]


@every_optimizer
def test_optimizers_take_a_bare_array_as_params(make: Make, request: pytest.FixtureRequest) -> None:
    optimizer, params = make(0.01), np.ones(3)
    if "masked" in request.node.callspec.id or "nested" in request.node.callspec.id:
        with pytest.raises(TreeError, match=r"^masked: expected params as a dict, got float64 \(3,\)"):
            optimizer.init(params)
    else:
        assert optimizer.update(params, params, optimizer.init(params))[0].shape == (3,)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, min_side=0), elements=st.floats(-9, 9, width=32)))
def test_optimizers_update_arrays_of_any_shape(p: Any) -> None:
    for make in OPTIMIZERS.values():
        optimizer, params = make(0.01), {"w": p, "b": p}
        new, _ = optimizer.update(params, params, optimizer.init(params))
        assert new["w"].shape == p.shape
        assert np.isfinite(new["w"]).all()


# Toy problems with known answers: the start, the gradient, and the answer


def quadratic(params: Tree) -> Tree:
    """The gradient of (p - answer) A (p - answer) / 2, where A has the eigenvalues 1 and 4."""
    a, away = np.array([[2.5, 1.5], [1.5, 2.5]]), params["x"] - [1.0, -2.0]
    return {"x": a @ away}


def rosenbrock(params: Tree) -> Tree:
    """The gradient of (1 - x)^2 + 100 (y - x^2)^2, with the minimum at (1, 1)."""
    x, y = params["x"], params["y"]
    return {"x": -2 * (1 - x) - 400 * x * (y - x * x), "y": 200 * (y - x * x)}


def logistic(params: Tree) -> Tree:
    """The gradient of the cross-entropy for 10 examples with x = 0 (3 positive) and 10 with x = 1 (8 positive)."""
    x, share = np.array([0.0, 1.0]), np.array([0.3, 0.8])
    away = (1 / (1 + np.exp(-(params["w"] * x + params["b"]))) - share) / 2
    return {"w": np.asarray(away @ x), "b": np.asarray(away.sum())}


def scalar(value: float) -> Any:
    return np.array(value)


B = np.log(0.3 / 0.7)
PROBLEMS: dict[str, tuple[Tree, Callable[[Tree], Tree], Tree]] = {
    "quadratic": ({"x": np.zeros(2)}, quadratic, {"x": [1, -2]}),
    "rosenbrock": ({"x": scalar(-1.2), "y": scalar(1.0)}, rosenbrock, {"x": 1, "y": 1}),
    "logistic": ({"w": scalar(0.0), "b": scalar(0.0)}, logistic, {"w": np.log(0.8 / 0.2) - B, "b": B}),
}
# the first rate for each problem
RATES: dict[str, tuple[float, float, float]] = {
    "sgd": (0.3, 0.002, 4.0),
    "momentum": (0.1, 0.0005, 0.5),
    "nesterov": (0.1, 0.0005, 0.5),
    "rmsprop": (0.05, 0.01, 0.05),
    "rmsprop-momentum": (0.01, 0.003, 0.01),
    "adagrad": (1.0, 1.0, 1.0),
    "adam": (0.1, 0.05, 0.1),
    "adamw": (0.1, 0.05, 0.1),
    "clipped": (0.3, 0.002, 4.0),
    "averaged": (0.1, 0.05, 0.1),
    "masked": (0.1, 0.003, 0.1),
    "nested": (0.1, 0.05, 0.1),
}


@pytest.mark.parametrize("problem", ["quadratic", "logistic", pytest.param("rosenbrock", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_reach_the_known_answer(name: str, problem: str) -> None:
    n = 1000 if problem != "rosenbrock" else 20_000 if name in ("sgd", "clipped", "adagrad", "masked") else 8000
    rate = RATES[name][list(PROBLEMS).index(problem)]
    optimizer = OPTIMIZERS[name](cosine(rate, rate / 1000, n))
    params, slope, answer = PROBLEMS[problem]
    state = optimizer.init(params)
    for _ in range(n):
        params, state = optimizer.update(params, slope(params), state)
    if name in ("averaged", "nested"):
        params = average(state)
    tree_map(lambda p, expected: np.testing.assert_allclose(p, expected, rtol=0, atol=1e-3), params, answer)


# One by one


def test_sgd_moves_down_the_gradient_and_keeps_only_its_step() -> None:
    optimizer = sgd(0.5)
    params, state = optimizer.update({"w": np.array([1.0, 2.0])}, {"w": np.array([4.0, -2.0])}, optimizer.init({}))
    assert params["w"].tolist() == [-1, 3]
    assert state == {"step": 1}


# two updates from 0 with the gradients 2 and 3, at a rate of 1
BY_HAND: list[tuple[Optimizer, list[float]]] = [
    (sgd(1.0), [-2, -5]),
    (sgd(1.0, momentum=0.5), [-2, -2 - (3 + 0.5 * 2)]),
    (sgd(1.0, momentum=0.5, nesterov=True), [-3, -3 - (3 + 0.5 * (3 + 0.5 * 2))]),
    (sgd(1.0, weight_decay=0.5), [-2, -2 - (3 - 0.5 * 2)]),
    (rmsprop(1.0, decay=0.75), [-2, -2 - 3 / 3**0.5]),
    (rmsprop(1.0, decay=0.75, momentum=0.5), [-2, -2 - (3 / 3**0.5 + 0.5 * 2)]),
    (adagrad(1.0), [-1, -1 - 3 / 13**0.5]),
    (adam(1.0, b1=0.5, b2=0.75), [-1, -1 - (2 / 0.75) / (3 / 0.4375) ** 0.5]),
]


@pytest.mark.parametrize(("optimizer", "expected"), BY_HAND)
def test_optimizers_equal_their_formula_for_two_updates(optimizer: Optimizer, expected: list[float]) -> None:
    params, state = {"w": np.zeros(1)}, optimizer.init({"w": np.zeros(1)})
    for grad, there in zip((2.0, 3.0), expected, strict=True):
        params, state = optimizer.update(params, {"w": np.array([grad])}, state)
        np.testing.assert_allclose(params["w"], there, rtol=1e-7)


def test_descent_decays_the_gradient_or_nothing_by_default() -> None:
    def double(grads: Tree, state: Any) -> tuple[Tree, Any]:
        return tree_map(lambda g: 2 * g, grads), {}

    p, g = np.array([3.0]), np.array([5.0])
    for options, expected in (
        ({}, 10.0),
        ({"weight_decay": 0.5}, 13.0),
        ({"weight_decay": 0.5, "decoupled": True}, 11.5),
    ):
        optimizer = descent(1.0, double, **options)  # type: ignore[arg-type]
        moved, _ = optimizer.update(p, g, optimizer.init(p))
        np.testing.assert_allclose(p - moved, expected)


def test_adamw_decays_params_and_adam_decays_the_gradient() -> None:
    params, grads = {"w": np.full(3, 2.0)}, {"w": np.zeros(3)}
    decoupled, coupled = adamw(0.1, weight_decay=0.25), adam(0.1, weight_decay=0.25)
    np.testing.assert_allclose(decoupled.update(params, grads, decoupled.init(params))[0]["w"], 2 - 0.1 * 0.25 * 2)
    np.testing.assert_allclose(coupled.update(params, grads, coupled.init(params))[0]["w"], 2 - 0.1)


def clipped_gradient(grads: Tree, max_norm: float) -> Tree:
    """Returns the gradients that the optimizer inside `clip_by_global_norm` gets."""
    params = tree_map(np.zeros_like, grads)
    optimizer = clip_by_global_norm(sgd(1.0), max_norm)
    return tree_map(np.negative, optimizer.update(params, grads, optimizer.init(params))[0])


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_clip_by_global_norm_keeps_the_direction(size: float, max_norm: float) -> None:
    grads = tree_map(lambda leaf: np.asarray(leaf * size), random_params())
    flat, clipped = (
        np.concatenate([leaf.ravel() for leaf in tree_leaves(t)]) for t in (grads, clipped_gradient(grads, max_norm))
    )
    norm = np.linalg.norm(flat)
    np.testing.assert_allclose(clipped, flat * min(1, max_norm / (norm + 1e-6)), rtol=1e-12)
    assert np.linalg.norm(clipped) <= max_norm


@pytest.mark.parametrize(("unit", "dtype"), [(1e30, np.float32), (1e200, np.float64)])
def test_clip_by_global_norm_of_squares_that_overflow(unit: float, dtype: type) -> None:
    clipped = clipped_gradient({"a": np.array([3 * unit], dtype), "b": np.array([4 * unit], dtype)}, 5.0)
    np.testing.assert_allclose([clipped["a"][0], clipped["b"][0]], [3, 4], rtol=1e-6)


@pytest.mark.parametrize("fault", [nan, inf])
def test_clip_by_global_norm_passes_nan_and_infinity_on(fault: float) -> None:
    clipped = clipped_gradient({"a": np.array([fault, 30.0]), "b": np.array([40.0])}, 5.0)
    np.testing.assert_array_equal(clipped["a"], [fault, 30])
    assert clipped["b"] == 40


def test_masked_keeps_the_other_leaves_and_their_order() -> None:
    params = random_params()
    optimizer = masked(adamw(0.1), lambda path: path.startswith("dense1/"))
    new, state = steps(optimizer, params, optimizer.init(params), 3)
    moved = [path for (path, p), (_, old) in zip(tree_items(new), tree_items(params), strict=True) if (p != old).any()]
    assert moved == ["dense1/w", "dense1/b"]
    assert [path for path, _ in tree_items(new)] == [path for path, _ in tree_items(params)]
    assert [path for path, _ in tree_items(state)] == [
        "chosen/step",
        "chosen/m/dense1/w",
        "chosen/m/dense1/b",
        "chosen/v/dense1/w",
        "chosen/v/dense1/b",
    ]
    assert new["tanh1"] == {}


def test_masked_updates_each_part_independently() -> None:
    params = random_params()
    optimizer = masked(adamw(0.1), lambda path: path.endswith("/w"), sgd(0.2))
    new, _ = steps(optimizer, params, optimizer.init(params), 3)
    for part, alone in (("w", adamw(0.1)), ("b", sgd(0.2))):
        own = {name: {part: op[part]} for name, op in params.items() if op}
        expected, _ = steps(alone, own, alone.init(own), 3)
        assert_same_bits({name: {part: new[name][part]} for name in own}, expected)


def test_masked_clip_by_global_norm_clips_only_its_part() -> None:
    params, grads = {"a": np.zeros(1), "b": np.zeros(1)}, {"a": np.array([3.0]), "b": np.array([400.0])}
    inside = masked(clip_by_global_norm(sgd(1.0), 5), lambda path: path == "a")
    outside = clip_by_global_norm(masked(sgd(1.0), lambda path: path == "a"), 5)
    assert inside.update(params, grads, inside.init(params))[0]["a"] == -3
    assert -0.04 < outside.update(params, grads, outside.init(params))[0]["a"] < -0.03


def test_masked_refuses_a_mask_that_chooses_nothing() -> None:
    with pytest.raises(ValueError, match=r"where: expected True for one path or more, got none of \['a', 'b/w'\]"):
        masked(adam(), lambda path: path == "c").init({"a": np.zeros(1), "b": {"w": np.zeros(2)}})


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_averaged_is_the_weighted_mean_of_params(decay: float) -> None:
    params = random_params()
    optimizer = averaged(sgd(0.1, momentum=0.5), decay)
    state, seen = optimizer.init(params), []
    assert_same_bits(average(state), params)
    tree_map(
        lambda mean, p: np.shares_memory(mean, p) and pytest.fail("the average is the caller's"),
        state["average"],
        params,
    )
    for _ in range(7):
        params, state = optimizer.update(params, gradient(params), state)
        seen.append(params)
        weights = decay ** np.arange(len(seen))[::-1]
        tree_map(
            lambda mean, *all_: np.testing.assert_allclose(mean, np.average(all_, 0, weights), rtol=1e-10, atol=1e-14),  # noqa: B023
            average(state),
            *seen,
        )


def test_averaged_does_not_change_the_updates() -> None:
    params, plain, around = random_params(), adam(0.1), averaged(adam(0.1), 0.9)
    assert_same_bits(steps(plain, params, plain.init(params), 5)[0], steps(around, params, around.init(params), 5)[0])


def test_average_finds_the_state_inside_clip_by_global_norm() -> None:
    params = random_params()
    optimizer = clip_by_global_norm(averaged(adam(0.1), 0.0), 1.0)
    new, state = steps(optimizer, params, optimizer.init(params), 2)
    tree_map(lambda mean, p: np.testing.assert_allclose(mean, p, rtol=1e-12), average(state), new)


def test_frozen_is_an_optimizer_too() -> None:
    params = random_params()
    assert_same_bits(steps(frozen, params, frozen.init(params), 2)[0], params)


# What is refused

BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: sgd(-0.1), "learning_rate: expected a finite number of at least 0, got -0.1"),
    (lambda: sgd(nan), "learning_rate: expected a finite number of at least 0, got nan"),
    (lambda: sgd("fast"), "learning_rate: expected a finite number of at least 0, got 'fast'"),  # type: ignore[arg-type]
    (lambda: sgd(0.1, momentum=1), "momentum: expected a finite number of at least 0 and below 1, got 1"),
    (lambda: sgd(0.1, momentum=-0.1), "momentum: expected a finite number of at least 0 and below 1, got -0.1"),
    (lambda: sgd(0.1, nesterov=True), "momentum: expected a number above 0 for nesterov, got 0.0"),
    (lambda: sgd(0.1, weight_decay=-1), "weight_decay: expected a finite number of at least 0, got -1"),
    (lambda: rmsprop(decay=1.0), "decay: expected a finite number of at least 0 and below 1, got 1.0"),
    (lambda: rmsprop(momentum=1.5), "momentum: expected a finite number of at least 0 and below 1, got 1.5"),
    (lambda: rmsprop(eps=0), "eps: expected a finite number above 0, got 0"),
    (lambda: rmsprop(weight_decay=inf), "weight_decay: expected a finite number of at least 0, got inf"),
    (lambda: adagrad(-1), "learning_rate: expected a finite number of at least 0, got -1"),
    (lambda: adagrad(eps=-1), "eps: expected a finite number above 0, got -1"),
    (lambda: adagrad(weight_decay=-1), "weight_decay: expected a finite number of at least 0, got -1"),
    (lambda: adam(-1), "learning_rate: expected a finite number of at least 0, got -1"),
    (lambda: adam(b1=1), "b1: expected a finite number of at least 0 and below 1, got 1"),
    (lambda: adam(b2=-0.5), "b2: expected a finite number of at least 0 and below 1, got -0.5"),
    (lambda: adamw(eps=0), "eps: expected a finite number above 0, got 0"),
    (lambda: adamw(weight_decay=-1), "weight_decay: expected a finite number of at least 0, got -1"),
    (lambda: clip_by_global_norm(adam(), 0), "max_norm: expected a finite number above 0, got 0"),
    (lambda: averaged(adam(), 1), "decay: expected a finite number of at least 0 and below 1, got 1"),
    (lambda: masked(adam(), {"w": True}), "where: expected a function of a parameter's path, got a dict"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_optimizers_refuse_bad_hyper_parameters(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@every_optimizer
def test_optimizers_refuse_bad_schedule_values_and_name_the_step(make: Make) -> None:
    optimizer, params = make(lambda step: 0.1 - 0.1 * step), random_params()
    with pytest.raises(ValueError, match=r"learning_rate at step 2: expected a finite number of at least 0, got -0.1"):
        steps(optimizer, params, optimizer.init(params), 3)


@every_optimizer
def test_optimizers_refuse_trees_of_other_names(make: Make) -> None:
    optimizer, params = make(0.1), {"a": {"w": np.ones(2)}}
    with pytest.raises(TreeError, match="expected 'a/w' as in tree 1, got 'a/wow' in tree 2"):
        optimizer.update(params, {"a": {"wow": np.ones(2)}}, optimizer.init(params))


@every_optimizer
@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (np.ones((1, 3)), r"shape \(2, 3\) as the parameter has, got float64 \(1, 3\)"),
        (np.ones(3), r"shape \(2, 3\) as the parameter has, got float64 \(3,\)"),
        (np.ones((2, 2, 3)), r"shape \(2, 3\) as the parameter has, got float64 \(2, 2, 3\)"),
        (np.ones((2, 3), complex), r"an array of floats, got complex128 \(2, 3\)"),
        (1.0, "an array of floats, got a float"),
    ],
)
def test_optimizers_refuse_gradients_that_do_not_fit(make: Make, gradient: Any, message: str) -> None:
    optimizer, params = make(0.1), {"a": {"b": np.ones(2), "w": np.ones((2, 3))}}
    with pytest.raises(ValueError, match=rf"^a/w: gradient: expected {message}"):
        optimizer.update(params, {"a": {"b": np.ones(2), "w": gradient}}, optimizer.init(params))


@every_optimizer
@pytest.mark.parametrize(
    ("leaf", "message"), [(np.ones(2, int), r"int64 \(2,\)"), (1.0, "a float"), (np.float32(1), "a float32")]
)
def test_optimizers_refuse_params_that_are_no_floats(make: Make, leaf: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^a/w: expected an array of floats, got {message}"):
        make(0.1).init({"a": {"w": leaf}})


@every_optimizer
@pytest.mark.parametrize(
    ("state", "message"),
    [({"step": 0, "other": 1}, r"expected \[.*\], got \['other', 'step'\]"), (None, r"expected \[.*\], got None")],
)
def test_optimizers_refuse_the_state_of_another_optimizer(make: Make, state: Any, message: str) -> None:
    params = random_params()
    with pytest.raises(ValueError, match=f"^optimizer state: {message}"):
        make(0.1).update(params, params, state)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dense1": {"w": [1.0]}}, "dense1/w: expected an array of floats, got a list; use np.array(w, np.float32)"),
        ({"w": [1.0]}, "w: expected an array of floats, got a list; use np.array(w, np.float32)"),
        ([1.0], "params: expected an array of floats, got a list; use np.array(params, np.float32)"),
    ],
)
def test_optimizers_say_how_to_fix_params_by_name(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sgd(0.1).init(params)


@pytest.mark.parametrize("make", [adam, lambda rate: sgd(rate, momentum=0.5), adagrad, rmsprop])
def test_optimizers_refuse_the_state_of_another_net(make: Make) -> None:
    optimizer, params = make(0.1), {"a": np.ones(4)}
    with pytest.raises(ValueError, match=r"^a: \w+: expected shape \(4,\) as the parameter has, got float64 \(1,\)"):
        optimizer.update(params, params, optimizer.init({"a": np.ones(1)}))


@pytest.mark.parametrize("state", [{"step": 3}, None])
def test_average_refuses_a_state_without_average(state: Any) -> None:
    with pytest.raises(ValueError, match=r"expected that of averaged\(\.\.\.\), got .*; put averaged around"):
        average(state)


def is_weight(path: str) -> bool:
    return path.endswith("/w")


REPRS = [
    (sgd(0.1), "sgd(0.1)"),
    (sgd(0.1, momentum=0.9), "sgd(0.1, momentum=0.9)"),
    (sgd(0.1, 0.9, True), "sgd(0.1, momentum=0.9, nesterov=True)"),
    (adam(), "adam()"),
    (adam(1e-3, b1=0.9), "adam()"),
    (adam(learning_rate=np.float64(0.5), eps=1e-6), "adam(0.5, eps=1e-06)"),
    (adamw(eps=1e-6), "adamw(eps=1e-06)"),
    (rmsprop(one_cycle(1, 9)), "rmsprop(one_cycle(1, 9))"),
    (adagrad(lambda step: 0.1), "adagrad(<lambda>)"),
    (clip_by_global_norm(adam(cosine(0.1, 0.0, 100)), 1.0), "clip_by_global_norm(adam(cosine(0.1, 0.0, 100)), 1.0)"),
    (averaged(masked(adam(), is_weight, sgd(1)), 0.9), "averaged(masked(adam(), is_weight, otherwise=sgd(1)), 0.9)"),
    (frozen, "frozen"),
    (Optimizer(lambda params: {}, sgd(0.1).update), "sgd(0.1)"),
    (Optimizer(sgd(0.1).init, lambda params, grads, state: (params, state)), "<lambda>"),
]


@pytest.mark.parametrize(("optimizer", "expected"), REPRS)
def test_repr_of_an_optimizer_is_its_call(optimizer: Optimizer, expected: str) -> None:
    assert repr(optimizer) == expected


def test_repr_of_an_optimizer_of_ones_own_names_its_fields() -> None:
    def update(params: Tree, grads: Tree, state: Tree) -> tuple[Tree, Tree]:
        return params, state

    assert repr(Optimizer(lambda params: {}, update)) == "Optimizer(init, update)"


def test_wrapping_leaves_the_repr_of_the_wrapped_optimizer() -> None:
    inner = adam(0.5)
    clip_by_global_norm(inner, 1.0)
    averaged(inner, 0.9)
    assert repr(inner) == "adam(0.5)"
