"""Each operator and combinator in PyTorch, and comparisons in float64 with a tolerance of 1e-9."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fnn import Key, Op, Params, tree_items, tree_map
from fnn.op import Array, Shape
from fnn.random import Rng, as_key
from tests.support.strategies import both, numbers

torch = pytest.importorskip("torch")
F = torch.nn.functional

Tensors = dict[str, Any]
Order = Callable[[Array], Array]
Peer = Callable[[Op, Tensors, Any, Key | None], Any]


def wrapped_op(op: Op) -> Op:
    """Returns the operator inside a wrapper."""
    assert op.wraps is not None
    return op.wraps


def in_torch(op: Op, params: Tensors, x: Any, key: Key | None = None) -> Any:
    """Computes the output of the operator in PyTorch; with a key, as in training."""
    return IN_TORCH[op.kind](op, params, x, key)


def chain(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    for name, part in op.parts.items():
        x = in_torch(part, params[name], x, key and key.fold(name))
    return x


def shared(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    [(name, part)] = op.parts.items()
    for i in range(op.config["n"]):
        x = in_torch(part, params[name], x, key and key.fold(name, i))
    return x


def parallel(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    ys = [in_torch(part, params[name], x, key and key.fold(name)) for name, part in op.parts.items()]
    return torch.cat(ys, 1) if op.config["join"] == "concat" else torch.stack(ys).sum(0)


def wrapped(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    return in_torch(wrapped_op(op), params, x, key)


def in_shards(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    assert key is None, "random operators use another key for each piece"
    return in_torch(wrapped_op(op), params, x)


def freeze(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    return in_torch(wrapped_op(op), tree_map(lambda p: p.detach(), params), x, key)


def positionwise(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    y = in_torch(wrapped_op(op), params, x.flatten(0, 1), key)
    return y.unflatten(0, x.shape[:2])


def attention(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    p, (time, features) = params, x.shape[1:]
    mask = torch.ones(time, time, dtype=torch.bool).triu(1) if op.config["causal"] else None
    weights, bias = torch.cat([p["wq"], p["wk"], p["wv"]], 1).T, torch.cat([p["bq"], p["bk"], p["bv"]])
    options = {"training": False, "need_weights": False, "attn_mask": mask}
    t = x.swapaxes(0, 1)
    y, _ = F.multi_head_attention_forward(
        t, t, t, features, op.config["heads"], weights, bias, None, None, False, 0.0, p["wo"].T, p["bo"], **options
    )
    return y.swapaxes(0, 1)


def batch_norm(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    statistics = (None, None) if key else (params["mean"].detach(), params["var"].detach())
    return F.batch_norm(x, *statistics, params["w"], params["b"], training=key is not None, eps=op.config["eps"])


def conv(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    c = op.config
    (top, bottom), (left, right) = (margins(c, x.shape[2 + i], i) for i in (0, 1))
    x = F.pad(x, (left, right, top, bottom))
    stride, dilation = both(c["stride"]), both(c["dilation"])
    return F.conv2d(x, params["w"], params.get("b"), stride, 0, dilation, c["groups"])


def margins(config: Any, size: int, axis: int) -> tuple[int, int]:
    """Returns the padding before and after; "same" works for any stride."""
    padding = config["padding"]
    if padding == "valid":
        return 0, 0
    if padding != "same":
        return both(padding)[axis], both(padding)[axis]
    kernel, stride, dilation = (both(config[name])[axis] for name in ("kernel_size", "stride", "dilation"))
    missing = max(0, ((size + stride - 1) // stride - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return missing // 2, missing - missing // 2


def conv_transpose(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    stride, padding, extra, dilation = (
        both(op.config[name]) for name in ("stride", "padding", "output_padding", "dilation")
    )
    return F.conv_transpose2d(x, params["w"], params.get("b"), stride, padding, extra, op.config["groups"], dilation)


def dropout(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
    if key is None:
        return F.dropout(x, op.config["rate"], training=False)
    kept = op.apply({}, np.ones(x.shape), key)[0] != 0
    return x * torch.tensor(kept) / (1 - op.config["rate"])


def pool2d(f: Callable[..., Any]) -> Peer:
    def apply(op: Op, params: Tensors, x: Any, key: Key | None) -> Any:
        kernel, stride, padding = (op.config[name] for name in ("kernel_size", "stride", "padding"))
        return f(x, both(kernel), None if stride is None else both(stride), both(padding))

    return apply


def function_of_x(f: Callable[[Any], Any]) -> Peer:
    return lambda op, params, x, key: f(x)


IN_TORCH: dict[str, Peer] = {
    "attention": attention,
    "avgpool": pool2d(F.avg_pool2d),
    "batch_norm": batch_norm,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "dense": lambda op, p, x, key: F.linear(x.reshape(len(x), -1), p["w"].T, p.get("b")),
    "dropout": dropout,
    "elu": lambda op, p, x, key: F.elu(x, op.config["alpha"]),
    "embedding": lambda op, p, x, key: F.embedding(x, p["w"]),
    "check_finite": wrapped,
    "flatten": function_of_x(lambda x: x.reshape(len(x), -1)),
    "freeze": freeze,
    "gelu": function_of_x(lambda x: F.gelu(x, approximate="tanh")),
    "global_avgpool": function_of_x(lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0]),
    "group_norm": lambda op, p, x, key: F.group_norm(x, op.config["groups"], p["w"], p["b"], op.config["eps"]),
    "layer_norm": lambda op, p, x, key: F.layer_norm(x, p["w"].shape, p["w"], p["b"], op.config["eps"]),
    "leaky_relu": lambda op, p, x, key: F.leaky_relu(x, op.config["slope"]),
    "log_softmax": function_of_x(lambda x: F.log_softmax(x, -1)),
    "maxpool": pool2d(F.max_pool2d),
    "microbatch": in_shards,
    "named": wrapped,
    "parallel": parallel,
    "position_embedding": lambda op, p, x, key: x + p["w"][: x.shape[1]],
    "positionwise": positionwise,
    "relu": function_of_x(F.relu),
    "remat": wrapped,
    "repeat": chain,
    "reshape": lambda op, p, x, key: x.reshape(len(x), *op.config["shape"]),
    "residual": lambda op, p, x, key: x + chain(op, p, x, key),
    "serial": chain,
    "shard": in_shards,
    "shared": shared,
    "sigmoid": function_of_x(torch.sigmoid),
    "silu": function_of_x(F.silu),
    "softmax": function_of_x(lambda x: F.softmax(x, -1)),
    "softplus": function_of_x(lambda x: F.softplus(x, threshold=100)),
    "tanh": function_of_x(torch.tanh),
}
"""For each kind of operator, a function of the operator, its params as tensors, an input and a key."""


def as_tensor(array: Array) -> Any:
    """Returns a copy of the array as a tensor that collects a gradient if it has floats."""
    return torch.tensor(np.array(array, order="C"), requires_grad=array.dtype.kind == "f")


def assert_close(actual: Any, expected_tensor: Any, what: str) -> None:
    """Asserts agreement within 1e-9 of the largest number; 1e-12 allows for rounding in sums that cancel."""
    expected = np.zeros(actual.shape) if expected_tensor is None else expected_tensor.detach().numpy()
    assert actual.shape == expected.shape, what
    tolerance = 1e-12 + 1e-9 * np.abs(expected).max(initial=0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=what)


def add_noise(params: Params, rng: np.random.Generator) -> Params:
    """Adds noise to the params, in float64; variances stay positive."""

    def change(name: str, child: Any) -> Any:
        if isinstance(child, dict):
            return add_noise(child, rng)
        noisy = child + rng.standard_normal(child.shape)
        return np.abs(noisy) if name == "var" else noisy

    return {name: change(name, child) for name, child in params.items()}


def assert_agrees_at(op: Op, x: Array, order: Order, key: Rng | None = None) -> None:
    """Asserts that `op` and its counterpart agree on `x`, in memory of any order."""
    rng = np.random.default_rng(0)
    params = add_noise(op.init(0, x.shape[1:]), rng)
    y, vjp = op.apply(tree_map(order, params), order(x), key)
    dy = numbers(rng, y.shape)
    dparams, dx = vjp(order(dy))

    tensors, x_tensor = tree_map(as_tensor, params), as_tensor(x)
    y_tensor = in_torch(op, tensors, x_tensor, None if key is None else as_key(key))
    y_tensor.backward(torch.tensor(dy))
    assert_close(y, y_tensor, "output")
    assert_close(dx, x_tensor.grad, "input")
    gradients = dict(tree_items(dparams))
    for path, leaf in tree_items(tensors):
        assert_close(gradients[path], leaf.grad, path)


def assert_agrees(op: Op, shape: Shape, seed: int, batch: int, order: Order, ties: bool = False) -> None:
    """Asserts that `op` and its counterpart agree on a random batch, in memory of any order."""
    assert_agrees_at(op, numbers(np.random.default_rng(seed), (batch, *shape), ties), order)
