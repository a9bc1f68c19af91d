"""The further operators at random shapes against PyTorch in float64: outputs and gradients, to 1e-9 relative."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fnn import (
    Op,
    attention,
    batch_norm,
    calibrate,
    conv,
    dense,
    dropout,
    elu,
    embedding,
    gelu,
    global_avgpool,
    group_norm,
    layer_norm,
    leaky_relu,
    position_embedding,
    positionwise,
    relu,
    reshape,
    serial,
    silu,
    softplus,
    tree_map,
)
from fnn.op import Array, Shape
from tests.ops.test_conv_transpose import transposed
from tests.support.in_torch import Order, agrees_at, close, torch
from tests.support.strategies import numbers, orders, seeds

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
batches = st.integers(1, 5)
reals = st.floats(-2, 2)
positives = st.floats(1e-3, 1)


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


@given(shapes, batches, seeds, orders, reals, st.booleans())
def test_activations(shape: Shape, batch: int, seed: int, order: Order, number: float, ties: bool) -> None:
    x = 4 * numbers(np.random.default_rng(seed), (batch, *shape), ties)  # 0 is among the ties
    for op in leaky_relu(number), elu(number), gelu, silu, softplus:
        agrees_at(op, x, order)


@given(transposed(), batches, seeds, orders)
def test_conv_transpose(example: tuple[Op, Shape], batch: int, seed: int, order: Order) -> None:
    op, shape = example
    agrees_at(op, normal(seed, batch, *shape), order)


@given(shapes, st.integers(1, 3), batches, seeds, orders, positives)
def test_layer_norm(shape: Shape, axes: int, batch: int, seed: int, order: Order, eps: float) -> None:
    agrees_at(layer_norm(min(axes, len(shape)), eps), 1 + normal(seed, batch, *shape), order)


@given(st.integers(1, 3), st.integers(1, 3), shapes, batches, seeds, orders, positives)
def test_group_norm(groups: int, each: int, shape: Shape, batch: int, seed: int, order: Order, eps: float) -> None:
    agrees_at(group_norm(groups, eps), 1 + normal(seed, batch, groups * each, *shape[1:], 2), order)


@given(shapes, st.integers(2, 5), seeds, orders, positives)
def test_batch_norm_in_training(shape: Shape, batch: int, seed: int, order: Order, eps: float) -> None:
    agrees_at(batch_norm(eps), 1 + normal(seed, batch, *shape), order, key=seed)


@given(shapes, batches, seeds, orders, positives)
def test_batch_norm_in_prediction(shape: Shape, batch: int, seed: int, order: Order, eps: float) -> None:
    agrees_at(batch_norm(eps), 1 + normal(seed, batch, *shape), order)


@given(st.lists(st.integers(2, 6), min_size=1, max_size=3), seeds)
def test_a_net_with_batch_norm_trains_calibrates_and_predicts(sizes: list[int], seed: int) -> None:
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
        close(net.apply(params, x, 0)[0], theirs(torch.tensor(x)), "in training")
    params = calibrate(net, params, data)
    for i in 1, 5:
        close(params[names[i]]["mean"], theirs[i].running_mean, "mean")
        close(params[names[i]]["var"], theirs[i].running_var, "var")
    theirs.eval()
    for x in data:
        close(net.apply(params, x)[0], theirs(torch.tensor(x)), "in prediction")


@given(st.floats(0, 0.9), shapes, batches, seeds, orders)
def test_dropout_with_the_same_mask(rate: float, shape: Shape, batch: int, seed: int, order: Order) -> None:
    for key in seed, None:
        agrees_at(dropout(rate), normal(seed, batch, *shape), order, key)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), batches, seeds, orders)
def test_global_avgpool(channels: int, height: int, width: int, batch: int, seed: int, order: Order) -> None:
    agrees_at(global_avgpool, normal(seed, batch, channels, height, width), order)


@given(st.permutations([1, 2, 3, 4]), st.permutations([-1, 4, 2]), batches, seeds, orders)
def test_reshape(shape: list[int], new: list[int], batch: int, seed: int, order: Order) -> None:
    agrees_at(reshape(*new), normal(seed, batch, *shape), order)


@given(st.integers(1, 5), st.integers(1, 4), shapes, batches, seeds, orders)
def test_embedding(n: int, features: int, shape: Shape, batch: int, seed: int, order: Order) -> None:
    agrees_at(embedding(n, features), np.random.default_rng(seed).integers(0, n, (batch, *shape)), order)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), batches, seeds, orders)
def test_position_embedding_and_positionwise(
    time: int, features: int, out: int, batch: int, seed: int, order: Order
) -> None:
    for op in position_embedding(), positionwise(dense(out)):
        agrees_at(op, normal(seed, batch, time, features), order)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.booleans(), batches, seeds, orders)
def test_attention(heads: int, size: int, time: int, causal: bool, batch: int, seed: int, order: Order) -> None:
    agrees_at(attention(heads, causal), normal(seed, batch, time, heads * size), order)
