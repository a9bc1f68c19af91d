"""The operators and losses of fnn in JAX, with images channels last, which is fastest there.

JAX needs some params in another form; `to_jax_form` converts them.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnn import Op, Params

Form: TypeAlias = Callable[[Op, Params, Any, Any], Any]

IMAGES = ("NHWC", "HWIO", "NHWC")


def apply(op: Op, params: Params, x: Any, key: Any) -> Any:
    """Returns the output of the operator for a batch; a key means training."""
    return FORMS[op.kind](op, params, x, key)


def to_jax_form(op: Op, params: Params) -> Params:
    """Returns the params as JAX's arrays: (height, width, in, out) for convolutions; one projection to q, k and v."""
    if op.parts:
        return {name: to_jax_form(part, params[name]) for name, part in op.parts.items()}
    if op.wraps is not None:
        return to_jax_form(op.wraps, params)
    if op.kind == "conv":
        params = params | {"w": params["w"].transpose(2, 3, 1, 0)}
    if op.kind == "conv_transpose":
        params = params | {"w": params["w"].transpose(2, 3, 0, 1)}
    if op.kind == "attention":
        w, b = (np.concatenate([params[f"{kind}{name}"] for name in "qkv"], -1) for kind in "wb")
        params = {"w": w, "b": b, "wo": params["wo"], "bo": params["bo"]}
    return {name: jnp.asarray(value) for name, value in params.items()}


def to_channels_last(x: Any) -> Any:
    """Returns images with their channels last, other arrays as they are."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def pair(value: Any) -> tuple[int, int]:
    """Returns a size for height and width."""
    return (value, value) if isinstance(value, int) else tuple(value)


def _serial(op: Op, params: Params, x: Any, key: Any) -> Any:
    for i, (name, part) in enumerate(op.parts.items()):
        x = apply(part, params[name], x, None if key is None else jax.random.fold_in(key, i))
    return x


def _concatenated(op: Op, params: Params, x: Any, key: Any) -> Any:
    return jnp.concatenate([apply(part, params[name], x, key) for name, part in op.parts.items()], -1)


def _positionwise(op: Op, params: Params, x: Any, key: Any) -> Any:
    assert op.wraps is not None
    y = apply(op.wraps, params, x.reshape(-1, *x.shape[2:]), key)
    return y.reshape(*x.shape[:2], *y.shape[1:])


def _attention(op: Op, params: Params, x: Any, key: Any) -> Any:
    qkv = (x @ params["w"] + params["b"]).reshape(*x.shape[:2], 3, op.config["heads"], -1)
    q, k, v = (qkv[:, :, i] for i in range(3))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=op.config["causal"])
    return y.reshape(x.shape) @ params["wo"] + params["bo"]


def _normalise(x: Any, axes: Sequence[int], eps: float) -> Any:
    return (x - x.mean(axes, keepdims=True)) * jax.lax.rsqrt(x.var(axes, keepdims=True) + eps)


def _batch_norm(op: Op, params: Params, x: Any, key: Any) -> Any:
    if key is None:
        z = (x - params["mean"]) * jax.lax.rsqrt(params["var"] + op.config["eps"])
    else:
        z = _normalise(x, range(x.ndim - 1), op.config["eps"])
    return z * params["w"] + params["b"]


def _group_norm(op: Op, params: Params, x: Any, key: Any) -> Any:
    grouped = x.reshape(*x.shape[:-1], op.config["groups"], -1)
    axes = [axis for axis in range(1, grouped.ndim) if axis != grouped.ndim - 2]
    return _normalise(grouped, axes, op.config["eps"]).reshape(x.shape) * params["w"] + params["b"]


def _layer_norm(op: Op, params: Params, x: Any, key: Any) -> Any:
    return _normalise(x, range(-op.config["axes"], 0), op.config["eps"]) * params["w"] + params["b"]


def _conv(op: Op, params: Params, x: Any, key: Any) -> Any:
    c = op.config
    stride, dilation, padding = pair(c["stride"]), pair(c["dilation"]), [(p, p) for p in pair(c["padding"])]
    y = jax.lax.conv_general_dilated(x, params["w"], stride, padding, None, dilation, IMAGES, c["groups"])
    return y + params["b"] if c["bias"] else y


def _conv_transpose(op: Op, params: Params, x: Any, key: Any) -> Any:
    """The transposed convolution as a convolution of the input with zeros between its pixels; for one group."""
    w, sizes = params["w"][::-1, ::-1], (pair(op.config[n]) for n in ("dilation", "padding", "output_padding"))
    padding = [(g * (k - 1) - p, g * (k - 1) - p + e) for k, g, p, e in zip(w.shape[:2], *sizes, strict=True)]
    stride, dilation = pair(op.config["stride"]), pair(op.config["dilation"])
    y = jax.lax.conv_general_dilated(x, w, (1, 1), padding, stride, dilation, IMAGES)
    return y + params["b"] if op.config["bias"] else y


def _dense(op: Op, params: Params, x: Any, key: Any) -> Any:
    y = _channels_first(x).reshape(len(x), -1) @ params["w"]
    return y + params["b"] if op.config["bias"] else y


def _channels_first(x: Any) -> Any:
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def _dropout(op: Op, params: Params, x: Any, key: Any) -> Any:
    kept = 1 - op.config["rate"]
    return x if key is None else jnp.where(jax.random.bernoulli(key, kept, x.shape), x / kept, 0)


def _pool(start: float, function: Callable[..., Any], reduce: str) -> Form:
    """The form of a pooling; windows that do not overlap are faster as axes of their own."""

    def form(op: Op, params: Params, x: Any, key: Any) -> Any:
        (kernel, padding), stride = (pair(op.config[n]) for n in ("kernel_size", "padding")), op.config["stride"]
        stride = kernel if stride is None else pair(stride)
        n, height, width, channels = x.shape
        (kh, kw), apart = kernel, kernel == stride and padding == (0, 0)
        if apart and height % kh == width % kw == 0:
            return getattr(x.reshape(n, height // kh, kh, width // kw, kw, channels), reduce)((2, 4))
        margins = [(0, 0), *((p, p) for p in padding), (0, 0)]
        y = jax.lax.reduce_window(x, start, function, (1, *kernel, 1), (1, *stride, 1), margins)
        return y / prod(kernel) if reduce == "mean" else y

    return form


def _reshape(op: Op, params: Params, x: Any, key: Any) -> Any:
    return to_channels_last(_channels_first(x).reshape(len(x), *op.config["shape"]))


def _plain(function: Callable[[Any], Any]) -> Form:
    """The form of an operator without params and arguments."""
    return lambda op, params, x, key: function(x)


FORMS: dict[str, Form] = {
    "attention": _attention,
    "avgpool": _pool(0.0, jax.lax.add, "mean"),
    "batch_norm": _batch_norm,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "dense": _dense,
    "dropout": _dropout,
    "embedding": lambda op, params, x, key: params["w"][x],
    "gelu": _plain(jax.nn.gelu),
    "global_avgpool": _plain(lambda x: x.mean((1, 2))),
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "maxpool": _pool(-jnp.inf, jax.lax.max, "max"),
    "parallel": _concatenated,
    "position_embedding": lambda op, params, x, key: x + params["w"][: x.shape[1]],
    "positionwise": _positionwise,
    "relu": _plain(jax.nn.relu),
    "repeat": _serial,
    "reshape": _reshape,
    "residual": lambda op, params, x, key: x + _serial(op, params, x, key),
    "serial": _serial,
    "sigmoid": _plain(jax.nn.sigmoid),
    "silu": _plain(jax.nn.silu),
    "softmax": _plain(jax.nn.softmax),
    "tanh": _plain(jnp.tanh),
}
"""For each kind of operator, a function of the operator, its params, the input, and the key or None."""


def _cross_entropy(logits: Any, labels: Any) -> Any:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1))


def _binary_cross_entropy(logits: Any, targets: Any) -> Any:
    return jnp.mean(jax.nn.softplus(logits) - targets * logits)


LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "mse": lambda outputs, targets: jnp.mean(jnp.square(outputs - targets)),
}
