"""The operators and losses of fnn in PyTorch, in the forms that its users write.

PyTorch stores some params in another form; `to_torch_form` converts them.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

from fnn import Op, Params

F = torch.nn.functional

Form: TypeAlias = Callable[[Op, Params, Any, bool], Any]


def apply(op: Op, params: Params, x: Any, train: bool) -> Any:
    """Returns the output of the operator for a batch."""
    return FORMS[op.kind](op, params, x, train)


def to_torch_form(op: Op, params: Params) -> Params:
    """Returns the params as tensors, in PyTorch's form: (out, in) for dense; one projection to q, k and v."""
    if op.parts:
        return {name: to_torch_form(part, params[name]) for name, part in op.parts.items()}
    if op.wraps is not None:
        return to_torch_form(op.wraps, params)
    if op.kind == "dense":
        params = params | {"w": params["w"].T}
    if op.kind == "attention":
        w, b = (
            np.concatenate([params[f"w{name}"].T for name in "qkv"]),
            np.concatenate([params[f"b{n}"] for n in "qkv"]),
        )
        params = {"w": w, "b": b, "wo": params["wo"].T, "bo": params["bo"]}
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in params.items()}


def pair(value: Any) -> tuple[int, int]:
    """Returns a size for height and width."""
    return (value, value) if isinstance(value, int) else tuple(value)


def _serial(op: Op, params: Params, x: Any, train: bool) -> Any:
    for name, part in op.parts.items():
        x = apply(part, params[name], x, train)
    return x


def _concatenated(op: Op, params: Params, x: Any, train: bool) -> Any:
    return torch.cat([apply(part, params[name], x, train) for name, part in op.parts.items()], 1)


def _positionwise(op: Op, params: Params, x: Any, train: bool) -> Any:
    assert op.wraps is not None
    return apply(op.wraps, params, x.flatten(0, 1), train).unflatten(0, x.shape[:2])


def _attention(op: Op, params: Params, x: Any, train: bool) -> Any:
    qkv = F.linear(x, params["w"], params["b"]).unflatten(-1, (3, op.config["heads"], -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=op.config["causal"])
    return F.linear(y.transpose(1, 2).flatten(2), params["wo"], params["bo"])


def _batch_norm(op: Op, params: Params, x: Any, train: bool) -> Any:
    statistics = (None, None) if train else (params["mean"], params["var"])
    return F.batch_norm(x, *statistics, params["w"], params["b"], training=train, eps=op.config["eps"])


def _conv(op: Op, params: Params, x: Any, train: bool) -> Any:
    c = op.config
    sizes = [pair(c[name]) for name in ("stride", "padding", "dilation")]
    return F.conv2d(x, params["w"], params.get("b"), *sizes, c["groups"])


def _conv_transpose(op: Op, params: Params, x: Any, train: bool) -> Any:
    c = op.config
    stride, padding, extra, dilation = (pair(c[n]) for n in ("stride", "padding", "output_padding", "dilation"))
    return F.conv_transpose2d(x, params["w"], params.get("b"), stride, padding, extra, c["groups"], dilation)


def _layer_norm(op: Op, params: Params, x: Any, train: bool) -> Any:
    return F.layer_norm(x, params["w"].shape, params["w"], params["b"], op.config["eps"])


def _pool(function: Callable[..., Any]) -> Form:
    def form(op: Op, params: Params, x: Any, train: bool) -> Any:
        kernel, stride, padding = (op.config[name] for name in ("kernel_size", "stride", "padding"))
        return function(x, pair(kernel), stride and pair(stride), pair(padding))

    return form


def _plain(function: Callable[[Any], Any]) -> Form:
    """The form of an operator without params and arguments."""
    return lambda op, params, x, train: function(x)


FORMS: dict[str, Form] = {
    "attention": _attention,
    "avgpool": _pool(F.avg_pool2d),
    "batch_norm": _batch_norm,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "dense": lambda op, p, x, train: F.linear(x.flatten(1), p["w"], p.get("b")),
    "dropout": lambda op, p, x, train: F.dropout(x, op.config["rate"], train),
    "embedding": lambda op, p, x, train: F.embedding(x, p["w"]),
    "gelu": _plain(lambda x: F.gelu(x, approximate="tanh")),
    "global_avgpool": _plain(lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1)),
    "group_norm": lambda op, p, x, train: F.group_norm(x, op.config["groups"], p["w"], p["b"], op.config["eps"]),
    "layer_norm": _layer_norm,
    "maxpool": _pool(F.max_pool2d),
    "parallel": _concatenated,
    "position_embedding": lambda op, p, x, train: x + p["w"][: x.shape[1]],
    "positionwise": _positionwise,
    "relu": _plain(F.relu),
    "repeat": _serial,
    "reshape": lambda op, p, x, train: x.reshape(len(x), *op.config["shape"]),
    "residual": lambda op, p, x, train: x + _serial(op, p, x, train),
    "serial": _serial,
    "sigmoid": _plain(torch.sigmoid),
    "silu": _plain(F.silu),
    "softmax": _plain(lambda x: F.softmax(x, -1)),
    "tanh": _plain(torch.tanh),
}
"""For each kind of operator, a function of the operator, its params, the input, and whether to train."""

LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "cross_entropy": lambda logits, labels: F.cross_entropy(logits.flatten(0, -2), labels.flatten()),
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
}
