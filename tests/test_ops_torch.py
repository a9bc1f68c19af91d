"""Every operator and loss against PyTorch in float64: outputs, and gradients in params and input, to 1e-9 relative."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Example, both, convolutions, denses, nets, numbers, orders, poolings, seeds, shapeless

from fnn import Op, cross_entropy, mse, serial, tree_items, tree_map
from fnn.op import Array

torch = pytest.importorskip("torch")
F = torch.nn.functional

Tensors = dict[str, Any]
Order = Callable[[Array], Array]


def conv_in_torch(op: Op, params: Tensors, x: Any) -> Any:
    c = op.config
    (top, bottom), (left, right) = (margins(c, x.shape[2 + i], i) for i in (0, 1))
    x = F.pad(x, (left, right, top, bottom))
    stride, dilation = both(c["stride"]), both(c["dilation"])
    return F.conv2d(x, params["w"], params.get("b"), stride, 0, dilation, c["groups"])


def margins(config: Any, size: int, axis: int) -> tuple[int, int]:
    """The zeros before and after; "same" as its definition has it, for any stride."""
    padding = config["padding"]
    if padding == "valid":
        return 0, 0
    if padding != "same":
        return both(padding)[axis], both(padding)[axis]
    kernel, stride, dilation = (both(config[name])[axis] for name in ("kernel_size", "stride", "dilation"))
    missing = max(0, ((size + stride - 1) // stride - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return missing // 2, missing - missing // 2


def pool_in_torch(pool: Callable[..., Any]) -> Callable[[Op, Tensors, Any], Any]:
    def apply(op: Op, params: Tensors, x: Any) -> Any:
        kernel, stride, padding = (op.config[name] for name in ("kernel_size", "stride", "padding"))
        return pool(x, both(kernel), None if stride is None else both(stride), both(padding))

    return apply


def serial_in_torch(op: Op, params: Tensors, x: Any) -> Any:
    for name, part in op.parts.items():
        x = IN_TORCH[part.kind](part, params[name], x)
    return x


IN_TORCH: dict[str, Callable[[Op, Tensors, Any], Any]] = {
    "avgpool": pool_in_torch(F.avg_pool2d),
    "conv": conv_in_torch,
    "dense": lambda op, params, x: F.linear(x.reshape(len(x), -1), params["w"].T, params.get("b")),
    "flatten": lambda op, params, x: x.reshape(len(x), -1),
    "log_softmax": lambda op, params, x: F.log_softmax(x, -1),
    "maxpool": pool_in_torch(F.max_pool2d),
    "relu": lambda op, params, x: F.relu(x),
    "serial": serial_in_torch,
    "sigmoid": lambda op, params, x: torch.sigmoid(x),
    "softmax": lambda op, params, x: F.softmax(x, -1),
    "tanh": lambda op, params, x: torch.tanh(x),
}


def tensor(array: Array) -> Any:
    return torch.tensor(np.array(array, order="C"), requires_grad=True)


def close(came: Array, wanted: Any, what: str) -> None:
    """Asserts agreement to 1e-9 of the largest number; 1e-12 is the rounding of a sum that cancels."""
    there = np.zeros(came.shape) if wanted is None else wanted.detach().numpy()
    assert came.shape == there.shape, what
    tolerance = 1e-12 + 1e-9 * np.abs(there).max(initial=0)
    np.testing.assert_allclose(came, there, rtol=0, atol=tolerance, err_msg=what)


def agrees(op: Op, shape: tuple[int, ...], seed: int, batch: int, order: Order, ties: bool = False) -> None:
    """Asserts that `op` and its counterpart agree on a random batch, in memory of any order."""
    rng = np.random.default_rng(seed)
    params = tree_map(lambda a: order(a + rng.standard_normal(a.shape)), op.init(seed, shape))
    x = numbers(rng, (batch, *shape), ties)
    y, vjp = op.apply(params, order(x))
    dy = numbers(rng, y.shape)
    dparams, dx = vjp(order(dy))

    theirs, x_theirs = tree_map(tensor, params), tensor(x)
    y_theirs = IN_TORCH[op.kind](op, theirs, x_theirs)
    y_theirs.backward(torch.tensor(dy))
    close(y, y_theirs, "output")
    close(dx, x_theirs.grad, "input")
    gradients = dict(tree_items(dparams))
    for path, leaf in tree_items(theirs):
        close(gradients[path], leaf.grad, path)


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
    from fnn import conv, dense, maxpool, tanh

    features = (conv(6, 3, padding=1), maxpool(2), tanh, conv(12, 3, padding=1), maxpool(2), tanh)
    net = serial(*features, dense(32), tanh, dense(16), tanh, dense(10))
    agrees(net, (1, 28, 28), 0, batch, order)


@given(seeds, st.integers(1, 9), st.integers(1, 9), orders)
def test_cross_entropy(seed: int, batch: int, classes: int, order: Order) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = 10 * rng.standard_normal((batch, classes)), rng.integers(0, classes, batch)
    value, vjp = cross_entropy(order(logits), order(labels))
    theirs = tensor(logits)
    loss = F.cross_entropy(theirs, torch.tensor(labels))
    loss.backward()
    close(value, loss, "value")
    close(vjp(), theirs.grad, "gradient")


@given(seeds, st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), orders)
def test_mse(seed: int, shape: tuple[int, ...], order: Order) -> None:
    rng = np.random.default_rng(seed)
    predictions, targets = rng.standard_normal((2, *shape))
    value, vjp = mse(order(predictions), order(targets))
    theirs = tensor(predictions)
    loss = F.mse_loss(theirs, torch.tensor(targets))
    loss.backward()
    close(value, loss, "value")
    close(vjp(), theirs.grad, "gradient")
