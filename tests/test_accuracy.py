"""Long sums in operators and losses: float32 compared with float64, in the memory orders that operators produce."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fnn import (
    Op,
    accurate_sum,
    attention,
    avgpool,
    batch_norm,
    binary_cross_entropy,
    conv,
    conv_transpose,
    cross_entropy,
    dense,
    embedding,
    global_avgpool,
    group_norm,
    huber,
    layer_norm,
    log_softmax,
    maxpool,
    mse,
    position_embedding,
    relu,
    serial,
    smoothed_cross_entropy,
    softmax,
    tree_items,
    tree_map,
)
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.op import Array, Params, Shape, Vjp
from fnn.testing import CheckError, check_loss, check_op


def images(shape: Shape) -> Array:
    return from_wchn(to_wchn(np.random.default_rng(0).random(shape, np.float32)))


def columns(shape: Shape) -> Array:
    return np.asfortranarray(np.random.default_rng(0).random(shape, np.float32))


def rows(shape: Shape) -> Array:
    return np.random.default_rng(0).random(shape, np.float32)


def symbols(shape: Shape) -> Array:
    return np.random.default_rng(0).integers(0, 3, shape)


OPS: list[tuple[Op, Callable[[Shape], Array], Shape, int | None]] = [
    (dense(3), rows, (1_000_000, 4), None),
    (dense(3), columns, (1_000_000, 4), None),
    (dense(3), rows, (2, 1_000_000), None),
    (conv(4, 3, padding=1), images, (8, 2, 300, 300), None),
    (conv(2, 2, stride=2, groups=2), images, (8, 2, 300, 300), None),
    (conv_transpose(4, 2, stride=2), images, (8, 2, 150, 150), None),
    (batch_norm(), images, (8, 2, 300, 300), 1),
    (batch_norm(), columns, (500_000, 3), 1),
    (group_norm(1), images, (4, 4, 256, 256), None),
    (group_norm(2), rows, (4, 4, 256, 256), None),
    (layer_norm(), columns, (4, 300_000), None),
    (layer_norm(3), images, (4, 4, 256, 256), None),
    (global_avgpool, images, (2, 4, 512, 512), None),
    (avgpool(150, stride=20), images, (2, 2, 300, 300), None),
    (maxpool(60, stride=1), images, (1, 1, 100, 100), None),
    (softmax, columns, (3, 500_000), None),
    (log_softmax, columns, (3, 100_000), None),
    (embedding(3, 2), symbols, (1000, 1000), None),
    (position_embedding(), rows, (200_000, 2, 3), None),
    (attention(2), rows, (20_000, 5, 4), None),
    (attention(1, causal=True), rows, (1, 1000, 4), None),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "make", "shape", "key"), OPS, ids=lambda value: repr(value) if isinstance(value, Op) else ""
)
def test_operators_add_a_million_numbers_exactly(
    op: Op, make: Callable[[Shape], Array], shape: Shape, key: int | None
) -> None:
    x, params = make(shape), op.init(0, shape[1:])
    y, vjp = op.apply(params, x, key)
    # Positive cotangents: the sums of magnitudes are then the sums themselves but for signs in the weights.
    dy = np.empty_like(y)
    dy[...] = np.random.default_rng(1).uniform(0.5, 1.5, y.shape)
    wide = x.astype(np.float64) if x.dtype.kind == "f" else x
    y_wide, vjp_wide = op.apply(tree_map(lambda a: a.astype(np.float64), params), wide, key)

    def close(came: Array, expected: Array, magnitude: float) -> None:
        assert np.abs(came - expected).max(initial=0) <= 1e-6 * magnitude

    dparams, dx = vjp(dy)
    dparams_wide, dx_wide = vjp_wide(dy.astype(np.float64))
    close(y, y_wide, np.abs(y_wide).max())
    signs = np.random.default_rng(2).choice([-1.0, 1.0], y.shape)
    close(dx, dx_wide, max(np.abs(d).max() for d in (dx_wide, vjp_wide(dy * signs)[1])))
    for (path, came), (_, expected) in zip(tree_items(dparams), tree_items(dparams_wide), strict=True):
        # A norm layer's weight gradient adds dy * z, where z has mean 0 and mean square 1.
        terms = dy.size / expected.size if path == "w" and "norm" in op.kind else 0
        close(came, expected, max(np.abs(expected).max(), terms, 1e-2 * np.abs(dparams_wide.get("bv", 0)).max()))


CLASSES = np.random.default_rng(0).integers(0, 2, 1_000_000)
TARGETS = np.random.default_rng(0).random((1_000_000, 2), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, np.asfortranarray])
@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (cross_entropy, CLASSES),
        (smoothed_cross_entropy(0.1), CLASSES),
        (binary_cross_entropy, TARGETS),
        (mse, TARGETS),
        (huber(0.3), TARGETS),
    ],
    ids=["cross_entropy", "smoothed_cross_entropy", "binary_cross_entropy", "mse", "huber"],
)
def test_losses_average_a_million_numbers_exactly(loss: Any, targets: Array, arrange: Callable[[Array], Array]) -> None:
    outputs = arrange(np.random.default_rng(1).random((1_000_000, 2), np.float32))
    value, vjp = loss(outputs, arrange(targets))
    wide = targets.astype(np.float64) if targets.dtype.kind == "f" else targets
    expected, vjp_expected = loss(outputs.astype(np.float64), wide)
    assert abs(value / expected - 1) <= 1e-6
    gradient = vjp_expected()
    assert np.abs(vjp() - gradient).max() <= 1e-6 * np.abs(gradient).max()


@pytest.mark.slow
def test_cross_entropy_of_a_million_rows_with_the_true_logit_below() -> None:
    logits = np.zeros((2**20, 2), np.float32)
    logits[:, 1] = 5.3
    assert abs(float(cross_entropy(logits, np.zeros(2**20, int))[0]) - 5.30498) < 1e-5


def test_cross_entropy_near_zero_keeps_its_digits() -> None:
    logits = np.array([[0.0, 12.0], [0.0, 15.0]], np.float32)
    expected = cross_entropy(logits.astype(np.float64), np.ones(2, int))[0]
    assert abs(cross_entropy(logits, np.ones(2, int))[0] / expected - 1) <= 1e-6


@pytest.mark.slow
def test_dense_bias_gradient_of_a_million_equal_rows() -> None:
    net = dense(1)
    params = net.init(0, (1,))
    _, vjp = net.apply(params, np.ones((1_000_000, 1), np.float32))
    dparams, _ = vjp(np.full((1_000_000, 1), 0.1, np.float32))
    assert abs(dparams["b"][0] / (1e6 * float(np.float32(0.1))) - 1) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("norm", [group_norm(1), group_norm(8), layer_norm(3)])
def test_norm_layers_give_an_example_the_same_output_in_any_batch_after_other_layers(norm: Op) -> None:
    net = serial(conv(32, 3, padding=1), relu, norm)
    x = np.random.default_rng(0).random((4, 1, 128, 128), np.float32)
    params = net.init(0, (1, 128, 128))
    exact, _ = net.apply(tree_map(lambda a: a.astype(np.float64), params), x.astype(np.float64))
    whole, _ = net.apply(params, x)
    assert np.abs(whole - exact).max() <= 1e-6 * np.abs(exact).max()
    for i in range(4):
        alone, _ = net.apply(params, x[i : i + 1])
        assert np.abs(alone[0] - whole[i]).max() <= 1e-6 * np.abs(exact).max()


@pytest.mark.parametrize("norm", [group_norm(2), layer_norm(3), batch_norm()])
@pytest.mark.parametrize("offset", [100.0, -3e4])
def test_norm_layers_are_exact_for_means_far_from_zero(norm: Op, offset: float) -> None:
    x = from_wchn(to_wchn((offset + np.random.default_rng(0).standard_normal((4, 4, 20, 20))).astype(np.float32)))
    params = norm.init(0, (4, 20, 20))
    y, vjp = norm.apply(params, x, 1)
    expected, vjp_expected = norm.apply(tree_map(lambda a: a.astype(np.float64), params), x.astype(np.float64), 1)
    assert np.abs(y - expected).max() <= 1e-6 * np.abs(expected).max()
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx = vjp(dy.astype(np.float32))[1]
    assert np.abs(dx - vjp_expected(dy.astype(np.float32).astype(np.float64))[1]).max() <= 2e-6 * np.abs(dx).max()


# What the property must find


def naive_norm(params: Params, x: Array) -> tuple[Array, Vjp]:
    """A group_norm(1) without scale and shift that uses NumPy's sums over outer axes."""
    axes = tuple(range(1, x.ndim))
    count = np.prod(x.shape[1:], dtype=x.dtype)
    z = x - x.sum(axes, keepdims=True) / count
    std = np.sqrt(np.square(z).sum(axes, keepdims=True) / count + 1e-5)
    z /= std

    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
        dx = dy - dy.sum(axes, keepdims=True) / count
        dx -= z * ((dy * z).sum(axes, keepdims=True) / count)
        return {}, dx / std

    return z, vjp


def naive_scale(params: Params, x: Array) -> tuple[Array, Vjp]:
    return x * params["scale"], lambda dy, need_dx=True: ({"scale": (x * dy).sum(0)}, dy * params["scale"])


def naive_mean(params: Params, x: Array) -> tuple[Array, Vjp]:
    shape = x.shape
    return x.mean((2, 3)), lambda dy, need_dx=True: (
        {},
        np.ones(shape, dy.dtype) * dy[:, :, None, None] / np.prod(shape[2:], dtype=dy.dtype),
    )


def naive_bias(params: Params, x: Array) -> tuple[Array, Vjp]:
    """An operator of several layers; one of its gradients is a naive sum."""

    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
        exact = {name: accurate_sum(dy * x, 0) for name in ("a", "b", "c", "d")}
        return exact | {"e": dy.sum(0)}, dy * sum(params[name] for name in exact)

    scale = params["a"] + params["b"] + params["c"] + params["d"]
    return x * scale + params["e"], vjp


def ones(key: Any, shape: Shape) -> Params:
    return {"scale": np.ones(shape, np.float32)}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (Op(lambda key, shape: {}, naive_norm), (4, 3, 3)),
        (Op(ones, naive_scale), (3, 4)),
        (Op(ones, naive_scale), (10, 6)),
        (Op(lambda key, shape: {}, naive_mean), (2, 5, 4)),
        (Op(lambda key, shape: {name: np.ones(shape, np.float32) for name in "abcde"}, naive_bias), (3,)),
    ],
    ids=["norm", "scale", "scale of many", "mean", "bias"],
)
def test_check_op_finds_naive_sums(op: Op, shape: Shape, seed: int) -> None:
    with pytest.raises(CheckError, match=r"accuracy: .* expected .* within .*, got .*fnn.accurate_sum"):
        check_op(op, shape, seed)
    check_op(op, shape, seed, exempt=["accuracy"])


def naive_cross_entropy(logits: Array, labels: Array) -> tuple[Any, Callable[[], Array]]:
    h = logits - logits.max(-1, keepdims=True)
    e, total = np.exp(h), np.exp(h).sum(-1)
    hot = labels[:, None] == np.arange(logits.shape[-1])
    value = (np.log(total).sum() - h.sum(where=hot)) / len(labels)
    return value, lambda: (e / total[:, None] - hot.astype(e.dtype)) / len(labels)


def naive_absolute(outputs: Array, targets: Array) -> tuple[Any, Callable[[], Array]]:
    error = outputs - targets
    return np.abs(error).sum(0).mean() / len(error), lambda: np.sign(error) / error.size


@pytest.mark.parametrize("seed", range(2))
def test_check_loss_finds_naive_sums(seed: int) -> None:
    rng = np.random.default_rng(seed)
    with pytest.raises(CheckError, match="accuracy: value"):
        check_loss(naive_cross_entropy, rng.standard_normal((5, 3)), rng.integers(0, 3, 5), seed)
    with pytest.raises(CheckError, match="accuracy: value"):
        check_loss(naive_absolute, rng.standard_normal((5, 3)), rng.standard_normal((5, 3)), seed)
