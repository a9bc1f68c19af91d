"""`Op`: its errors, its repr, and operators written by users."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fnn
from fnn import (
    Key,
    Op,
    OpError,
    accurate_sum,
    avgpool,
    conv,
    dense,
    maxpool,
    operator,
    relu,
    serial,
    shard,
    softmax,
    tanh,
)
from fnn.checks.errors import describe
from fnn.init import zeros
from fnn.op import Array, Params, Vjp
from fnn.testing import check_op

X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
NET = serial(conv(4, 3), tanh, serial(maxpool(2), dense(5)), dense(3))
PARAMS = NET.init(0, (3, 8, 8))


def scale(params: Params, x: Array) -> tuple[Array, Vjp]:
    """A user's operator: multiplies each feature by a learned number."""
    s = params["s"]
    return x * s, lambda dy, need_dx=True: ({"s": accurate_sum(x * dy, 0)}, dy * s)


scaling = Op(lambda key, shape: {"s": np.ones(shape, np.float32)}, scale, kind="scaling")


def refusal(op: Op, params: Any, x: Any) -> str:
    with pytest.raises(OpError) as caught:
        op.apply(params, x)
    return str(caught.value)


def test_check_op_of_a_user_operator() -> None:
    assert check_op(scaling, (4,)) < 1e-6
    net = serial(dense(4), scaling, tanh, scaling)
    assert check_op(net, (3,)) < 1e-6
    assert list(net.init(0, (3,))) == ["dense1", "scaling1", "tanh1", "scaling2"]
    assert repr(net) == "serial(dense(4), scaling, tanh, scaling)"


def test_op_unpacks_into_init_and_apply() -> None:
    init, apply = dense(3)
    params = init(0, (4,))
    y, vjp = apply(params, np.ones((2, 4), np.float32))
    dparams, dx = vjp(np.ones_like(y))
    assert (y.shape, dx.shape, list(dparams)) == ((2, 3), (2, 4), ["w", "b"])


@pytest.mark.parametrize(
    ("op", "code"),
    [
        (conv(6, 3), "conv(6, 3)"),
        (conv(6, 3, padding=1, bias=False), "conv(6, 3, padding=1, bias=False)"),
        (conv(6, (3, 2), 2, "same"), "conv(6, (3, 2), stride=2, padding='same')"),
        (dense(5, w_init=zeros), "dense(5, w_init=zeros)"),
        (dense(out_features=5), "dense(5)"),
        (maxpool(2), "maxpool(2)"),
        (avgpool(3, stride=2), "avgpool(3, stride=2)"),
        (tanh, "tanh"),
        (softmax, "softmax"),
        (serial(), "serial()"),
        (NET, "serial(conv(4, 3), tanh, serial(maxpool(2), dense(5)), dense(3))"),
    ],
)
def test_op_repr_is_its_call(op: Op, code: str) -> None:
    assert repr(op) == code


def test_op_repr_of_a_long_net_has_a_line_for_each_part() -> None:
    inner = serial(*[conv(16, 3, padding=1) for _ in range(5)])
    lines = repr(serial(inner, dense(3))).splitlines()
    assert lines[:3] == ["serial(", "    serial(", "        conv(16, 3, padding=1),"]
    assert lines[-3:] == ["    ),", "    dense(3),", ")"]


@pytest.mark.parametrize("size", [100, 101])
def test_op_repr_has_lines_of_at_most_100_characters(size: int) -> None:
    code = "serial(" + "tanh, " * 13 + f"dense({10 ** (size - 94)}))"
    assert len(code) == size
    assert repr(serial(*[tanh] * 13, dense(10 ** (size - 94)))).startswith(code if size == 100 else "serial(\n")


def test_op_has_kind_config_and_parts() -> None:
    op = conv(6, 3, padding=1)
    assert op.kind == "conv"
    assert {**op.config, "w_init": None, "b_init": None} == {
        "out_channels": 6,
        "kernel_size": 3,
        "stride": 1,
        "padding": 1,
        "dilation": 1,
        "groups": 1,
        "bias": True,
        "w_init": None,
        "b_init": None,
    }
    assert list(NET.parts) == ["conv1", "tanh1", "serial1", "dense1"]
    assert repr(NET.parts["serial1"].parts["dense1"]) == "dense(5)"


def test_operator_keeps_name_and_docstring_of_constructors() -> None:
    assert conv.__name__ == "conv"
    assert (conv.__doc__ or "").startswith("Convolution")
    with pytest.raises(TypeError, match="unexpected keyword argument 'pad'"):
        conv(4, 3, pad=1)  # type: ignore[call-arg]


def test_operator_errors_name_the_constructor() -> None:
    @operator
    def picky(n: int) -> Op:
        raise OpError(f"n is {n}, wanted another")

    with pytest.raises(OpError) as caught:
        picky(3)
    assert str(caught.value) == "picky: n is 3, wanted another"


@pytest.mark.parametrize(
    ("shape", "came"),
    [
        (3, "3; write (3,)"),
        ([3, 8, 8], "[3, 8, 8]; write (3, 8, 8)"),
        (np.array([3, 8, 8]), "int64 (3,); write (3, 8, 8)"),
        (np.array(3), "int64 (); write (3,)"),
        ((3, 8.0, 8), "(3, 8.0, 8)"),
        ((3, -1, 8), "(3, -1, 8)"),
        ((True,), "(True,)"),
        (None, "None"),
        ("338", "'338'"),
    ],
)
def test_op_init_refuses_what_is_no_shape(shape: Any, came: str) -> None:
    with pytest.raises(OpError) as caught:
        conv(4, 3).init(0, shape)
    wanted = "expected the shape of one example, a tuple of ints without the batch axis"
    assert str(caught.value) == f"conv: {wanted}, got {came}"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.astype(np.int64), "expected an array of floats, got int64 (2, 3, 8, 8); use x.astype(np.float32)"),
        (X > 0, "expected an array of floats, got bool (2, 3, 8, 8); use x.astype(np.float32)"),
        (X.astype(np.complex64), "expected an array of floats, got complex64 (2, 3, 8, 8)"),
        (X.tolist(), "expected an array of floats, got a list; use np.array(x, np.float32)"),
        (1.0, "expected an array of floats, got a float"),
        (np.float32(1), "expected an array of floats, got a float32"),
        (np.array(1.0), "expected an array with a batch axis, got float64 ()"),
        (None, "expected an array of floats, got a NoneType"),
    ],
)
@pytest.mark.parametrize("op", [conv(4, 3), tanh, softmax, maxpool(2)], ids=repr)
def test_op_apply_refuses_what_is_no_batch_of_floats(op: Op, x: Any, message: str) -> None:
    assert refusal(op, op.init(0, (3, 8, 8)), x) == f"{op.kind}: {message}"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "expected params 'w', 'b', got none; 'w', 'b' are missing"),
        ({"s": 1}, "expected params 'w', 'b', got 's'; 'w', 'b' are missing; remove 's'"),
        ({"w": PARAMS["conv1"]["w"]}, "expected params 'w', 'b', got 'w'; 'b' is missing"),
        (PARAMS["conv1"] | {"s": 1}, "expected params 'w', 'b', got 'w', 'b', 's'; remove 's'"),
        (None, "expected params as a dict of 'w', 'b', got a NoneType"),
        ([1, 2], "expected params as a dict of 'w', 'b', got a list"),
        (X, "expected params as a dict of 'w', 'b', got float32 (2, 3, 8, 8)"),
    ],
)
def test_op_apply_refuses_params_of_another_operator(params: Any, message: str) -> None:
    assert refusal(conv(4, 3), params, X) == f"conv: {message}"


def test_op_error_names_the_path_deep_in_a_net() -> None:
    inner: Params = {"serial1": {"maxpool1": {}, "dense1": {}}}
    came = refusal(NET, PARAMS | inner, X)
    assert came == "serial1/dense1: expected params 'w', 'b', got none; 'w', 'b' are missing"
    came = refusal(NET, PARAMS | {"serial1": None}, X)
    assert came == "serial1: expected params as a dict of 'maxpool1', 'dense1', got a NoneType"
    came = refusal(NET, {name: PARAMS[name] for name in ("conv1", "tanh1", "serial1")}, X)
    names = "'conv1', 'tanh1', 'serial1'"
    assert came == f"serial: expected params {names}, 'dense1', got {names}; 'dense1' is missing"
    assert refusal(NET, PARAMS, X[:, :2]) == "conv1: expected 3 input channels, got 2"


def test_op_init_finds_bad_shapes_and_names_the_path() -> None:
    with pytest.raises(OpError) as caught:
        serial(conv(4, 3), serial(maxpool(2), conv(5, 4))).init(0, (1, 8, 8))
    assert str(caught.value) == "serial1/conv1: expected at least 4 pixels for a window of 4, got 3"


def test_op_apply_passes_other_errors_on_with_the_path_as_note() -> None:
    def broken(params: Params, x: Array) -> tuple[Array, Vjp]:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        serial(tanh, serial(Op(lambda key, shape: {}, broken, kind="broken"))).init(0, (3,))
    assert caught.value.__notes__ == ["in broken1", "in serial1"]


def test_op_apply_passes_a_users_key_error_on() -> None:
    def looks_up(params: Params, x: Array) -> tuple[Array, Vjp]:
        return {"a": x}[params["name"]], lambda dy, need_dx=True: ({}, dy)

    with pytest.raises(KeyError, match="b"):
        Op(lambda key, shape: {}, looks_up).apply({"name": "b", "b": 1}, X)


@pytest.mark.parametrize(
    ("dy", "came"),
    [
        (np.ones((2, 3)), "the float32 (2, 3) of the output, got float64 (2, 3)"),
        (np.ones((2, 4), np.float32), "the float32 (2, 3) of the output, got float32 (2, 4)"),
        (np.ones(3, np.float32), "the float32 (2, 3) of the output, got float32 (3,)"),
        (1.0, "an array of floats, got a float"),
        (None, "an array of floats, got a NoneType"),
    ],
)
@pytest.mark.parametrize(("op", "params"), [(NET, PARAMS), (dense(3), dense(3).init(0, (3, 8, 8)))], ids=["net", "op"])
def test_op_vjp_refuses_a_cotangent_unlike_the_output(op: Op, params: Params, dy: Any, came: str) -> None:
    _, vjp = op.apply(params, X)
    with pytest.raises(OpError) as caught:
        vjp(dy)
    assert str(caught.value) == f"{op.kind}: cotangent: expected {came}"


def test_op_error_is_a_value_error() -> None:
    assert issubclass(OpError, ValueError)
    assert str(OpError("alone")) == "alone"


def test_op_takes_options_by_name_only_and_functions_also_by_name() -> None:
    make: Any = Op
    assert make(apply=scale, init=scaling.init, kind="named").kind == "named"
    with pytest.raises(TypeError):
        make(scaling.init, scale, "kind")


def test_op_has_its_doc_or_that_of_the_class() -> None:
    assert Op(scaling.init, scale, doc="Scales.").__doc__ == "Scales."
    assert scaling.__doc__ == Op.__doc__


@pytest.mark.parametrize("option", ["takes_key", "needs_key", "draws"])
def test_op_takes_a_key_with_any_option_for_one(option: str) -> None:
    options: dict[str, Any] = {option: True}
    op = Op(scaling.init, scale, **options)
    assert op.takes_key
    assert op.draws
    assert not scaling.takes_key


WRONG_RESULTS: list[tuple[Any, str]] = [
    (None, "(y, vjp), got a NoneType"),
    ((X,), "(y, vjp), got a tuple"),
    ((X, len, len), "(y, vjp), got a tuple"),
    ([X, len], "(y, vjp), got a list"),
    ((X, None), "(y, vjp) with a function, got a NoneType as vjp"),
    (([1.0], len), "(y, vjp) with a plain array, got a list as y"),
]


@pytest.mark.parametrize(("result", "came"), WRONG_RESULTS)
def test_op_apply_refuses_what_is_no_pair_of_an_array_and_a_function(result: Any, came: str) -> None:
    op = Op(lambda key, shape: {}, lambda params, x: result, kind="mine")
    assert refusal(op, {}, X) == f"mine: expected apply to return {came}"


def test_op_apply_passes_no_key_without_takes_key() -> None:
    y, _ = scaling.apply({"s": np.ones(8, np.float32)}, X, 7)
    assert np.array_equal(y, X)


def test_op_apply_passes_a_key_or_none_with_takes_key() -> None:
    keys = []

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        keys.append(key)
        return x, lambda dy, need_dx=True: ({}, dy)

    op = Op(lambda key, shape: {}, apply, takes_key=True)
    op.apply({}, X)
    op.apply({}, X, 7)
    op.apply({}, X, Key(7, ("a",)))
    assert keys == [None, Key(7), Key(7, ("a",))]


def test_op_output_shape_is_that_of_one_example() -> None:
    assert NET.output_shape(PARAMS, (3, 8, 8)) == (3,)
    assert relu.output_shape({}, (5, 4)) == (5, 4)


def test_describe_names_arrays_by_dtype_and_shape_and_others_by_type() -> None:
    assert describe(X) == "float32 (2, 3, 8, 8)"
    assert describe("x") == "a str"


@pytest.mark.parametrize("make", [lambda: dense(True), lambda: conv(True, 3), lambda: shard(tanh, True)])
def test_constructors_refuse_true_as_a_size(make: Callable[[], Op]) -> None:
    with pytest.raises(OpError, match="True"):
        make()


def test_operator_keeps_the_kind_of_a_returned_op() -> None:
    @operator
    def activation() -> Op:
        return tanh

    assert repr(activation()) == "activation()"
    assert repr(tanh) == "tanh"


def test_op_vjp_errors_name_the_operator() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            raise OpError("no way back")

        return x, vjp

    y, vjp = Op(lambda key, shape: {}, apply, kind="oneway").apply({}, np.zeros((2, 3), np.float32))
    with pytest.raises(OpError, match=r"^oneway: no way back$"):
        vjp(y)


def test_op_apply_keeps_no_reference_to_the_output() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        return 2 * x, lambda dy, need_dx=True: ({}, 2 * dy)

    y, vjp = Op(lambda key, shape: {}, apply).apply({}, np.zeros((2, 3), np.float32))
    gone, dy = weakref.ref(y), y.copy()
    del y
    assert gone() is None
    assert vjp(dy)[1].shape == (2, 3)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (fnn.conv(10**10, 10**7), (1, 28, 28)),
        (fnn.dense(2**63 - 1), (1,)),
        (fnn.dense(2**63), (1,)),
        (fnn.dense(3), (2**62, 2**62)),
        (fnn.dense(3), (1,) * 70),
        (fnn.serial(fnn.tanh, fnn.embedding(2**62, 2**62)), ()),
        (fnn.batch_norm(), (2**62, 2, 2)),
    ],
)
def test_init_refuses_sizes_that_no_array_has(net: fnn.Op, shape: tuple[int, ...]) -> None:
    with pytest.raises(fnn.OpError, match=r"\w: expected arrays of sizes that NumPy allows, got larger ones: "):
        net.init(0, shape)


def test_any_text_is_a_name() -> None:
    net = fnn.serial(fnn.named("\ud800", fnn.dense(3)))
    assert np.any(net.init(0, (2,))["\ud800"]["w"] != fnn.serial(fnn.dense(3)).init(0, (2,))["dense1"]["w"])


@pytest.mark.parametrize("wrap", [fnn.residual, fnn.serial, fnn.remat, lambda op: fnn.parallel(op, fnn.dense(3))])
def test_operators_inside_each_other_work_or_state_the_limit(wrap: Callable[[fnn.Op], fnn.Op], tmp_path: Path) -> None:
    net = fnn.dense(3)
    while net.depth < 98:
        net = wrap(net)
    params, x = net.init(0, (3,)), np.ones((2, 3), np.float32)
    optimizer = fnn.averaged(fnn.adam(), 0.9)
    for op in (net, fnn.shard(net, 2, 1), fnn.check_finite(net)):
        _, grads = fnn.value_and_grad(op, fnn.cross_entropy)(params, x, np.zeros(2, np.int64), 0)
        _, state = optimizer.update(params, grads, optimizer.init(params))
        fnn.save(tmp_path / "state.pkl", {"params": params, "optimizer": state})
        fnn.load(tmp_path / "state.pkl")
    assert repr(net)
    assert fnn.summary(net, (3,))

    def wrap_400_times() -> fnn.Op:
        op = net
        for _ in range(400):
            op = wrap(op)
        return op

    with pytest.raises(fnn.OpError, match=r"\w: expected at most 100 operators inside each other, got more"):
        wrap_400_times()
