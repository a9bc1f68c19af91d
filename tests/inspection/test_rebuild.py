"""`rebuild` creates an operator again from changed parts, for any form of the constructor's arguments."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from fnn import Op, dense, microbatch, operator, parallel, relu, remat, repeat, residual, serial, shared, tanh, tree_map
from fnn.inspection.rebuild import rebuild
from fnn.testing.compare import check_equal
from fnn.testing.table import TABLE, Example

ROWS = [pytest.param(row, id=f"{name}-{i}") for name, rows in TABLE.items() for i, row in enumerate(rows)]


def relu_for_tanh(op: Op) -> Op:
    """Replaces each tanh by relu, at any depth."""
    return relu if op is tanh else rebuild(op, relu_for_tanh)


class Pair(NamedTuple):
    """Two operators, and a number."""

    first: Op
    second: Op
    n: int


@operator
def pair(ops: Pair) -> Op:
    """A constructor that takes its operators in a NamedTuple."""
    return Op(ops.first.init, ops.first.apply, wraps=ops.first, takes_key=True)


@operator
def listed(ops: list[Op], scale: float = 1.0) -> Op:
    return Op(ops[-1].init, ops[-1].apply, wraps=ops[-1], takes_key=True)


@operator
def keyed(**ops: Op) -> Op:
    return Op(ops["a"].init, ops["a"].apply, wraps=ops["a"], takes_key=True)


@operator
def nested(ops: dict[str, tuple[list[Op], int]]) -> Op:
    [op], _ = ops["a"]
    return Op(op.init, op.apply, wraps=op, takes_key=True)


@operator
def block(n: int, *, activation: Op = tanh) -> Op:
    return residual(serial(dense(n), activation))


@operator
def block_of_blocks(n: int) -> Op:
    return serial(block(n), block(n))


@pytest.mark.parametrize("row", ROWS)
def test_rebuild_without_a_change_gives_the_same_operator(row: Example) -> None:
    again = rebuild(row.op, lambda part: part)
    assert repr(again) == repr(row.op)
    assert (again.kind, again.parts.keys(), again.config) == (row.op.kind, row.op.parts.keys(), row.op.config)
    params = tree_map(lambda a: a + np.float32(0.1), row.op.init(0, row.shape))  # moved: batch_norm is calibrated
    x = np.ones((2, *row.shape), np.int64 if row.op.integers else np.float32) if row.x is None else row.x
    results = []
    for op in (row.op, again):
        y, vjp = op.apply(params, x, row.key)
        results.append({"output": y, "gradients": vjp(y)[0], "input": vjp(y)[1]})
    check_equal(results[1], results[0], "of the rebuilt operator")


@pytest.mark.parametrize(
    "of",
    [
        lambda op: serial(dense(4), op, dense(4)),
        lambda op: parallel(op, dense(4), join="concat"),
        lambda op: repeat(serial(dense(4), op), 2),
        lambda op: shared(remat(residual(op)), n=2),
        lambda op: microbatch(size=2, op=op),
        lambda op: pair(Pair(op, dense(4), 3)),
        lambda op: listed([dense(3), op]),
        lambda op: keyed(b=dense(3), a=op),
        lambda op: nested({"a": ([op], 1)}),
        lambda op: block(4, activation=op),
        lambda op: serial(block(4, activation=op), keyed(a=pair(Pair(serial(op), op, 1)))),
    ],
)
def test_rebuild_changes_operators_at_any_depth_and_in_any_container(of: Callable[[Op], Op]) -> None:
    x, old, wanted = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), of(tanh), of(relu)
    again = relu_for_tanh(old)
    params = again.init(0, (4,))
    tree_map(np.testing.assert_array_equal, params, wanted.init(0, (4,)))
    (y, vjp), (z, wanted_vjp) = again.apply(params, x), wanted.apply(params, x)
    assert y.tobytes() == z.tobytes()
    assert vjp(y)[1].tobytes() == wanted_vjp(y)[1].tobytes()
    assert y.tobytes() != old.apply(old.init(0, (4,)), x)[0].tobytes()


def test_rebuild_of_a_block_keeps_its_name_and_arguments() -> None:
    old = block_of_blocks(3)
    again = rebuild(old, relu_for_tanh)
    assert repr(again) == "block_of_blocks(3)"
    assert "relu1" in again.init(0, (3,))["block1"]["serial1"]


@pytest.mark.parametrize("op", [Op(tanh.init, tanh.apply, wraps=tanh), tanh, dense(3), serial()], ids=repr)
def test_rebuild_returns_operators_without_parts_or_maker(op: Op) -> None:
    assert rebuild(op, lambda part: relu) is op
