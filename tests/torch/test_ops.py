"""Every operator and loss compared with PyTorch in float64: outputs and gradients, with a tolerance of 1e-9."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnn
from fnn import (
    Op,
    attention,
    batch_norm,
    binary_cross_entropy,
    calibrate,
    conv,
    cross_entropy,
    dense,
    dropout,
    elu,
    embedding,
    gelu,
    global_avgpool,
    group_norm,
    huber,
    layer_norm,
    leaky_relu,
    maxpool,
    mse,
    position_embedding,
    positionwise,
    relu,
    reshape,
    serial,
    silu,
    smoothed_cross_entropy,
    softplus,
    tanh,
    tree_map,
)
from fnn.losses import Loss, LossVjp
from fnn.op import Array, Shape
from fnn.testing.table import TABLE
from fnn.testing.table import Example as Row
from tests.ops.test_conv_transpose import transposed
from tests.support.in_torch import IN_TORCH, Order, as_tensor, assert_agrees, assert_agrees_at, assert_close, torch
from tests.support.strategies import Example, convolutions, denses, nets, numbers, orders, poolings, seeds, shapeless

F = torch.nn.functional


def test_torch_has_every_operator_of_the_table() -> None:
    assert IN_TORCH.keys() == TABLE.keys()  # which has every public one, or a test fails


@pytest.mark.parametrize("row", [row for rows in TABLE.values() for row in rows], ids=lambda row: repr(row.op))
def test_table_agrees_with_torch(row: Row) -> None:
    x = np.random.default_rng(0).standard_normal((row.batch, *row.shape)) if row.x is None else row.x
    assert_agrees_at(row.op, x, np.ascontiguousarray, row.key)


@given(convolutions(), seeds, st.integers(1, 4), orders)
def test_conv_agrees_with_torch(example: Example, seed: int, batch: int, order: Order) -> None:
    assert_agrees(*example, seed, batch, order)


@given(poolings(), seeds, st.integers(1, 4), orders, st.booleans())
def test_pools_and_maxpool_ties_agree_with_torch(
    example: Example, seed: int, batch: int, order: Order, ties: bool
) -> None:
    assert_agrees(*example, seed, batch, order, ties)


@given(denses(), seeds, st.integers(1, 4), orders)
def test_dense_agrees_with_torch(example: Example, seed: int, batch: int, order: Order) -> None:
    assert_agrees(*example, seed, batch, order)


@given(shapeless(), seeds, st.integers(1, 4), orders, st.booleans())
def test_activations_and_flatten_agree_with_torch(
    example: Example, seed: int, batch: int, order: Order, ties: bool
) -> None:
    assert_agrees(*example, seed, batch, order, ties)  # relu at 0 is among the ties


@given(nets(), seeds, st.integers(1, 4), orders)
def test_serial_agrees_with_torch(example: Example, seed: int, batch: int, order: Order) -> None:
    assert_agrees(*example, seed, batch, order)


@pytest.mark.parametrize("batch", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray])
def test_reference_net_agrees_with_torch_at_tile_sizes(batch: int, order: Order) -> None:
    features = (conv(6, 3, padding=1), maxpool(2), tanh, conv(12, 3, padding=1), maxpool(2), tanh)
    net = serial(*features, dense(32), tanh, dense(16), tanh, dense(10))
    assert_agrees(net, (1, 28, 28), 0, batch, order)


Drawn = tuple[Loss, Any, Array, Array]
"""A loss, the same in PyTorch, outputs and targets."""


def classified(rng: np.random.Generator, shape: Shape) -> tuple[Array, Array]:
    """Returns logits and labels; the last size is the number of classes."""
    return 10 * rng.standard_normal(shape), rng.integers(0, shape[-1], shape[:-1])


def smoothed(rng: np.random.Generator, shape: Shape) -> Drawn:
    smoothing = float(rng.random())
    return smoothed_cross_entropy(smoothing), in_rows(label_smoothing=smoothing), *classified(rng, shape)


def in_rows(**options: Any) -> Callable[[Any, Any], Any]:
    """Returns PyTorch's cross-entropy, with positions of a sequence as examples."""
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


def test_torch_has_every_public_loss() -> None:
    functions = {name: getattr(fnn, name) for name in fnn.__all__ if inspect.isfunction(getattr(fnn, name))}
    returned = {name: inspect.signature(f, eval_str=True).return_annotation for name, f in functions.items()}
    assert LOSSES.keys() == {name for name, value in returned.items() if value in (Loss, tuple[Any, LossVjp])}


@pytest.mark.parametrize("name", LOSSES)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple), seeds, orders)
def test_losses_agree_with_torch(name: str, shape: Shape, seed: int, order: Order) -> None:
    loss, loss_theirs, outputs, targets = LOSSES[name](np.random.default_rng(seed), shape)
    value, vjp = loss(order(outputs), order(targets))
    theirs = as_tensor(outputs)
    value_theirs = loss_theirs(theirs, torch.tensor(targets))
    value_theirs.backward()
    assert_close(np.asarray(value), value_theirs, "value")
    assert_close(vjp(), theirs.grad, "gradient")


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
batches = st.integers(1, 5)
reals = st.floats(-2, 2)
positives = st.floats(1e-3, 1)


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


@given(shapes, batches, seeds, orders, reals, st.booleans())
def test_more_activations_agree_with_torch(
    shape: Shape, batch: int, seed: int, order: Order, number: float, ties: bool
) -> None:
    x = 4 * numbers(np.random.default_rng(seed), (batch, *shape), ties)  # 0 is among the ties
    for op in leaky_relu(number), elu(number), gelu, silu, softplus:
        assert_agrees_at(op, x, order)


@given(transposed(), batches, seeds, orders)
def test_conv_transpose_agrees_with_torch(example: tuple[Op, Shape], batch: int, seed: int, order: Order) -> None:
    op, shape = example
    assert_agrees_at(op, normal(seed, batch, *shape), order)


@given(shapes, st.integers(1, 3), batches, seeds, orders, positives)
def test_layer_norm_agrees_with_torch(shape: Shape, axes: int, batch: int, seed: int, order: Order, eps: float) -> None:
    assert_agrees_at(layer_norm(min(axes, len(shape)), eps), 1 + normal(seed, batch, *shape), order)


@given(st.integers(1, 3), st.integers(1, 3), shapes, batches, seeds, orders, positives)
def test_group_norm_agrees_with_torch(
    groups: int, each: int, shape: Shape, batch: int, seed: int, order: Order, eps: float
) -> None:
    assert_agrees_at(group_norm(groups, eps), 1 + normal(seed, batch, groups * each, *shape[1:], 2), order)


@given(shapes, st.integers(2, 5), seeds, orders, positives)
def test_batch_norm_in_training_agrees_with_torch(
    shape: Shape, batch: int, seed: int, order: Order, eps: float
) -> None:
    assert_agrees_at(batch_norm(eps), 1 + normal(seed, batch, *shape), order, key=seed)


@given(shapes, batches, seeds, orders, positives)
def test_batch_norm_in_prediction_agrees_with_torch(
    shape: Shape, batch: int, seed: int, order: Order, eps: float
) -> None:
    assert_agrees_at(batch_norm(eps), 1 + normal(seed, batch, *shape), order)


@given(st.lists(st.integers(2, 6), min_size=1, max_size=3), seeds)
def test_batch_norm_in_a_net_agrees_with_torch(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = serial(conv(3, 2), batch_norm(), relu, dense(4), batch_norm())
    params = tree_map(lambda a: a + rng.standard_normal(a.shape), net.init(0, (2, 4, 4)))
    data = [rng.standard_normal((n, 2, 4, 4)) for n in sizes]
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 2),
        torch.nn.BatchNorm2d(3, momentum=None),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(27, 4),
        torch.nn.BatchNorm1d(4, momentum=None),
    ).double()
    names = {0: "conv1", 1: "batch_norm1", 4: "dense1", 5: "batch_norm2"}
    with torch.no_grad():
        for i, name in names.items():
            w = params[name]["w"]
            theirs[i].weight[...] = torch.tensor(np.ascontiguousarray(w.T if name == "dense1" else w))
            theirs[i].bias[...] = torch.tensor(params[name]["b"])

    for x in data:
        assert_close(net.apply(params, x, 0)[0], theirs(torch.tensor(x)), "in training")
    params = calibrate(net, params, data)
    for i in 1, 5:
        assert_close(params[names[i]]["mean"], theirs[i].running_mean, "mean")
        assert_close(params[names[i]]["var"], theirs[i].running_var, "var")
    theirs.eval()
    for x in data:
        assert_close(net.apply(params, x)[0], theirs(torch.tensor(x)), "in prediction")


@given(st.floats(0, 0.9), shapes, batches, seeds, orders)
def test_dropout_agrees_with_torch(rate: float, shape: Shape, batch: int, seed: int, order: Order) -> None:
    for key in seed, None:
        assert_agrees_at(dropout(rate), normal(seed, batch, *shape), order, key)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), batches, seeds, orders)
def test_global_avgpool_agrees_with_torch(
    channels: int, height: int, width: int, batch: int, seed: int, order: Order
) -> None:
    assert_agrees_at(global_avgpool, normal(seed, batch, channels, height, width), order)


@given(st.permutations([1, 2, 3, 4]), st.permutations([-1, 4, 2]), batches, seeds, orders)
def test_reshape_agrees_with_torch(shape: list[int], new: list[int], batch: int, seed: int, order: Order) -> None:
    assert_agrees_at(reshape(*new), normal(seed, batch, *shape), order)


@given(st.integers(1, 5), st.integers(1, 4), shapes, batches, seeds, orders)
def test_embedding_agrees_with_torch(n: int, features: int, shape: Shape, batch: int, seed: int, order: Order) -> None:
    assert_agrees_at(embedding(n, features), np.random.default_rng(seed).integers(0, n, (batch, *shape)), order)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), batches, seeds, orders)
def test_position_embedding_and_positionwise_agree_with_torch(
    time: int, features: int, out: int, batch: int, seed: int, order: Order
) -> None:
    for op in position_embedding(), positionwise(dense(out)):
        assert_agrees_at(op, normal(seed, batch, time, features), order)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.booleans(), batches, seeds, orders)
def test_attention_agrees_with_torch(
    heads: int, size: int, time: int, causal: bool, batch: int, seed: int, order: Order
) -> None:
    assert_agrees_at(attention(heads, causal), normal(seed, batch, time, heads * size), order)
