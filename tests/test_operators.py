"""`check_op` of every operator: of each example in the table, and of random ones."""

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnn
from fnn import Op
from fnn.testing import check_op
from fnn.testing.table import TABLE
from fnn.testing.table import Example as Row
from tests.support.strategies import Example, convolutions, denses, nets, poolings, seeds, shapeless, slow_unless

ROWS = [pytest.param(row, id=f"{name}-{i}") for name, rows in TABLE.items() for i, row in enumerate(rows)]


def makes_operators(value: object) -> bool:
    """Whether a public name is an operator or a constructor of operators."""
    if isinstance(value, Op):
        return True
    is_function = inspect.isfunction(value) and inspect.signature(value).return_annotation in (Op, "Op")
    return is_function and value is not fnn.parse_net  # it returns the operators of others


def test_table_has_every_public_operator() -> None:
    values = [getattr(fnn, name) for name in fnn.__all__]
    public = {value.kind if isinstance(value, Op) else value.__name__ for value in values if makes_operators(value)}
    assert public >= {"conv", "tanh", "serial"}
    assert public - TABLE.keys() == set(), "these have no example in fnn.testing.table"
    assert all(rows for rows in TABLE.values())


@pytest.mark.parametrize("name", TABLE)
def test_check_op_of_the_table(name: str) -> None:
    assert TABLE[name][0].check() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for rows in TABLE.values() for row in rows[1:]], ids=lambda row: repr(row.op))
def test_check_op_of_more_examples_of_the_table(row: Row) -> None:
    assert row.check() < 1e-6


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, rows in TABLE.items() for row in rows])
def test_table_examples_contain_the_operator_of_their_name(name: str, row: Row) -> None:
    assert re.search(rf"\b{name}\b", repr(row.op))


@pytest.mark.parametrize("row", ROWS)
def test_op_repr_evaluates_to_the_same_operator(row: Row) -> None:
    again = eval(repr(row.op), vars(fnn).copy())
    assert repr(again) == repr(row.op)
    assert again.init(3, row.shape).keys() == row.op.init(3, row.shape).keys()


@given(convolutions(), st.integers(1, 4), seeds)
def test_check_op_of_any_conv(example: Example, batch: int, seed: int) -> None:
    op, shape = example
    check_op(op, shape, seed, batch=batch, exempt=slow_unless(seed))


@given(poolings(), st.integers(1, 4), seeds)
def test_check_op_of_any_pool(example: Example, batch: int, seed: int) -> None:
    op, shape = example
    check_op(op, shape, seed, batch=batch, exempt=slow_unless(seed))


@given(denses() | shapeless(), st.integers(1, 4), seeds)
def test_check_op_of_any_dense_or_activation(example: Example, batch: int, seed: int) -> None:
    op, shape = example
    check_op(op, shape, seed, batch=batch, exempt=slow_unless(seed))


@given(nets(), st.integers(1, 4), seeds)
def test_check_op_of_any_serial(example: Example, batch: int, seed: int) -> None:
    op, shape = example
    check_op(op, shape, seed, batch=batch, exempt=slow_unless(seed))
