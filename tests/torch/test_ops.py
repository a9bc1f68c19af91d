"""Every operator, combinator and loss against PyTorch in float64: outputs and gradients, to 1e-9 relative."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnn
from fnn import (
    binary_cross_entropy,
    conv,
    cross_entropy,
    dense,
    huber,
    maxpool,
    mse,
    serial,
    smoothed_cross_entropy,
    tanh,
)
from fnn.losses import Loss, LossVjp
from fnn.op import Array, Shape
from fnn.testing.table import TABLE
from fnn.testing.table import Example as Row
from tests.support.in_torch import IN_TORCH, Order, agrees, agrees_at, close, tensor, torch
from tests.support.strategies import Example, convolutions, denses, nets, orders, poolings, seeds, shapeless

F = torch.nn.functional


def test_every_public_operator_is_compared() -> None:
    assert IN_TORCH.keys() == TABLE.keys()  # which has every public one, or a test fails


@pytest.mark.parametrize("row", [row for rows in TABLE.values() for row in rows], ids=lambda row: repr(row.op))
def test_what_the_table_lists(row: Row) -> None:
    x = np.random.default_rng(0).standard_normal((row.batch, *row.shape)) if row.x is None else row.x
    agrees_at(row.op, x, np.ascontiguousarray, row.key)


@given(convolutions(), seeds, st.integers(1, 4), orders)
def test_convolution(example: Example, seed: int, batch: int, order: Order) -> None:
    agrees(*example, seed, batch, order)


@given(poolings(), seeds, st.integers(1, 4), orders, st.booleans())
def test_pooling_and_the_maximum_that_ties_choose(
    example: Example, seed: int, batch: int, order: Order, ties: bool
) -> None:
    agrees(*example, seed, batch, order, ties)


@given(denses(), seeds, st.integers(1, 4), orders)
def test_dense(example: Example, seed: int, batch: int, order: Order) -> None:
    agrees(*example, seed, batch, order)


@given(shapeless(), seeds, st.integers(1, 4), orders, st.booleans())
def test_activations_and_flatten(example: Example, seed: int, batch: int, order: Order, ties: bool) -> None:
    agrees(*example, seed, batch, order, ties)  # relu at 0 is among the ties


@given(nets(), seeds, st.integers(1, 4), orders)
def test_chains(example: Example, seed: int, batch: int, order: Order) -> None:
    agrees(*example, seed, batch, order)


@pytest.mark.parametrize("batch", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray])
def test_the_reference_net_at_sizes_about_those_of_tiles(batch: int, order: Order) -> None:
    features = (conv(6, 3, padding=1), maxpool(2), tanh, conv(12, 3, padding=1), maxpool(2), tanh)
    net = serial(*features, dense(32), tanh, dense(16), tanh, dense(10))
    agrees(net, (1, 28, 28), 0, batch, order)


Drawn = tuple[Loss, Any, Array, Array]
"""A loss, the same in PyTorch, outputs and targets."""


def classified(rng: np.random.Generator, shape: Shape) -> tuple[Array, Array]:
    """Logits, for classes as many as the last number says, and labels."""
    return 10 * rng.standard_normal(shape), rng.integers(0, shape[-1], shape[:-1])


def smoothed(rng: np.random.Generator, shape: Shape) -> Drawn:
    smoothing = float(rng.random())
    return smoothed_cross_entropy(smoothing), in_rows(label_smoothing=smoothing), *classified(rng, shape)


def in_rows(**options: Any) -> Callable[[Any, Any], Any]:
    """PyTorch's cross-entropy, of each position of a sequence by itself."""
    return lambda logits, labels: F.cross_entropy(logits.flatten(0, -2), labels.flatten(), **options)


def hubers(rng: np.random.Generator, shape: Shape) -> Drawn:
    delta = 0.1 + 2 * float(rng.random())
    return huber(delta), lambda a, b: F.huber_loss(a, b, delta=delta), *rng.standard_normal((2, *shape))


LOSSES: dict[str, Callable[[np.random.Generator, Shape], Drawn]] = {
    "binary_cross_entropy": lambda rng, shape: (
        binary_cross_entropy,
        F.binary_cross_entropy_with_logits,
        3 * rng.standard_normal(shape),
        rng.random(shape),
    ),
    "cross_entropy": lambda rng, shape: (cross_entropy, in_rows(), *classified(rng, shape)),
    "huber": hubers,
    "mse": lambda rng, shape: (mse, F.mse_loss, *rng.standard_normal((2, *shape))),
    "smoothed_cross_entropy": smoothed,
}


def test_every_public_loss_is_compared() -> None:
    functions = {name: getattr(fnn, name) for name in fnn.__all__ if inspect.isfunction(getattr(fnn, name))}
    returned = {name: inspect.signature(f, eval_str=True).return_annotation for name, f in functions.items()}
    assert LOSSES.keys() == {name for name, value in returned.items() if value in (Loss, tuple[Any, LossVjp])}


@pytest.mark.parametrize("name", LOSSES)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple), seeds, orders)
def test_losses(name: str, shape: Shape, seed: int, order: Order) -> None:
    loss, loss_theirs, outputs, targets = LOSSES[name](np.random.default_rng(seed), shape)
    value, vjp = loss(order(outputs), order(targets))
    theirs = tensor(outputs)
    value_theirs = loss_theirs(theirs, torch.tensor(targets))
    value_theirs.backward()
    close(np.asarray(value), value_theirs, "value")
    close(vjp(), theirs.grad, "gradient")
