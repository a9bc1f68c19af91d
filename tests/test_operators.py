"""The properties of every operator: of each example in the library's own table, and of any that hypothesis draws."""

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
    """Whether a public name is an operator, or a function that returns one."""
    if isinstance(value, Op):
        return True
    return inspect.isfunction(value) and inspect.signature(value).return_annotation in (Op, "Op")


def test_every_public_operator_is_in_the_table() -> None:
    values = [getattr(fnn, name) for name in fnn.__all__]
    public = {value.kind if isinstance(value, Op) else value.__name__ for value in values if makes_operators(value)}
    assert public >= {"conv", "tanh", "serial"}
    assert public - TABLE.keys() == set(), "these have no example in fnn.testing.table"
    assert all(rows for rows in TABLE.values())


@pytest.mark.parametrize("row", ROWS)
def test_what_the_table_lists_has_the_properties_of_an_operator(row: Row) -> None:
    assert row.check() < 1e-6


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, rows in TABLE.items() for row in rows])
def test_an_example_shows_the_operator_under_whose_name_it_stands(name: str, row: Row) -> None:
    assert re.search(rf"\b{name}\b", repr(row.op))


@pytest.mark.parametrize("row", ROWS)
def test_repr_is_the_code_that_makes_the_operator(row: Row) -> None:
    again = eval(repr(row.op), vars(fnn).copy())
    assert repr(again) == repr(row.op)
    assert again.init(3, row.shape).keys() == row.op.init(3, row.shape).keys()


@given(convolutions(), st.integers(1, 4), seeds)
def test_any_convolution_has_the_properties_of_an_operator(example: Example, batch: int, seed: int) -> None:
    op, shape = example
    check_op(op, shape, seed, batch=batch, exempt=slow_unless(seed))


@given(poolings(), st.integers(1, 4), seeds)
def test_any_pooling_has_the_properties_of_an_operator(example: Example, batch: int, seed: int) -> None:
    op, shape = example
    check_op(op, shape, seed, batch=batch, exempt=slow_unless(seed))


@given(denses() | shapeless(), st.integers(1, 4), seeds)
def test_any_other_operator_has_the_properties_of_one(example: Example, batch: int, seed: int) -> None:
    op, shape = example
    check_op(op, shape, seed, batch=batch, exempt=slow_unless(seed))


@given(nets(), st.integers(1, 4), seeds)
def test_any_chain_has_the_properties_of_an_operator(example: Example, batch: int, seed: int) -> None:
    op, shape = example
    check_op(op, shape, seed, batch=batch, exempt=slow_unless(seed))
