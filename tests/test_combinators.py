"""Combinators with named parts: results, names in params, and paths in errors."""

import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import Key, Op, OpError, conv, dense, flatten, maxpool, relu, serial, softmax, tanh, tree_items, tree_map
from fnn.combinators import named, parallel, repeat, residual, shared
from fnn.op import Array, Params, Shape, Vjp
from fnn.testing import check_op
from fnn.transforms import check_finite, freeze, microbatch, remat, shard

TRANSPARENT: list[Callable[[Op], Op]] = [
    remat,
    freeze,
    check_finite,
    lambda op: microbatch(op, 2),
    lambda op: shard(op, 1),
]


def numbers(*shape: int, seed: int = 0) -> Array:
    array = np.random.default_rng(seed).standard_normal(shape)
    array.flags.writeable = False
    return array


def doubles(op: Op, shape: Shape, rng: int = 0) -> Params:
    params: Params = tree_map(lambda a: a.astype(np.float64), op.init(rng, shape))
    return params


def paths(op: Op, shape: Shape) -> list[str]:
    return [path for path, _ in tree_items(op.init(0, shape))]


def recorder(log: list[Any]) -> Op:
    """The identity, which records its keys and `need_dx`."""

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        log.append(key)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
            log.append(need_dx)
            return {}, dy.copy()

        return x.copy(), vjp

    return Op(lambda key, shape: {}, apply, kind="recorder", takes_key=True)


def broken(stage: str) -> Op:
    """The identity, which raises an error at that stage."""

    def fail(here: str) -> None:
        if here == stage:
            raise OpError("broken, wanted sound")

    def init(key: Key, shape: Shape) -> Params:
        fail("init")
        return {"w": np.ones(1, np.float32)}

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        if len(x):
            fail("apply")

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
            fail("vjp")
            return {"w": np.zeros(1, dy.dtype)}, dy

        return x, vjp

    return Op(init, apply, kind="broken")


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (residual(dense(4)), (4,)),
        (residual(serial(conv(2, 3, padding=1), tanh)), (2, 4, 5)),
        (residual(serial()), (3,)),
        (parallel(dense(3), serial(dense(4), tanh, dense(3))), (5,)),
        (parallel(conv(2, 1), conv(3, 3, padding=1), serial(), join="concat"), (2, 5, 4)),
        (parallel(dense(1), join="concat"), (2,)),
        (parallel(softmax, dense(1), join="concat"), (3,)),
        (named("head", dense(4)), (3,)),
        (repeat(serial(dense(4), tanh), 3), (4,)),
        (repeat(dense(4), 2), (3,)),
        (repeat(maxpool(2), 2), (1, 4, 4)),
        (shared(serial(dense(4), tanh), 3), (4,)),
        (shared(residual(dense(2)), 1), (2,)),
        (shared(maxpool(2), 2), (1, 5, 4)),
    ],
    ids=repr,
)
def test_check_op_of_combinators(op: Op, shape: Shape) -> None:
    check_op(op, shape)


def test_residual_adds_its_input() -> None:
    op, x = residual(dense(3)), numbers(4, 3)
    params = doubles(op, (3,))
    y, vjp = op.apply(params, x)
    inner, inner_vjp = dense(3).apply(params["dense1"], x)
    assert np.array_equal(y, inner + x)
    (grads, dx), (inner_grads, inner_dx) = vjp(y), inner_vjp(y)
    assert np.array_equal(dx, inner_dx + y)
    assert np.array_equal(grads["dense1"]["w"], inner_grads["w"])


@pytest.mark.parametrize("join", ["sum", "concat"])
def test_parallel_adds_the_outputs_of_its_parts(join: Literal["sum", "concat"]) -> None:
    op, x = parallel(dense(2), tanh, join=join), numbers(4, 2)
    params = doubles(op, (2,))
    y, _ = op.apply(params, x)
    first, second = dense(2).apply(params["dense1"], x)[0], np.tanh(x)
    assert np.array_equal(y, first + second if join == "sum" else np.hstack([first, second]))


def test_parallel_concat_joins_channels() -> None:
    op = parallel(conv(2, 1), conv(3, 1), join="concat")
    assert op.output_shape(op.init(0, (1, 4, 6)), (1, 4, 6)) == (5, 4, 6)


def test_repeat_is_a_serial_of_parts_with_their_own_params() -> None:
    op, same, x = repeat(dense(3), 3), serial(dense(3), dense(3), dense(3)), numbers(2, 3)
    params = doubles(op, (3,))
    assert paths(op, (3,)) == paths(same, (3,))
    assert np.array_equal(op.apply(params, x)[0], same.apply(params, x)[0])
    assert not np.array_equal(params["dense1"]["w"], params["dense2"]["w"])


@given(st.integers(1, 7))
def test_shared_adds_the_gradients_of_repeat(n: int) -> None:
    op, other, x = shared(serial(dense(3), tanh), n), repeat(serial(dense(3), tanh), n), numbers(2, 3)
    params = doubles(op, (3,))
    y, vjp = op.apply(params, x)
    y_other, vjp_other = other.apply({f"serial{i}": params["serial1"] for i in range(1, n + 1)}, x)
    assert np.array_equal(y, y_other)
    (grads, dx), (grads_other, dx_other) = vjp(y), vjp_other(y)
    assert np.array_equal(dx, dx_other)
    total = tree_map(lambda *each: np.sum(each, 0), *grads_other.values())
    tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), grads["serial1"], total)


def test_combinators_name_params_by_kind_and_ordinal() -> None:
    net = serial(
        residual(dense(4)),
        parallel(dense(2), dense(3), join="concat"),
        repeat(dense(3), 2),
        shared(dense(3), 4),
        dense(2),
    )
    assert [path for path in paths(net, (4,)) if path.endswith("/w")] == [
        "residual1/dense1/w",
        "parallel1/dense1/w",
        "parallel1/dense2/w",
        "repeat1/dense1/w",
        "repeat1/dense2/w",
        "shared1/dense1/w",
        "dense1/w",
    ]


@pytest.mark.parametrize("wrap", TRANSPARENT)
def test_wrappers_do_not_change_names_and_initial_values(wrap: Callable[[Op], Op]) -> None:
    plain = serial(dense(4), residual(dense(4)), repeat(dense(4), 2), dense(3))
    wrapped = wrap(
        serial(wrap(dense(4)), wrap(residual(wrap(dense(4)))), repeat(wrap(dense(4)), 2), wrap(wrap(dense(3))))
    )
    tree_map(np.testing.assert_array_equal, wrapped.init(5, (4,)), plain.init(5, (4,)))


@pytest.mark.parametrize("wrap", TRANSPARENT)
def test_named_keeps_its_name_inside_wrappers(wrap: Callable[[Op], Op]) -> None:
    net = serial(dense(4), wrap(named("head", dense(3))), named("tail", wrap(dense(2))), dense(2))
    assert list(net.init(0, (5,))) == list(net.parts) == ["dense1", "head", "tail", "dense2"]


def test_named_inside_named_uses_the_outer_name() -> None:
    assert list(serial(named("outer", named("inner", relu))).parts) == ["outer"]


def test_repeat_of_named_adds_ordinals() -> None:
    assert list(repeat(named("block", dense(2)), 3).init(0, (2,))) == ["block1", "block2", "block3"]


def test_combinators_take_named_parts() -> None:
    part = named("a", dense(2))
    nested = parallel(part, named("b", residual(named("c", dense(2)))), shared(part, 2))
    assert paths(nested, (2,)) == ["a/w", "a/b", "b/c/w", "b/c/b", "shared1/a/w", "shared1/a/b"]


@pytest.mark.parametrize("make", [serial, parallel])
@pytest.mark.parametrize("other", [named("dense1", tanh), named("x", dense(2))])
def test_combinators_refuse_two_parts_of_one_name(make: Callable[..., Op], other: Op) -> None:
    name = other.config["name"]
    with pytest.raises(OpError, match=f"^{make.__name__}: expected a different name for each part, got '{name}' twice"):
        make(dense(3), named("x", dense(3)), other)


@pytest.mark.parametrize("name", ["", "a/b", 3, None])
def test_named_refuses_bad_names(name: Any) -> None:
    with pytest.raises(OpError, match=f"^named: name: expected a nonempty string without a slash, got {name!r}"):
        named(name, relu)


@pytest.mark.parametrize("stage", ["init", "apply", "vjp"])
def test_combinators_errors_have_the_whole_path(stage: str) -> None:
    bad = remat(broken(stage))
    net = serial(tanh, residual(parallel(tanh, repeat(shared(serial(tanh, named("bad", bad)), 2), 2))))
    with pytest.raises(OpError, match=r"^residual1/parallel1/repeat1/shared\d/serial1/bad: broken, wanted sound$"):
        net.apply(net.init(0, (2,)), numbers(2, 2))[1](numbers(2, 2))


def test_combinators_add_the_path_to_other_errors_as_notes() -> None:
    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        raise ZeroDivisionError

    net = serial(residual(Op(lambda key, shape: {}, apply)))
    with pytest.raises(ZeroDivisionError) as caught:
        net.apply({"residual1": {"op1": {}}}, numbers(1, 1))
    assert caught.value.__notes__ == ["in op1", "in residual1"]


def test_combinators_give_each_random_operator_its_own_key() -> None:
    log: list[Any] = []
    draw = recorder(log)
    net = serial(
        draw,
        draw,
        named("own", draw),
        residual(draw),
        parallel(draw, serial(draw)),
        repeat(draw, 2),
        shared(draw, 3),
        shared(serial(draw, draw), 2),
        microbatch(serial(draw, shard(draw, 1, size=1)), 1),
        shard(serial(draw, microbatch(draw, 1)), 1, size=1),
    )
    params = net.init(0, (2,))
    log.clear()
    net.apply(params, numbers(2, 2), Key(3))
    assert len(set(log)) == len(log) == 23
    assert {key.seed for key in log} == {3}
    log.clear()
    net.apply(params, numbers(2, 2))
    assert set(log) == {None}


@pytest.mark.parametrize("wrap", [*TRANSPARENT, residual, parallel, lambda op: repeat(op, 2), lambda op: shared(op, 2)])
@pytest.mark.parametrize("need_dx", [True, False])
def test_combinators_pass_need_dx_to_their_first_part_only(wrap: Callable[[Op], Op], need_dx: bool) -> None:
    log: list[Any] = []
    op = wrap(
        Op(lambda key, shape: {"w": np.ones(1, np.float32)}, recorder(log)._apply, kind="recorder", takes_key=True)
    )
    params, x = op.init(0, (2,)), numbers(2, 2)
    _, vjp = op.apply(params, x)
    log.clear()
    vjp(x, need_dx)
    asked = [entry for entry in log if entry is not None]
    assert asked[:-1] == [True] * (op.kind in ("repeat", "shared"))
    assert asked[-1:] == ([] if op.kind == "freeze" and not need_dx else [need_dx])


doubled = Op(lambda key, shape: {}, lambda params, x: (x.astype(float), lambda dy, need_dx=True: ({}, dy)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: serial(dense(2), dense), "serial: expected an operator, got the function dense; call it: dense(...)"),  # type: ignore[arg-type]
        (lambda: residual(conv), "residual: expected an operator, got the function conv"),  # type: ignore[arg-type]
        (lambda: parallel(relu, 3), "parallel: expected an operator, got 3"),  # type: ignore[arg-type]
        (lambda: repeat([relu], 2), "repeat: expected an operator, got a list; unpack it with *"),  # type: ignore[arg-type]
        (lambda: named("x", dense), "named: expected an operator, got the function dense"),  # type: ignore[arg-type]
        (lambda: remat(dense), "remat: expected an operator, got the function dense"),  # type: ignore[arg-type]
        (lambda: parallel(relu, join="mean"), "parallel: join: expected 'sum' or 'concat', got 'mean'"),  # type: ignore[arg-type]
        (lambda: parallel(), "parallel: expected at least one operator, got none"),
        (lambda: repeat(relu, 0), "repeat: n: expected an int of at least 1, got 0"),
        (lambda: shared(relu, 1.5), "shared: n: expected an int of at least 1, got 1.5"),  # type: ignore[arg-type]
        (
            lambda: residual(dense(3)).init(0, (2,)),
            "residual: expected dense1 to keep float32 (0, 2), got float32 (0, 3)",
        ),
        (
            lambda: residual(doubled).init(0, (2,)),
            "residual: expected op1 to keep float32 (0, 2), got float64 (0, 2)",
        ),
        (
            lambda: parallel(relu, doubled).init(0, (2,)),
            "parallel: expected outputs of one shape and dtype, got float32 (0, 2), float64 (0, 2)",
        ),
        (
            lambda: parallel(relu, doubled, join="concat").init(0, (2,)),
            "parallel: expected outputs of one dtype and, except axis 1, one shape, got float32 (0, 2), float64",
        ),
        (
            lambda: serial(parallel(dense(3), relu)).init(0, (2,)),
            "parallel1: expected outputs of one shape and dtype, got float32 (0, 3), float32 (0, 2)",
        ),
        (lambda: parallel(relu, flatten, join="concat").init(0, (2, 1)), "parallel: expected outputs of one dtype and"),
        (lambda: parallel(relu, join="concat").init(0, ()), "parallel: expected outputs of one dtype and"),
        (lambda: shared(dense(3), 2).init(0, (2,)), "dense1: expected 2 input features, got 3"),
        (
            lambda: residual(dense(2)).apply({}, numbers(1, 2)),
            "residual: expected params 'dense1', got none; 'dense1' is missing",
        ),
    ],
)
def test_combinators_refuse_bad_arguments(make: Callable[[], Op], message: str) -> None:
    with pytest.raises(OpError, match=f"^{re.escape(message)}"):
        make()


def test_combinators_repr_is_their_call() -> None:
    block = "residual(remat(serial(conv(4, 3, padding=1), relu)))"
    code = f"""serial(
    named('stem', conv(4, 3, padding=1)),
    repeat({block}, 6),
    parallel(
        microbatch(conv(2, 3, padding='same'), 32),
        shared(freeze({block}), 2),
        serial(named('left', relu), check_finite(tanh)),
        join='concat',
    ),
    dense(10),
)"""
    assert repr(eval(code)) == code
