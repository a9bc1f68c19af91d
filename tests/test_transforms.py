"""Wrappers that compute the same in another way, gradients per example, and sums of trees."""

import re
import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import (
    Key,
    LossError,
    Op,
    OpError,
    TreeError,
    conv,
    cross_entropy,
    dense,
    maxpool,
    mse,
    relu,
    serial,
    tanh,
    tree_map,
    tree_size,
    value_and_grad,
)
from fnn.combinators import named, parallel, repeat, residual
from fnn.op import Array, Params, Vjp
from fnn.testing import check_op
from fnn.transforms import check_finite, freeze, microbatch, per_example, remat
from fnn.tree import Tree, tree_leaves, tree_sum

IMAGES = serial(conv(3, 3, padding=1), maxpool(2), tanh, dense(5), relu, dense(4))


def numbers(*shape: int, seed: int = 0) -> Array:
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    array.flags.writeable = False
    return array


def equal(a: Tree, b: Tree) -> None:
    tree_map(np.testing.assert_array_equal, a, b)


def noise(log: list[Any]) -> Op:
    """Adds random numbers, and records each batch."""

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        log.append(x)
        scale = np.ones_like(x) if key is None else key.generator().standard_normal(x.shape).astype(x.dtype)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
            return {}, dy * scale

        return x * scale, vjp

    return Op(lambda key, shape: {}, apply, kind="noise", takes_key=True)


def peak(f: Callable[[], Any]) -> int:
    """Returns the peak memory of `f` in bytes."""
    f()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        f()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "op", [remat(IMAGES), microbatch(IMAGES, 2), microbatch(IMAGES, 1), check_finite(IMAGES)], ids=repr
)
def test_check_op_of_wrappers(op: Op) -> None:
    check_op(op, (1, 4, 6), batch=5)


@pytest.mark.parametrize("op", [freeze(IMAGES), serial(dense(4), freeze(dense(3)), tanh, freeze(dense(2)))], ids=repr)
def test_check_op_of_freeze(op: Op) -> None:
    check_op(op, (1, 4, 6), batch=5, exempt=["gradient in params"])


def test_remat_has_the_same_bits_and_random_numbers() -> None:
    log: list[Any] = []
    plain, x = serial(dense(4), noise(log), tanh, noise(log), dense(3)), numbers(6, 5)
    params = plain.init(0, (5,))
    y, vjp = plain.apply(params, x, Key(7))
    y_again, vjp_again = remat(plain).apply(params, x, Key(7))
    equal(y_again, y)
    assert np.ptp(y - plain.apply(params, x, Key(8))[0]) > 0
    for _ in range(2):
        for one, other in zip(vjp_again(y), vjp(y), strict=True):
            equal(one, other)


def test_remat_applies_once_more_for_each_vjp() -> None:
    log: list[Any] = []
    _, vjp = remat(noise(log)).apply({}, numbers(2, 2), 0)
    assert len(log) == 1
    vjp(numbers(2, 2))
    assert len(log) == 2


@pytest.mark.parametrize("layer", [serial(dense(32), tanh), serial(dense(32), relu, dense(32))], ids=repr)
def test_remat_of_a_deep_net_takes_at_most_40_percent_of_the_memory(layer: Op) -> None:
    block = residual(layer)
    plain, lean = repeat(block, 32), repeat(remat(repeat(block, 4)), 8)
    x, y = numbers(1500, 32), numbers(1500, 32, seed=1)
    peaks = [peak(partial(value_and_grad(net, mse), net.init(0, (32,)), x, y)) for net in (lean, plain)]
    assert peaks[0] <= 0.4 * peaks[1]


def test_microbatch_peak_memory_falls_with_the_size() -> None:
    net = serial(conv(4, 3, padding=1), tanh, conv(4, 3, padding=1), tanh, maxpool(2), dense(8), tanh, dense(3))
    params, x, y = net.init(0, (1, 10, 10)), numbers(256, 1, 10, 10), np.arange(256) % 3
    grads = [value_and_grad(microbatch(net, size), cross_entropy) for size in (256, 128, 64, 32)]
    peaks = [peak(partial(f, params, x, y)) for f in grads]
    assert all(smaller < 0.75 * larger for larger, smaller in pairwise(peaks))


@pytest.mark.parametrize("size", [1, 7, 16, 100, 1000])
def test_microbatch_has_the_gradients_of_the_whole_batch(size: int) -> None:
    params, x, y = IMAGES.init(0, (1, 4, 6)), numbers(100, 1, 4, 6), np.arange(100) % 4
    (value, out), grads = value_and_grad(IMAGES, cross_entropy)(params, x, y)
    (value_too, out_too), grads_too = value_and_grad(microbatch(IMAGES, size), cross_entropy)(params, x, y)
    np.testing.assert_allclose(out_too, out, rtol=0, atol=1e-6 * np.abs(out).max())
    assert abs(value - value_too) < 1e-6
    tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max()), grads_too, grads)


def test_microbatch_folds_the_piece_number_into_the_key() -> None:
    log: list[Any] = []
    x = np.ones((5, 3), np.float32)
    y, vjp = microbatch(noise(log), 2).apply({}, x, Key(4))
    assert [len(piece) for piece in log] == [2, 2, 1]
    pieces = [noise([]).apply({}, piece, Key(4).fold(i))[0] for i, piece in enumerate([x[:2], x[2:4], x[4:]])]
    equal(y, np.concatenate(pieces))
    equal(vjp(x)[1], y)


def test_microbatch_of_one_piece_applies_once() -> None:
    log: list[Any] = []
    y, vjp = microbatch(noise(log), 5).apply({}, numbers(5, 3), Key(4))
    vjp(numbers(5, 3))
    assert len(log) == 1
    equal(y, noise([]).apply({}, numbers(5, 3), Key(4).fold(0))[0])


def test_freeze_gives_zeros_and_the_inputs_gradient() -> None:
    params, x = IMAGES.init(0, (1, 4, 6)), numbers(3, 1, 4, 6)
    y, vjp = IMAGES.apply(params, x)
    y_frozen, vjp_frozen = freeze(IMAGES).apply(params, x)
    equal(y_frozen, y)
    (zeros, dx_frozen), (_, dx) = vjp_frozen(y), vjp(y)
    equal(zeros, tree_map(np.zeros_like, params))
    equal(dx_frozen, dx)


def test_freeze_skips_the_vjp_without_need_dx() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
            raise AssertionError("called")

        return x, vjp

    op = Op(lambda key, shape: {"w": np.ones(2, np.float32)}, apply)
    net = serial(freeze(serial(op, op)), dense(2))
    grads, _ = net.apply(net.init(0, (3,)), numbers(2, 3))[1](numbers(2, 2), False)
    equal(grads["serial1"], {name: {"w": np.zeros(2)} for name in ("op1", "op2")})


def faulty(output: float = 0, grad: float = 0, dx: float = 0) -> Op:
    """The identity with a parameter, which puts a number into its results."""

    def put(number: float, array: Array) -> Array:
        array = array.copy()
        array.flat[:1] = array.flat[:1] if number == 0 else number
        return array

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
            return {"w": put(grad, np.zeros(2, dy.dtype))}, put(dx, dy)

        return put(output, x), vjp

    return Op(lambda key, shape: {"w": np.ones(2, np.float32)}, apply, kind="faulty")


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (faulty(output=np.nan), "output: expected finite numbers, got 1 nan and 0 infinite of 6"),
        (faulty(output=np.inf), "output: expected finite numbers, got 0 nan and 1 infinite of 6"),
        (faulty(grad=-np.inf), "gradient w: expected finite numbers, got 0 nan and 1 infinite of 2"),
        (faulty(dx=np.nan), "gradient of the input: expected finite numbers, got 1 nan and 0 infinite of 6"),
    ],
)
def test_check_finite_names_the_path_and_the_array(op: Op, message: str) -> None:
    net = serial(residual(serial(tanh, check_finite(tanh), check_finite(op))), tanh)
    params = net.init(0, (3,))
    with pytest.raises(OpError, match=f"^residual1/serial1/faulty1: {re.escape(message)}$"):
        net.apply(params, numbers(2, 3))[1](numbers(2, 3))


def test_check_finite_names_a_cotangent_from_outside() -> None:
    net = serial(check_finite(named("inner", tanh)), faulty(dx=np.inf))
    with pytest.raises(
        OpError, match=r"^inner: cotangent of the output: expected finite numbers, got 0 nan and 1 infinite of 6"
    ):
        net.apply(net.init(0, (3,)), numbers(2, 3))[1](numbers(2, 3))


def test_check_finite_ignores_dx_without_need_dx() -> None:
    _, dx = check_finite(faulty(dx=np.nan)).apply({"w": np.ones(2, np.float32)}, numbers(2, 3))[1](numbers(2, 3), False)
    assert np.isnan(dx).any()


@pytest.mark.parametrize(
    ("net", "shape"), [(IMAGES, (1, 4, 6)), (parallel(dense(4), repeat(dense(4), 2)), (5,))], ids=repr
)
def test_per_example_is_value_and_grad_of_each_example(net: Op, shape: tuple[int, ...]) -> None:
    params: Params = tree_map(lambda a: a.astype(np.float64), net.init(0, shape))
    x, y = numbers(6, *shape).astype(np.float64), np.arange(6) % 4
    (values, outs), grads = per_example(net, cross_entropy)(params, x, y)
    (value, out), mean = value_and_grad(net, cross_entropy)(params, x, y)
    assert values.shape == (6,)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values.mean(), value, rtol=1e-12)
    np.testing.assert_allclose(outs, out, rtol=1e-12)
    tree_map(lambda a, b: np.testing.assert_allclose(a.mean(0), b, rtol=1e-9, atol=1e-12), grads, mean)
    (value, out), fourth = value_and_grad(net, cross_entropy)(params, x[3:4], y[3:4])
    assert values[3] == value
    tree_map(lambda a, b: np.testing.assert_array_equal(a[3], b), grads, fourth)


def test_per_example_folds_the_example_number_into_the_key() -> None:
    net = serial(noise([]), dense(2))
    params, x, y = net.init(0, (3,)), numbers(4, 3), numbers(4, 2, seed=1)
    (values, _), _ = per_example(net, mse)(params, x, y, 9)
    assert values[2] == value_and_grad(net, mse)(params, x[2:3], y[2:3], Key(9).fold(2))[0][0]
    assert values[2] != per_example(net, mse)(params, x, y, None)[0][0][2]


def test_per_example_needs_little_memory_beside_its_result() -> None:
    net = serial(dense(200), tanh, dense(100))
    params, x, y = net.init(0, (100,)), numbers(50, 100), np.arange(50)
    assert peak(partial(per_example(net, cross_entropy), params, x, y)) < 1.2 * 50 * 4 * tree_size(params)


def test_per_example_gradients_clip_with_one_tree_map() -> None:
    params, x, y = IMAGES.init(0, (1, 4, 6)), numbers(5, 1, 4, 6), np.arange(5) % 4
    _, grads = per_example(IMAGES, cross_entropy)(params, x, y)
    norms = np.sqrt(sum(np.square(g).reshape(5, -1).sum(1) for g in tree_leaves(grads)))
    clip = np.minimum(1, 0.1 / norms)
    clipped = tree_map(lambda g: np.tensordot(clip, g, 1), grads)
    assert np.sqrt(sum(np.square(g).sum() for g in tree_leaves(clipped))) <= 0.5


@pytest.mark.parametrize(
    ("x", "y"),
    [(numbers(3, 2), numbers(2, 2)), (numbers(), numbers()), (numbers(0, 2), numbers(0, 2)), (numbers(2, 2), 3)],
)
def test_per_example_needs_one_target_for_each_example(x: Array, y: Any) -> None:
    with pytest.raises(
        LossError, match=r"^per_example: expected a target for each example, at least one, got .* for float32"
    ):
        per_example(dense(2), mse)({}, x, y)


@pytest.mark.parametrize("size", [0, -1, 2.5, None])
def test_microbatch_refuses_bad_sizes(size: Any) -> None:
    with pytest.raises(OpError, match=f"^microbatch: size: expected an int of at least 1, got {size!r}"):
        microbatch(relu, size)


@given(st.integers(1, 40))
def test_tree_sum_adds_in_pairs(n: int) -> None:
    def paired(words: list[str]) -> str:
        if len(words) == 1:
            return words[0]
        half = 1 << (len(words) - 1).bit_length() - 1  # the largest power of two below
        return f"({paired(words[:half])}+{paired(words[half:])})"

    class Word(str):
        def __add__(self, other: str) -> "Word":
            return Word(f"({self}" + f"+{other})")

    words = [str(i) for i in range(n)]
    assert tree_sum({"a": {"b": Word(word)}} for word in words) == {"a": {"b": paired(words)}}


def test_tree_sum_is_pure() -> None:
    trees = [{"w": numbers(3, seed=i)} for i in range(3)]
    np.testing.assert_array_equal(tree_sum(trees)["w"], trees[0]["w"] + trees[1]["w"] + trees[2]["w"])


def test_tree_sum_refuses_trees_that_differ_and_no_trees() -> None:
    with pytest.raises(TreeError, match="trees differ"):
        tree_sum([{"a": 1}, {"b": 1}])
    with pytest.raises(TreeError, match="expected at least one tree to add, got none"):
        tree_sum([])
