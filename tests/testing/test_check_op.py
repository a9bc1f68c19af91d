"""`check_op` and `check_loss` find and name the faults of wrong operators and losses."""

import runpy
import sys
from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
import pytest

from fnn import (
    Key,
    Op,
    OpError,
    accurate_sum,
    avgpool,
    conv,
    cross_entropy,
    dense,
    embedding,
    maxpool,
    mse,
    operator,
    relu,
    serial,
    softmax,
    tanh,
)
from fnn.kernels.process import BLAS_VARIABLES
from fnn.op import Array, Params, Vjp
from fnn.testing import PROPERTIES, CheckError, check_loss, check_op
from fnn.testing import __main__ as main_module
from fnn.testing.table import TABLE, Example
from tests.support.programs import python


def with_vjp(op: Op, change: Callable[[Params, Any], tuple[Params, Any]]) -> Op:
    """Returns `op` with `change` applied to the results of its vjp."""

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        y, vjp = op.apply(params, x)
        return y, lambda dy, need_dx=True: change(*vjp(dy, need_dx))

    return Op(op.init, apply, kind=f"wrong {op.kind}")


def elementwise(f: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Op:
    """Returns an elementwise operator."""
    return Op(lambda key, shape: {}, lambda params, x: (f(x), lambda dy, need_dx=True: ({}, dy * slope(x))))


def scaled(dparams: Params, dx: Any, factor: float = 1.001) -> tuple[Params, Any]:
    return {name: d * d.dtype.type(factor) for name, d in dparams.items()}, dx


def lacks(name: str, op: Op, shape: tuple[int, ...] = (4,), message: str = ": ", **options: Any) -> None:
    """Asserts that `check_op` fails in that property."""
    with pytest.raises(CheckError, match=message) as caught:
        check_op(op, shape, **options)
    assert caught.value.property == name
    assert f": {name}: " in str(caught.value)


# Wrong gradients


def test_check_op_finds_a_params_gradient_off_by_a_thousandth() -> None:
    lacks(
        "gradient in params",
        with_vjp(dense(3), scaled),
        message=r"params/w: expected -?\d.* \(central difference\), got -?\d",
    )
    lacks("gradient in params", with_vjp(conv(3, 3), scaled), (2, 5, 5))


def test_check_op_finds_an_input_gradient_off_by_a_thousandth() -> None:
    def scaled_dx(dparams: Params, dx: Any) -> tuple[Params, Any]:
        return dparams, None if dx is None else dx * dx.dtype.type(1.001)

    shapes = {dense(3): (4,), conv(3, 3): (2, 5, 5), maxpool(2): (1, 4, 4), avgpool(2): (1, 4, 4), tanh: (4,)}
    shapes |= {softmax: (4,), relu: (4,), serial(dense(9), tanh, dense(2)): (4,)}
    for op, shape in shapes.items():
        lacks(
            "gradient in input",
            with_vjp(op, scaled_dx),
            shape,
            r"input: expected -?\d.* \(central difference\), got -?\d",
        )


def test_check_op_names_the_wrong_leaf() -> None:
    def bias_scaled(dparams: Params, dx: Any) -> tuple[Params, Any]:
        return {"w": dparams["w"], "b": dparams["b"] * dparams["b"].dtype.type(0.999)}, dx

    net = serial(dense(3), tanh, with_vjp(dense(2), bias_scaled))
    lacks("gradient in params", net, message="params/wrong dense1/b: expected")


def test_check_op_finds_a_kernel_that_is_not_flipped() -> None:
    right = conv(2, 3, padding=1, bias=False)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        y, vjp = right.apply(params, x)

        def wrong(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            swapped = np.ascontiguousarray(params["w"].swapaxes(0, 1))
            return vjp(dy)[0], right.apply({"w": swapped}, dy)[0]  # correlates where it should convolve

        return y, wrong

    lacks("gradient in input", Op(right.init, apply), (2, 5, 5))


@pytest.mark.parametrize("op", [conv(2, 3), dense(3)], ids=repr)
def test_check_op_finds_a_mean_over_the_batch_instead_of_a_sum(op: Op) -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        y, vjp = op.apply(params, x)

        def mean(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            dparams, dx = vjp(dy, need_dx)
            return {name: d / max(1, len(x)) for name, d in dparams.items()}, dx

        return y, mean

    lacks("gradient in params", Op(op.init, apply), (2, 4, 4))


def largest_of_pairs(share: Callable[[Array], Array]) -> Op:
    """Returns an operator: the maximum of each two neighbours. `share(pairs)` splits the gradient between them."""

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        pairs = x.reshape(len(x), x.shape[1] // 2, 2)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            return {}, (dy[..., None] * share(pairs)).astype(x.dtype).reshape(x.shape)

        return np.asarray(pairs.max(-1)), vjp

    return Op(lambda key, shape: {}, apply)


def test_check_op_finds_a_tie_counted_twice() -> None:
    lacks("gradient in input", largest_of_pairs(lambda pairs: pairs == pairs.max(-1, keepdims=True)), (8,))


def test_check_op_accepts_any_way_to_count_a_tie_once() -> None:
    def first(pairs: Array) -> Array:
        return np.stack([pairs[..., 0] >= pairs[..., 1], pairs[..., 0] < pairs[..., 1]], -1)

    def halves(pairs: Array) -> Array:
        largest = np.equal(pairs, pairs.max(-1, keepdims=True))
        return np.asarray(largest / largest.sum(-1, keepdims=True))

    for share in (first, halves, lambda pairs: first(pairs[..., ::-1])[..., ::-1]):
        check_op(largest_of_pairs(share), (8,))


def test_check_op_finds_a_missing_gradient() -> None:
    lacks("gradient in input", elementwise(np.tanh, np.zeros_like))
    lacks("gradient in input", elementwise(np.zeros_like, np.ones_like))


def test_check_op_finds_an_error_in_one_pixel() -> None:
    def corner(dparams: Params, dx: Any) -> tuple[Params, Any]:
        if dx is not None:
            dx = dx.copy()
            dx[..., 0, 0] *= 0.9
        return dparams, dx

    lacks("gradient in input", with_vjp(conv(2, 3, padding=1), corner), (2, 8, 8))


def test_check_op_finds_a_forgotten_scale_that_starts_at_one() -> None:
    def init(key: Key, shape: tuple[int, ...]) -> Params:
        return {"scale": np.ones(shape, np.float32)}

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        return x * params["scale"], lambda dy, need_dx=True: ({"scale": (x * dy).sum(0)}, dy)

    lacks("gradient in input", Op(init, apply))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_check_op_has_no_false_alarm_at_kinks(seed: int) -> None:
    net = serial(conv(3, 3, padding=1), relu, maxpool(2), relu, maxpool(3, 1, 1), dense(8), relu, dense(4), relu)
    assert check_op(net, (2, 7, 6), seed, exempt={"threads"}) < 1e-6


# Impure operators


def test_check_op_finds_writes_to_the_input() -> None:
    def halve(x: Array) -> Array:
        x *= x.dtype.type(0.5)
        return x

    lacks("purity", elementwise(halve, lambda x: np.full_like(x, 0.5)), message="expected no writes to the arguments")


def test_check_op_finds_writes_to_the_cotangent() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            dy *= dy.dtype.type(2)
            return {}, dy

        return 2 * x, vjp

    lacks("purity", Op(lambda key, shape: {}, apply), message="expected no writes to the arguments")


def test_check_op_finds_new_entries_in_the_params() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        y, vjp = dense(2).apply({name: params[name] for name in ("w", "b")}, x)
        params[f"call{len(params)}"] = np.zeros((), np.float32)
        return y, vjp

    lacks("purity", Op(dense(2).init, apply), message="trees differ")


def test_check_op_finds_replaced_params() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        params["w"] = np.sign(params["w"])  # which a second call does not change any more
        return dense(2).apply(params, x)

    lacks(
        "purity",
        Op(dense(2).init, apply),
        message=r"w\[0, 0\] of the given params, after a call: expected .*, got -?1.0",
    )


def test_check_op_finds_state_between_calls() -> None:
    calls = iter(range(10**6))
    lacks("purity", elementwise(lambda x: x + next(calls), np.ones_like), message="in a second call")


def test_check_op_finds_a_shared_generator() -> None:
    rng = np.random.default_rng(0)
    lacks("purity", elementwise(lambda x: x + rng.standard_normal(x.shape).astype(x.dtype), np.ones_like))


def test_check_op_finds_a_vjp_that_reads_the_last_apply() -> None:
    left: dict[str, Array] = {}

    def square(x: Array) -> Array:
        left["x"] = x
        return x * x

    lacks("purity", elementwise(square, lambda x: 2 * left["x"][: len(x)]), message="out of order")


def test_check_op_finds_results_cached_by_array_identity() -> None:
    last: dict[str, Any] = {}

    def kept(x: Array) -> Array:
        if last.get("x") is not x:
            last.update(x=x, y=np.tanh(x))
        return np.array(last["y"])

    lacks(
        "purity", elementwise(kept, lambda x: 1 - np.tanh(x) ** 2), message="if the same arrays contain other numbers"
    )

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        if last.get("params") is not params["w"]:
            last.update(params=params["w"], w=params["w"].copy())
        return dense(2).apply({**params, "w": last["w"]}, x)

    lacks("purity", Op(dense(2).init, apply), message="if the same arrays contain other numbers")


def test_check_op_finds_a_vjp_that_accumulates() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        total = np.zeros_like(x)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            np.add(total, dy, out=total)
            return {}, total

        return x.copy(), vjp

    lacks("purity", Op(lambda key, shape: {}, apply))


def test_check_op_finds_an_output_that_a_later_call_overwrites() -> None:
    memory: dict[Any, Array] = {}

    def double(x: Array) -> Array:
        y = memory.setdefault((x.shape, x.dtype), np.empty_like(x))
        return np.multiply(2, x, out=y)

    lacks("purity", elementwise(double, lambda x: np.full_like(x, 2)))


def test_check_op_finds_a_gradient_that_a_later_call_overwrites() -> None:
    memory: dict[Any, Array] = {}

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            return {}, np.multiply(2, dy, out=memory.setdefault((dy.shape, dy.dtype), np.empty_like(dy)))

        return 2 * x, vjp

    lacks("purity", Op(lambda key, shape: {}, apply), message=r"input\[0, 0\] after later calls")


@pytest.mark.parametrize("seed", range(5))
def test_check_op_finds_a_buffer_that_threads_share(seed: int) -> None:
    memory: dict[Any, Array] = {}

    def tanh_of_double(x: Array) -> Array:
        scratch = memory.setdefault((x.shape, x.dtype), np.empty_like(x))
        np.multiply(2, x, out=scratch)
        return np.asarray(np.tanh(scratch))

    op = elementwise(tanh_of_double, lambda x: 2 - 2 * np.tanh(2 * x) ** 2)
    lacks("threads", op, (5,), "while another thread", rng=seed)


@pytest.mark.slow
def test_check_op_accepts_a_buffer_behind_a_lock() -> None:
    memory: dict[Any, Array] = {}
    lock = Lock()

    def tanh_of_double(x: Array) -> Array:
        with lock:
            scratch = memory.setdefault((x.shape, x.dtype), np.empty_like(x))
            np.multiply(2, x, out=scratch)
            return np.asarray(np.tanh(scratch))

    assert check_op(elementwise(tanh_of_double, lambda x: 2 - 2 * np.tanh(2 * x) ** 2), (5,)) < 1e-6


def test_check_op_finds_initial_values_that_differ_between_calls() -> None:
    rng = np.random.default_rng(0)

    def init(key: Key, shape: tuple[int, ...]) -> Params:
        return {"w": rng.standard_normal((*shape, 2)).astype(np.float32), "b": np.zeros(2, np.float32)}

    lacks("init", Op(init, dense(2).apply), message=r"w\[0, 0\] of a second init with the same key: expected")


# Wrong shapes and dtypes


def test_check_op_finds_float64_results_for_float32() -> None:
    upcast = elementwise(lambda x: x * np.float64(2), lambda x: np.full_like(x, 2))
    lacks("shapes and dtypes", upcast, message=r"output for float32: expected float32 \(3, 4\), got float64 \(3, 4\)")
    lacks("shapes and dtypes", with_vjp(dense(2), lambda dparams, dx: (dparams, dx.astype(np.float64))))
    wide = with_vjp(dense(2), lambda dparams, dx: ({**dparams, "b": dparams["b"].astype(np.float64)}, dx))
    lacks("shapes and dtypes", wide, message="params/b for float32: expected float32 .*, got float64")


def test_check_op_finds_float32_results_for_float64() -> None:
    narrow = elementwise(lambda x: (2 * x).astype(np.float32), lambda x: np.full_like(x, 2))
    lacks("shapes and dtypes", narrow, message="for float64: expected float64 .*, got float32")


def test_check_op_finds_a_result_that_is_wrong_in_float32() -> None:
    wrong = elementwise(lambda x: x * (2 if x.dtype == np.float64 else 3), lambda x: np.full_like(x, 2))
    lacks("precision", wrong, message="in float32: expected")


def test_check_op_finds_gradients_that_are_wrong_in_float32() -> None:
    def wrong(dparams: Params, dx: Any) -> tuple[Params, Any]:
        return {**dparams, "b": dparams["b"] * (2 if dparams["b"].dtype == np.float32 else 1)}, dx

    lacks("precision", with_vjp(dense(2), wrong), message=r"params/b\[0\] in float32: expected")
    lacks("precision", elementwise(np.tanh, lambda x: 1 - np.tanh(x + x.dtype.type(1e5) - x.dtype.type(1e5)) ** 2))


def test_check_op_accepts_numpy_scalars_as_gradients() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        return x * params["a"], lambda dy, need_dx=True: ({"a": (x * dy).sum()}, dy * params["a"])

    assert check_op(Op(lambda key, shape: {"a": np.ones((), np.float32)}, apply), (4,)) < 1e-6
    scalar = Op(lambda key, shape: {"a": np.float32(1)}, apply)
    lacks("init", scalar, message="a: expected a float32 array, got a float32")


def test_check_op_finds_float64_initial_values() -> None:
    double = Op(lambda key, shape: {"w": np.ones((*shape, 2))}, lambda params, x: dense(2, bias=False).apply(params, x))
    with pytest.raises(OpError, match="expected float64 input as the params are"):
        double.init(0, (4,))

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        return x * params["w"].astype(x.dtype), lambda dy, need_dx=True: ({"w": (x * dy).sum(0)}, dy * params["w"])

    lacks(
        "init",
        Op(lambda key, shape: {"w": np.ones(shape)}, apply),
        message=r"w: expected a float32 array, got float64 \(4,\)",
    )


def test_check_op_finds_gradients_of_another_structure() -> None:
    lacks("shapes and dtypes", with_vjp(dense(2), lambda dparams, dx: ({"w": dparams["w"]}, dx)), message="'params/b'")
    lacks("shapes and dtypes", with_vjp(dense(2), lambda dparams, dx: ({**dparams, "b": dparams["b"][None]}, dx)))
    lacks(
        "shapes and dtypes",
        with_vjp(dense(2), lambda dparams, dx: (dparams, None)),
        message="input for float32: expected float32 .*, got a NoneType",
    )
    nothing = with_vjp(serial(tanh, dense(2)), lambda dparams, dx: ({"dense1": dparams["dense1"]}, dx))
    lacks("shapes and dtypes", nothing, message="trees differ")


def test_check_op_finds_an_input_gradient_that_broadcasts() -> None:
    row = with_vjp(dense(2), lambda dparams, dx: (dparams, dx[:1]))
    lacks("shapes and dtypes", row, message=r"input for float32: expected float32 \(3, 4\), got float32 \(1, 4\)")


@pytest.mark.parametrize(
    ("name", "dx", "message"),
    [
        ("shapes and dtypes", lambda dx: None, r"input for float32: expected float32 \(3, 4\), got a NoneType"),
        ("shapes and dtypes", lambda dx: dx.astype(int), "input for float32: expected float32 .*, got int64"),
        ("gradient in input", lambda dx: dx + 1, r"input\[0, 0\] of a constant: expected 0.0, got 1.0"),
    ],
)
def test_check_op_finds_a_nonzero_cotangent_of_integers(name: str, dx: Callable[[Array], Any], message: str) -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        y, vjp = embedding(5, 3).apply(params, x)
        return y, lambda dy, need_dx=True: (vjp(dy)[0], dx(vjp(dy)[1]))

    op = Op(embedding(5, 3).init, apply, integers=True)
    lacks(name, op, message=message, x=np.arange(12).reshape(3, 4) % 5)


def test_check_op_finds_an_output_shape_that_depends_on_the_batch() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        y = x.reshape(len(x), -1) if len(x) else x
        return y, lambda dy, need_dx=True: ({}, dy.reshape(x.shape))

    lacks(
        "shapes and dtypes",
        Op(lambda key, shape: {}, apply),
        (2, 3),
        r"output: expected shape \(3, 2, 3\), as output_shape says, got \(3, 6\)",
    )


def test_check_op_finds_need_dx_that_changes_dparams() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        y, vjp = dense(2).apply(params, x)

        def wrong(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            dparams, dx = vjp(dy)
            return (dparams, dx) if need_dx else ({name: 0 * d for name, d in dparams.items()}, None)

        return y, wrong

    lacks("need_dx", Op(dense(2).init, apply), message="with need_dx=False")


# Wrong batches


def test_check_op_finds_wrong_gradients_of_an_empty_batch() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        y, vjp = dense(2).apply(params, x)

        def wrong(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            dparams, dx = vjp(dy, need_dx)
            return (dparams if len(x) else {"w": dparams["w"] + 1, "b": dparams["b"]}), dx

        return y, wrong

    lacks(
        "empty batch", Op(dense(2).init, apply), message=r"params/w\[0, 0\] for an empty batch: expected 0.0, got 1.0"
    )


def test_check_op_finds_an_operator_that_refuses_an_empty_batch() -> None:
    lacks(
        "init",
        elementwise(lambda x: x - 0 * x.max(), np.ones_like),
        message="expected no error, got ValueError: zero-size array",
    )


def test_check_op_finds_dependence_on_other_examples() -> None:
    centred = Op(
        lambda key, shape: {},
        lambda params, x: (
            x - accurate_sum(x, 0) / max(1, len(x)),
            lambda dy, need_dx=True: ({}, dy - accurate_sum(dy, 0) / max(1, len(dy))),
        ),
    )
    lacks("batch independence", centred, message=r"output\[0, 0\] of example 0 alone: expected .*, got 0.0")
    assert check_op(centred, (4,), exempt=["batch independence"]) < 1e-6


def test_check_op_finds_a_params_gradient_that_is_wrong_for_one_example() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        y, vjp = dense(2).apply(params, x)

        def wrong(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            dparams, dx = vjp(dy, need_dx)
            return {**dparams, "b": dparams["b"] * (2 if len(x) == 1 else 1)}, dx

        return y, wrong

    lacks(
        "batch independence", Op(dense(2).init, apply), message=r"params/b\[0\] of example 0 repeated 3 times: expected"
    )


def test_check_op_finds_dependence_on_the_batch_size() -> None:
    sized = elementwise(lambda x: x * len(x), lambda x: np.full_like(x, len(x)))
    lacks("batch independence", sized, message="alone")


def test_check_op_finds_dependence_on_the_previous_example() -> None:
    rolled = Op(
        lambda key, shape: {},
        lambda params, x: (x + np.roll(x, 1, 0), lambda dy, need_dx=True: ({}, dy + np.roll(dy, -1, 0))),
    )
    lacks("batch independence", rolled)
    lacks("batch independence", serial(dense(3), rolled, tanh))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("Fortran", lambda x: x.ravel("A").reshape(x.shape)),
        (
            "reversed and strided",
            lambda x: np.ndarray(x.shape, x.dtype, np.array(x).data) if x.flags.c_contiguous else -x,
        ),
    ],
)
def test_check_op_finds_dependence_on_the_memory_order(name: str, wrong: Callable[[Array], Array]) -> None:
    lacks("memory order", elementwise(wrong, np.ones_like), (4, 3), "in memory order .*: expected")


def test_check_op_finds_dependence_on_the_memory_order_of_the_cotangent() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        return x.copy(), lambda dy, need_dx=True: ({}, dy if dy.strides[0] >= 0 else -dy)

    lacks("memory order", Op(lambda key, shape: {}, apply), message="in memory order reversed and strided: expected")


# What is drawn


@operator
def noise(careless: bool = False) -> Op:
    """Multiplies by noise if there is a key; with the same key the same noise, unless `careless`."""
    careless_rng = np.random.default_rng(0)

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        rng = careless_rng if careless else key.generator() if key else None
        drawn = 0 if rng is None else rng.standard_normal(x.shape).astype(x.dtype)
        return x * (1 + drawn), lambda dy, need_dx=True: ({}, dy * (1 + drawn))

    return Op(lambda key, shape: {}, apply, takes_key=True)


def test_check_op_of_random_operators_with_a_key_and_without() -> None:
    assert check_op(noise(), (4,)) < 1e-6
    assert check_op(noise(), (4,), key=7) < 1e-6
    assert check_op(serial(dense(3), noise(), tanh), (4,), key=Key(7, ("step", 3))) < 1e-6
    lacks("purity", noise(careless=True), key=7)


# The function itself


def test_check_op_returns_the_largest_gradient_error() -> None:
    assert 0 < check_op(tanh, (4,)) < 1e-6
    assert check_op(serial(), (4,), exempt=PROPERTIES) == 0


def test_check_op_uses_the_same_numbers_for_the_same_seed() -> None:
    assert check_op(dense(3), (4,), 5) == check_op(dense(3), (4,), Key(5)) != check_op(dense(3), (4,), 6)


def test_check_op_takes_an_input() -> None:
    log = elementwise(np.log, lambda x: 1 / x)
    assert check_op(log, (4,), x=np.linspace(0.5, 2, 12).reshape(3, 4)) < 1e-6


@pytest.mark.parametrize(
    "options", [{"x": [[1.0] * 4]}, {"x": np.ones((3, 5))}, {"x": np.ones(())}, {"x": np.ones((0, 4))}]
)
def test_check_op_refuses_an_input_of_another_shape(options: Any) -> None:
    with pytest.raises(ValueError, match=r"^x: expected an array of at least one example of shape \(4,\), got"):
        check_op(tanh, (4,), **options)


def test_check_op_refuses_an_unknown_exemption() -> None:
    with pytest.raises(ValueError, match=r"exempt: expected some of \['call', 'purity', .*, got \['puritan'\]"):
        check_op(tanh, (4,), exempt=["puritan"])


def test_check_op_constants_must_have_zero_gradients() -> None:
    def without_bias(dparams: Params, dx: Any) -> tuple[Params, Any]:
        return {"w": dparams["w"], "b": 0 * dparams["b"]}, dx

    op = with_vjp(dense(3), without_bias)
    lacks("gradient in params", op, message="params/b: expected")
    assert check_op(op, (4,), constants=["b"]) < 1e-6
    lacks("gradient in params", op, message=r"params/w\[0, 0\] of a constant: expected 0.0, got", constants=["b", "w"])
    lacks("gradient in params", with_vjp(op, scaled), message="params/w: expected", constants=["b"])


def test_check_op_refuses_an_unknown_constant() -> None:
    with pytest.raises(ValueError, match=r"constants: expected some of \['w', 'b'\], got \['mean'\]"):
        check_op(dense(3), (4,), constants=["mean"])


def test_python_m_fnn_testing_prints_failed_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"tanh": [Example(tanh, (4,))], "wrong": [Example(elementwise(np.tanh, np.zeros_like), (4,), key=1)]}
    monkeypatch.setattr(main_module, "TABLE", rows)
    assert main_module.main() == 1
    right, wrong, error, last = capsys.readouterr().out.splitlines()
    assert right.endswith("  tanh (3, 4)")
    assert wrong == "  FAILED  op (3, 4), with a key"
    assert error.strip().startswith("op: gradient in input: input: expected ")
    assert last.startswith("1 of 2 passed")


@pytest.mark.slow
def test_python_m_fnn_testing_runs_as_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in TABLE.keys() - {"batch_norm", "conv", "shard"}:  # tests/test_operators.py checks all
        monkeypatch.delitem(TABLE, name)
    monkeypatch.delitem(sys.modules, main_module.__name__)  # `python -m` imports it once, too
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("fnn.testing", run_name="__main__")
    out, err = capsys.readouterr()
    assert err == ""
    *lines, last = out.splitlines()
    shown = [line.split("  ")[-1] for line in lines]
    assert "conv(3, 3) (3, 2, 6, 5)" in shown
    assert "batch_norm() (5, 3), with a key, without batch independence" in shown
    assert all(float(line.split()[0]) < 1e-6 for line in lines)
    assert last.startswith(f"{len(lines)} of {len(lines)} passed")


def test_table_import_does_not_warn_but_its_shards_do() -> None:
    code = """
import sys
sys.modules["threadpoolctl"] = None
from fnn.op import Op
from fnn.testing.table import TABLE
shards = [row for rows in TABLE.values() for row in rows if not isinstance(row.source, Op)]
assert len(shards) == 2
try:
    [row.op for row in shards]
except RuntimeWarning as warning:
    print(warning)
"""
    ran = python("-W", "error", "-c", code, **dict.fromkeys(BLAS_VARIABLES, "2"))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("shard: BLAS may use several threads")


# Losses


LOGITS = np.random.default_rng(0).standard_normal((5, 3))


def loss_with(change: Callable[[Any, Array], tuple[Any, Array]]) -> Callable[..., Any]:
    """Returns mse with `change` applied to its value and its gradient."""

    def wrong(outputs: Array, targets: Array) -> tuple[Any, Callable[[], Array]]:
        value, vjp = mse(outputs, targets)
        return change(value, vjp())[0], lambda: change(value, vjp())[1]

    return wrong


def test_check_loss_accepts_right_losses() -> None:
    assert check_loss(cross_entropy, LOGITS, np.array([0, 2, 1, 1, 0])) < 1e-6
    assert check_loss(mse, LOGITS, LOGITS[::-1]) < 1e-6


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("gradient", loss_with(lambda value, d: (value, d * d.dtype.type(1.001)))),
        ("mean", loss_with(lambda value, d: (value * d.size, d * d.size))),
        ("mean", loss_with(lambda value, d: (value, d * d.size))),
        ("dtypes", loss_with(lambda value, d: (np.float64(value), d))),
        ("dtypes", loss_with(lambda value, d: (value, d.astype(np.float64)))),
        ("dtypes", loss_with(lambda value, d: (value, d[0]))),
        ("memory order", lambda outputs, targets: mse(outputs.ravel("A").reshape(outputs.shape), targets)),
    ],
)
def test_check_loss_finds_wrong_losses(name: str, wrong: Any) -> None:
    with pytest.raises(CheckError) as caught:
        check_loss(wrong, LOGITS, LOGITS[::-1])
    assert caught.value.property == name


def test_check_loss_finds_impure_losses() -> None:
    def writes(outputs: Array, targets: Array) -> Any:
        outputs -= targets
        return mse(outputs, targets)

    def twice(outputs: Array, targets: Array) -> Any:
        value, vjp = mse(outputs, targets)
        d = vjp()
        return value, lambda: np.add(d, d, out=d)

    memory: dict[Any, Array] = {}

    def overwritten(outputs: Array, targets: Array) -> Any:
        value, vjp = mse(outputs, targets)
        shared = memory.setdefault((outputs.shape, outputs.dtype), np.empty_like(outputs))
        return value, lambda: np.multiply(1, vjp(), out=shared)

    calls = iter(range(10**6))
    counts = loss_with(lambda value, d: (value + value.dtype.type(1e-6 * next(calls)), d))
    for wrong, message in (
        (writes, "purity: expected no writes to the arguments"),
        (counts, r"purity: value\[\] in a second call"),
        (overwritten, r"purity: outputs\[0, 0\] after later calls"),
        (twice, "if the vjp is called again"),
    ):
        with pytest.raises(CheckError, match=message):
            check_loss(wrong, LOGITS, LOGITS[::-1])
