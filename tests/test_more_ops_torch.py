"""The further operators and losses against PyTorch in float64: outputs and gradients, to 1e-9 relative."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.test_conv_transpose import transposed
from strategies import both, numbers, orders, seeds

from fnn import Op, conv, dense, relu, serial, tree_items, tree_map
from fnn.losses import binary_cross_entropy, cross_entropy, huber, smoothed_cross_entropy
from fnn.op import Array, Params
from fnn.ops import (
    attention,
    batch_norm,
    calibrate,
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
    reshape,
    silu,
    softplus,
)

torch = pytest.importorskip("torch")
F = torch.nn.functional

Shape = tuple[int, ...]
Order = Callable[[Array], Array]

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
batches = st.integers(1, 5)
reals = st.floats(-2, 2)
positives = st.floats(1e-3, 1)


def tensor(array: Array) -> Any:
    return torch.tensor(np.array(array, order="C"), requires_grad=array.dtype.kind == "f")


def close(came: Array, wanted: Any, what: str) -> None:
    """Asserts agreement to 1e-9 of the largest number; 1e-12 is the rounding of a sum that cancels."""
    there = np.zeros(came.shape) if wanted is None else wanted.detach().numpy()
    assert came.shape == there.shape, what
    tolerance = 1e-12 + 1e-9 * np.abs(there).max(initial=0)
    np.testing.assert_allclose(came, there, rtol=0, atol=tolerance, err_msg=what)


def drawn(op: Op, shape: Shape, rng: np.random.Generator) -> Params:
    """Params of `op` far from zeros and ones; variances are positive."""
    params = {
        path: np.abs(leaf) if path.endswith("var") else leaf + rng.standard_normal(leaf.shape)
        for path, leaf in tree_items(op.init(0, shape))
    }
    return {path: leaf.astype(float) for path, leaf in params.items()}


def agrees(
    op: Op, theirs: Callable[[dict[str, Any], Any], Any], x: Array, order: Order, key: int | None = None
) -> None:
    """Asserts that `op` and `theirs(params, x)` agree on `x`, in memory of any order."""
    rng = np.random.default_rng(0)
    params = drawn(op, x.shape[1:], rng)
    y, vjp = op.apply(tree_map(order, params), order(x), key)
    dy = rng.standard_normal(y.shape)
    dparams, dx = vjp(order(dy))

    p, t = {name: tensor(leaf) for name, leaf in params.items()}, tensor(x)
    y_theirs = theirs(p, t)
    y_theirs.backward(torch.tensor(dy))
    close(y, y_theirs, "output")
    close(dx, t.grad, "input")
    for name, leaf in p.items():
        close(dparams[name], leaf.grad, name)


@given(shapes, batches, seeds, orders, reals, st.booleans())
def test_activations(shape: Shape, batch: int, seed: int, order: Order, number: float, ties: bool) -> None:
    x = 4 * numbers(np.random.default_rng(seed), (batch, *shape), ties)  # 0 is among the ties
    agrees(leaky_relu(number), lambda p, t: F.leaky_relu(t, number), x, order)
    agrees(elu(number), lambda p, t: F.elu(t, number), x, order)
    agrees(gelu, lambda p, t: F.gelu(t, approximate="tanh"), x, order)
    agrees(silu, lambda p, t: F.silu(t), x, order)
    agrees(softplus, lambda p, t: F.softplus(t, threshold=100), x, order)


@given(transposed(), batches, seeds, orders)
def test_conv_transpose(example: tuple[Op, Shape], batch: int, seed: int, order: Order) -> None:
    op, shape = example
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    stride, padding, extra, groups, dilation = (op.config[name] for name in names)

    def theirs(p: dict[str, Any], t: Any) -> Any:
        sizes = map(both, (stride, padding, extra))
        return F.conv_transpose2d(t, p["w"], p.get("b"), *sizes, groups, both(dilation))

    agrees(op, theirs, np.random.default_rng(seed).standard_normal((batch, *shape)), order)


@given(shapes, st.integers(1, 3), batches, seeds, orders, positives)
def test_layer_norm(shape: Shape, axes: int, batch: int, seed: int, order: Order, eps: float) -> None:
    axes = min(axes, len(shape))
    x = 1 + np.random.default_rng(seed).standard_normal((batch, *shape))
    agrees(layer_norm(axes, eps), lambda p, t: F.layer_norm(t, shape[-axes:], p["w"], p["b"], eps), x, order)


@given(st.integers(1, 3), st.integers(1, 3), shapes, batches, seeds, orders, positives)
def test_group_norm(groups: int, each: int, shape: Shape, batch: int, seed: int, order: Order, eps: float) -> None:
    x = 1 + np.random.default_rng(seed).standard_normal((batch, groups * each, *shape[1:], 2))
    agrees(group_norm(groups, eps), lambda p, t: F.group_norm(t, groups, p["w"], p["b"], eps), x, order)


@given(shapes, st.integers(2, 5), seeds, orders, positives)
def test_batch_norm_in_training(shape: Shape, batch: int, seed: int, order: Order, eps: float) -> None:
    x = 1 + np.random.default_rng(seed).standard_normal((batch, *shape))

    def theirs(p: dict[str, Any], t: Any) -> Any:
        return F.batch_norm(t, None, None, p["w"], p["b"], training=True, eps=eps)

    agrees(batch_norm(eps), theirs, x, order, key=seed)


@given(shapes, batches, seeds, orders, positives)
def test_batch_norm_in_prediction(shape: Shape, batch: int, seed: int, order: Order, eps: float) -> None:
    x = 1 + np.random.default_rng(seed).standard_normal((batch, *shape))

    def theirs(p: dict[str, Any], t: Any) -> Any:
        return F.batch_norm(t, p["mean"].detach(), p["var"].detach(), p["w"], p["b"], training=False, eps=eps)

    agrees(batch_norm(eps), theirs, x, order)


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
    x = np.random.default_rng(seed).standard_normal((batch, *shape))
    mask = torch.tensor(dropout(rate).apply({}, np.ones_like(x), seed)[0] != 0)
    agrees(dropout(rate), lambda p, t: t * mask / (1 - rate), x, order, key=seed)
    agrees(dropout(rate), lambda p, t: F.dropout(t, rate, training=False), x, order)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), batches, seeds, orders)
def test_global_avgpool(channels: int, height: int, width: int, batch: int, seed: int, order: Order) -> None:
    x = np.random.default_rng(seed).standard_normal((batch, channels, height, width))
    agrees(global_avgpool, lambda p, t: F.adaptive_avg_pool2d(t, 1)[:, :, 0, 0], x, order)


@given(st.permutations([1, 2, 3, 4]), st.permutations([-1, 4, 2]), batches, seeds, orders)
def test_reshape(shape: list[int], new: list[int], batch: int, seed: int, order: Order) -> None:
    x = np.random.default_rng(seed).standard_normal((batch, *shape))
    agrees(reshape(*new), lambda p, t: t.reshape(batch, *new), x, order)


@given(st.integers(1, 5), st.integers(1, 4), shapes, batches, seeds, orders)
def test_embedding(n: int, features: int, shape: Shape, batch: int, seed: int, order: Order) -> None:
    op, rng = embedding(n, features), np.random.default_rng(seed)
    w, x = rng.standard_normal((n, features)), rng.integers(0, n, (batch, *shape))
    y, vjp = op.apply({"w": order(w)}, order(x))
    dy = rng.standard_normal(y.shape)
    w_theirs = tensor(w)
    y_theirs = F.embedding(torch.tensor(x), w_theirs)
    y_theirs.backward(torch.tensor(dy))
    close(y, y_theirs, "output")
    close(vjp(order(dy))[0]["w"], w_theirs.grad, "w")


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), batches, seeds, orders)
def test_position_embedding_and_positionwise(
    time: int, features: int, out: int, batch: int, seed: int, order: Order
) -> None:
    x = np.random.default_rng(seed).standard_normal((batch, time, features))
    agrees(position_embedding(), lambda p, t: t + p["w"], x, order)
    agrees(positionwise(dense(out)), lambda p, t: F.linear(t, p["w"].T, p["b"]), x, order)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.booleans(), batches, seeds, orders)
def test_attention(heads: int, size: int, time: int, causal: bool, batch: int, seed: int, order: Order) -> None:
    x = np.random.default_rng(seed).standard_normal((batch, time, heads * size))
    later = torch.ones(time, time, dtype=torch.bool).triu(1) if causal else None

    def theirs(p: dict[str, Any], t: Any) -> Any:
        into = torch.cat([p["wq"], p["wk"], p["wv"]], 1).T
        bias = torch.cat([p["bq"], p["bk"], p["bv"]])
        rest = {"training": False, "need_weights": False, "attn_mask": later}
        t, features = t.swapaxes(0, 1), heads * size
        y, _ = F.multi_head_attention_forward(
            t, t, t, features, heads, into, bias, None, None, False, 0.0, p["wo"].T, p["bo"], **rest
        )
        return y.swapaxes(0, 1)

    agrees(attention(heads, causal), theirs, x, order)


@given(shapes, st.integers(1, 5), st.floats(0, 1), seeds, orders)
def test_cross_entropies_of_sequences(shape: Shape, classes: int, smoothing: float, seed: int, order: Order) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = 5 * rng.standard_normal((*shape, classes)), rng.integers(0, classes, shape)
    for loss, share in ((cross_entropy, 0.0), (smoothed_cross_entropy(smoothing), smoothing)):
        value, vjp = loss(order(logits), order(labels))
        theirs = tensor(logits)
        flat, these = theirs.reshape(-1, classes), torch.tensor(labels.ravel())
        value_theirs = F.cross_entropy(flat, these, label_smoothing=share)
        value_theirs.backward()
        close(np.asarray(value), value_theirs, "value")
        close(vjp(), theirs.grad, "gradient")


@given(shapes, st.floats(0.1, 3), seeds, orders)
def test_binary_cross_entropy_and_huber(shape: Shape, delta: float, seed: int, order: Order) -> None:
    rng = np.random.default_rng(seed)
    outputs, targets = 3 * rng.standard_normal(shape), rng.random(shape)
    pairs = (
        (binary_cross_entropy, F.binary_cross_entropy_with_logits),
        (huber(delta), lambda a, b: F.huber_loss(a, b, delta=delta)),
    )
    for loss, loss_theirs in pairs:
        value, vjp = loss(order(outputs), order(targets))
        theirs = tensor(outputs)
        value_theirs = loss_theirs(theirs, torch.tensor(targets))
        value_theirs.backward()
        close(np.asarray(value), value_theirs, "value")
        close(vjp(), theirs.grad, "gradient")
