"""ONNX translations of the operators without parts, one function per kind."""

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Any

import numpy as np

from fnn.checks.images import check_pair
from fnn.onnx.graph import Context, Translate
from fnn.ops.activations import GELU_CUBIC, GELU_SCALE


def _single(kind: str, **attributes: Any) -> Translate:
    """The translation to one node without params."""
    return lambda ctx, x: ctx.node("", kind, x, **attributes)


def _sizes(ctx: Context, *names: str) -> Iterator[tuple[int, int]]:
    """These hyper-parameters, each for height and width."""
    return (check_pair(name, ctx.op.config[name], 0) for name in names)


def _bias(ctx: Context) -> list[str]:
    return [ctx.param("b")] if ctx.op.config["bias"] else []


def _conv(ctx: Context, x: str) -> str:
    kernel, strides, dilations = _sizes(ctx, "kernel_size", "stride", "dilation")
    padding, pads = ctx.op.config["padding"], (0, 0, 0, 0)
    if padding == "same":
        axes = zip(ctx.shape[1:], ctx.out_shape[1:], kernel, strides, dilations, strict=True)
        height, width = (max(0, (out - 1) * step + (k - 1) * gap + 1 - size) for size, out, k, step, gap in axes)
        pads = (height // 2, width // 2, height - height // 2, width - width // 2)
    elif padding != "valid":
        pads = 2 * check_pair("padding", padding, 0)
    sizes = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    return ctx.node("", "Conv", x, ctx.param("w"), *_bias(ctx), **sizes, group=ctx.op.config["groups"])


def _conv_transpose(ctx: Context, x: str) -> str:
    strides, dilations, paddings, extras = _sizes(ctx, "stride", "dilation", "padding", "output_padding")

    def adapt(stride: int, dilation: int, padding: int, extra: int) -> tuple[int, int, int]:
        """Kernel elements to add, the padding at the end, and the output padding, on one axis."""
        # onnxruntime requires an output padding below the stride; ours may be larger if it is below the dilation.
        # Then add one kernel element of zeros, which enlarges the output by `dilation`, and cut the excess by padding.
        return (0, padding, extra) if extra < stride else (1, padding + dilation - extra, 0)

    more, ends, extras = zip(*map(adapt, strides, dilations, paddings, extras), strict=True)
    w = np.pad(ctx.params["w"], ((0, 0), (0, 0), (0, more[0]), (0, more[1])))
    sizes = {"kernel_shape": w.shape[2:], "strides": strides, "dilations": dilations, "pads": paddings + ends}
    inputs = x, ctx.tensor("w", w), *_bias(ctx)
    return ctx.node("", "ConvTranspose", *inputs, **sizes, output_padding=extras, group=ctx.op.config["groups"])


def _dense(ctx: Context, x: str) -> str:
    rows = x if len(ctx.shape) == 1 else ctx.node("flatten", "Flatten", x, axis=1)
    return ctx.node("", "Gemm", rows, ctx.param("w"), *_bias(ctx))


def _pool(kind: str, **attributes: int) -> Translate:
    def translate(ctx: Context, x: str) -> str:
        stride = "kernel_size" if ctx.op.config["stride"] is None else "stride"
        kernel, strides, paddings = _sizes(ctx, "kernel_size", stride, "padding")
        return ctx.node("", kind, x, kernel_shape=kernel, strides=strides, pads=2 * paddings, **attributes)

    return translate


def _gelu(ctx: Context, x: str) -> str:
    one, half = ctx.tensor("one", np.float32(1)), ctx.tensor("half", np.float32(0.5))
    square = ctx.node("square", "Mul", x, x)
    cubic = ctx.node("cubic", "Mul", square, ctx.tensor("c", np.float32(GELU_CUBIC)))
    scaled = ctx.node("scaled", "Mul", x, ctx.tensor("scale", np.float32(GELU_SCALE)))
    inner = ctx.node("inner", "Mul", scaled, ctx.node("factor", "Add", cubic, one))
    gate = ctx.node("gate", "Mul", ctx.node("sum", "Add", ctx.node("tanh", "Tanh", inner), one), half)
    return ctx.node("", "Mul", x, gate)


def _normalise(ctx: Context, x: str, axes: range) -> str:
    """`x` minus its mean over the axes, divided by its standard deviation."""
    centred = ctx.node("centred", "Sub", x, ctx.node("mean", "ReduceMean", x, axes=list(axes), keepdims=1))
    square = ctx.node("square", "Mul", centred, centred)
    var = ctx.node("var", "ReduceMean", square, axes=list(axes), keepdims=1)
    eps = ctx.tensor("eps", np.float32(ctx.op.config["eps"]))
    return ctx.node("normal", "Div", centred, ctx.node("std", "Sqrt", ctx.node("var_eps", "Add", var, eps)))


def _layer_norm(ctx: Context, x: str) -> str:
    normal = _normalise(ctx, x, range(-ctx.op.config["axes"], 0))
    return ctx.node("", "Add", ctx.node("scaled", "Mul", normal, ctx.param("w")), ctx.param("b"))


def _group_norm(ctx: Context, x: str) -> str:
    groups, (channels, *rest) = ctx.op.config["groups"], ctx.shape
    grouped = ctx.reshape("grouped", x, 0, groups, channels // groups, *rest)
    normal = ctx.reshape("ungrouped", _normalise(ctx, grouped, range(2, 3 + len(rest))), 0, *ctx.shape)
    w, b = (ctx.tensor(name, ctx.params[name].reshape(channels, *(1 for _ in rest))) for name in "wb")
    return ctx.node("", "Add", ctx.node("scaled", "Mul", normal, w), b)


def _batch_norm(ctx: Context, x: str) -> str:
    params = [ctx.param(name) for name in ("w", "b", "mean", "var")]
    return ctx.node("", "BatchNormalization", x, *params, epsilon=float(ctx.op.config["eps"]))


def _attention(ctx: Context, x: str) -> str:
    heads, (time, features) = ctx.op.config["heads"], ctx.shape
    size = features // heads

    def affine(name: str, letter: str, x: str) -> str:
        product = ctx.node(f"{letter}_product", "MatMul", x, ctx.param(f"w{letter}"))
        return ctx.node(name, "Add", product, ctx.param(f"b{letter}"))

    def split_heads(letter: str, *perm: int) -> str:
        split = ctx.reshape(f"{letter}_split", affine(letter, letter, x), 0, time, heads, size)
        return ctx.node(f"{letter}_heads", "Transpose", split, perm=perm)

    q, k, v = split_heads("q", 0, 2, 1, 3), split_heads("k", 0, 2, 3, 1), split_heads("v", 0, 2, 1, 3)
    products, scale = ctx.node("products", "MatMul", q, k), ctx.tensor("scale", np.float32(sqrt(size)))
    scores = ctx.node("scores", "Div", products, scale)
    if ctx.op.config["causal"]:
        mask = np.triu(np.full((time, time), -np.inf, np.float32), 1)
        scores = ctx.node("causal", "Add", scores, ctx.graph.add_tensor("causal_mask", mask))  # shared by all layers
    mixed = ctx.node("mixed", "MatMul", ctx.node("weights", "Softmax", scores, axis=-1), v)
    joined = ctx.reshape("joined", ctx.node("transposed", "Transpose", mixed, perm=(0, 2, 1, 3)), 0, time, features)
    return affine("", "o", joined)


LAYERS: Mapping[str, Translate] = {
    "attention": _attention,
    "avgpool": _pool("AveragePool", count_include_pad=1),
    "batch_norm": _batch_norm,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "dense": _dense,
    "dropout": lambda ctx, x: x,
    "elu": lambda ctx, x: ctx.node("", "Elu", x, alpha=float(ctx.op.config["alpha"])),
    "embedding": lambda ctx, x: ctx.node("", "Gather", ctx.param("w"), x, axis=0),
    "flatten": _single("Flatten", axis=1),
    "gelu": _gelu,
    "global_avgpool": lambda ctx, x: ctx.node("", "Flatten", ctx.node("mean", "GlobalAveragePool", x), axis=1),
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "leaky_relu": lambda ctx, x: ctx.node("", "LeakyRelu", x, alpha=float(ctx.op.config["slope"])),
    "log_softmax": _single("LogSoftmax", axis=-1),
    "maxpool": _pool("MaxPool"),
    "position_embedding": lambda ctx, x: ctx.node("", "Add", x, ctx.tensor("w", ctx.params["w"][: ctx.shape[0]])),
    "relu": _single("Relu"),
    "reshape": lambda ctx, x: ctx.reshape("", x, 0, *ctx.out_shape),
    "sigmoid": _single("Sigmoid"),
    "silu": lambda ctx, x: ctx.node("", "Mul", x, ctx.node("sigmoid", "Sigmoid", x)),
    "softmax": _single("Softmax", axis=-1),
    "softplus": _single("Softplus"),
    "tanh": _single("Tanh"),
}
