"""`serial`: names of parts, random numbers, and the work that it skips."""

from typing import Any

import numpy as np
import pytest

from fnn import Key, Op, OpError, conv, dense, maxpool, relu, serial, tanh, tree_items
from fnn.op import Array, Params, Vjp


def spy(log: list[tuple[str, Any]], name: str, draws: bool = False, params: bool = False) -> Op:
    """The identity, which records its keys and `need_dx`."""

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        log.append((f"{name} key", key))

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            log.append((f"{name} need_dx", need_dx))
            return {n: np.zeros_like(p) for n, p in params.items()}, dy if need_dx else None

        return x, vjp

    return Op(lambda key, shape: {"p": np.zeros(1, np.float32)} if params else {}, apply, kind=name, takes_key=True)


def same(one: Params, other: Params) -> bool:
    return all(np.array_equal(a, b) for (_, a), (_, b) in zip(tree_items(one), tree_items(other), strict=True))


def test_serial_names_parts_by_kind_and_ordinal() -> None:
    net = serial(conv(2, 3), tanh, conv(2, 3), maxpool(2), tanh, serial(dense(3), relu), dense(2))
    names = ["conv1", "tanh1", "conv2", "maxpool1", "tanh2", "serial1", "dense1"]
    assert list(net.parts) == list(net.init(0, (1, 9, 9))) == names


def test_serial_params_have_an_empty_dict_for_parts_without_params() -> None:
    assert serial(tanh, serial()).init(0, (3,)) == {"tanh1": {}, "serial1": {}}


def test_serial_initial_values_depend_on_names_not_positions() -> None:
    plain = serial(dense(4), dense(4)).init(0, (4,))
    put_between = serial(tanh, dense(4), relu, serial(), dense(4)).init(0, (4,))
    assert same(plain["dense1"], put_between["dense1"])
    assert same(plain["dense2"], put_between["dense2"])
    assert not np.array_equal(plain["dense1"]["w"], plain["dense2"]["w"])


def test_serial_initial_values_depend_on_outer_names() -> None:
    params = serial(dense(4), serial(dense(4))).init(0, (4,))
    assert not np.array_equal(params["dense1"]["w"], params["serial1"]["dense1"]["w"])


def test_serial_folds_part_names_into_the_key() -> None:
    log: list[tuple[str, Any]] = []
    net = serial(spy(log, "a"), serial(spy(log, "a"), spy(log, "b")), spy(log, "a"))
    net.init(0, (3,))
    log.clear()
    net.apply({"a1": {}, "serial1": {"a1": {}, "b1": {}}, "a2": {}}, np.ones((1, 3)), 7)
    paths = [("a1",), ("serial1", "a1"), ("serial1", "b1"), ("a2",)]
    assert [key for _, key in log] == [Key(7, path) for path in paths]


def test_serial_without_a_key_is_deterministic() -> None:
    log: list[tuple[str, Any]] = []
    net = serial(spy(log, "a"), dense(2))
    net.apply(net.init(0, (3,)), np.ones((1, 3), np.float32))
    assert {key for _, key in log} == {None}


def test_serial_without_need_dx_skips_parts_before_the_first_params() -> None:
    log: list[tuple[str, Any]] = []
    net = serial(spy(log, "a"), spy(log, "b", params=True), spy(log, "c"), spy(log, "d", params=True))
    params = net.init(0, (3,))
    y, vjp = net.apply(params, np.ones((1, 3), np.float32))
    log.clear()
    grads, dx = vjp(y, False)
    assert log == [("d need_dx", True), ("c need_dx", True), ("b need_dx", False)]
    assert dx is None
    assert list(grads) == ["a1", "b1", "c1", "d1"]


def test_serial_with_need_dx_calls_every_part() -> None:
    log: list[tuple[str, Any]] = []
    net = serial(spy(log, "a"), spy(log, "b", params=True))
    y, vjp = net.apply(net.init(0, (3,)), np.ones((1, 3), np.float32))
    log.clear()
    vjp(y)
    assert log == [("b need_dx", True), ("a need_dx", True)]


def test_serial_without_params_does_nothing_without_need_dx() -> None:
    log: list[tuple[str, Any]] = []
    y, vjp = serial(spy(log, "a")).apply({"a1": {}}, np.ones((1, 3)))
    log.clear()
    assert vjp(y, False) == ({"a1": {}}, None)
    assert log == []


def test_serial_of_nothing_is_the_identity() -> None:
    x = np.arange(6.0).reshape(2, 3)
    y, vjp = serial().apply({}, x)
    dparams, dx = vjp(2 * x)
    assert np.array_equal(y, x)
    assert np.array_equal(dx, 2 * x)
    assert dparams == {}


def test_serial_in_serial_changes_names_but_no_numbers() -> None:
    flat, nested = serial(dense(4), tanh, dense(2)), serial(serial(dense(4), tanh), dense(2))
    params = flat.init(0, (3,))
    inner = {"dense1": params["dense1"], "tanh1": {}}
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    y, vjp = flat.apply(params, x)
    z, other = nested.apply({"serial1": inner, "dense1": params["dense2"]}, x)
    assert np.array_equal(y, z)
    assert np.array_equal(vjp(y)[1], other(y)[1])


@pytest.mark.parametrize(("part", "came"), [(3, "3"), ([tanh], "a list; unpack it with *"), (None, "None")])
def test_serial_refuses_what_is_no_operator(part: Any, came: str) -> None:
    with pytest.raises(OpError) as caught:
        serial(tanh, part)
    assert str(caught.value) == f"serial: expected an operator, got {came}"
