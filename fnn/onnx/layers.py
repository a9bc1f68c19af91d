"""How the operators that have no parts are said in ONNX, a function for each kind."""

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Any

import numpy as np

from fnn.checks.images import check_pair
from fnn.onnx.place import Place, Translate
from fnn.ops.activations import GELU_CUBIC, GELU_SCALE


def _one(kind: str, **attributes: Any) -> Translate:
    """The translation to a single node without params."""
    return lambda at, x: at.node("", kind, x, **attributes)


def _identity(at: Place, x: str) -> str:
    return x


def _sizes(at: Place, *names: str) -> Iterator[tuple[int, int]]:
    """The hyper-parameters of these names, each for height and width."""
    return (check_pair(name, at.op.config[name], 0) for name in names)


def _bias(at: Place) -> list[str]:
    return [at.param("b")] if at.op.config["bias"] else []


def _conv(at: Place, x: str) -> str:
    taps, steps, gaps = _sizes(at, "kernel_size", "stride", "dilation")
    padding, pads = at.op.config["padding"], (0, 0, 0, 0)
    if padding == "same":
        axes = zip(at.shape[1:], at.out[1:], taps, steps, gaps, strict=True)
        down, across = (max(0, (out - 1) * step + (tap - 1) * gap + 1 - size) for size, out, tap, step, gap in axes)
        pads = (down // 2, across // 2, down - down // 2, across - across // 2)
    elif padding != "valid":
        pads = 2 * check_pair("padding", padding, 0)
    sizes = {"kernel_shape": taps, "strides": steps, "dilations": gaps, "pads": pads}
    return at.node("", "Conv", x, at.param("w"), *_bias(at), **sizes, group=at.op.config["groups"])


def _conv_transpose(at: Place, x: str) -> str:
    steps, gaps, margins, extras = _sizes(at, "stride", "dilation", "padding", "output_padding")

    def reach(step: int, gap: int, margin: int, extra: int) -> tuple[int, int, int]:
        """Taps to add to the kernel, the padding at the end, and the output padding."""
        # onnxruntime refuses an output padding of the stride or more, which we take where it is less than the dilation.
        # One more tap, of zeros, reaches further by a dilation, of which padding takes back what is too much.
        return (0, margin, extra) if extra < step else (1, margin + gap - extra, 0)

    more, ends, extras = zip(*map(reach, steps, gaps, margins, extras), strict=True)
    w = np.pad(at.params["w"], ((0, 0), (0, 0), (0, more[0]), (0, more[1])))
    sizes = {"kernel_shape": w.shape[2:], "strides": steps, "dilations": gaps, "pads": margins + ends}
    inputs = x, at.tensor("w", w), *_bias(at)
    return at.node("", "ConvTranspose", *inputs, **sizes, output_padding=extras, group=at.op.config["groups"])


def _dense(at: Place, x: str) -> str:
    rows = x if len(at.shape) == 1 else at.node("flatten", "Flatten", x, axis=1)
    return at.node("", "Gemm", rows, at.param("w"), *_bias(at))


def _pool(kind: str, **attributes: int) -> Translate:
    def translate(at: Place, x: str) -> str:
        stride = "kernel_size" if at.op.config["stride"] is None else "stride"
        taps, steps, margins = _sizes(at, "kernel_size", stride, "padding")
        return at.node("", kind, x, kernel_shape=taps, strides=steps, pads=2 * margins, **attributes)

    return translate


def _global_avgpool(at: Place, x: str) -> str:
    return at.node("", "Flatten", at.node("mean", "GlobalAveragePool", x), axis=1)


def _leaky_relu(at: Place, x: str) -> str:
    return at.node("", "LeakyRelu", x, alpha=float(at.op.config["slope"]))


def _elu(at: Place, x: str) -> str:
    return at.node("", "Elu", x, alpha=float(at.op.config["alpha"]))


def _silu(at: Place, x: str) -> str:
    return at.node("", "Mul", x, at.node("sigmoid", "Sigmoid", x))


def _gelu(at: Place, x: str) -> str:
    one, half = at.tensor("one", np.float32(1)), at.tensor("half", np.float32(0.5))
    square = at.node("square", "Mul", x, x)
    bent = at.node("bent", "Add", at.node("cubic", "Mul", square, at.tensor("c", np.float32(GELU_CUBIC))), one)
    scaled = at.node("scaled", "Mul", x, at.tensor("scale", np.float32(GELU_SCALE)))
    tanh = at.node("tanh", "Tanh", at.node("inner", "Mul", scaled, bent))
    return at.node("", "Mul", x, at.node("gate", "Mul", at.node("raised", "Add", tanh, one), half))


def _reshape(at: Place, x: str) -> str:
    return at.reshape("", x, 0, *at.out)


def _normalised(at: Place, x: str, axes: range) -> str:
    """`x` less its mean over the axes, over its standard deviation there."""
    centred = at.node("centred", "Sub", x, at.node("mean", "ReduceMean", x, axes=list(axes), keepdims=1))
    square = at.node("square", "Mul", centred, centred)
    var = at.node("var", "ReduceMean", square, axes=list(axes), keepdims=1)
    std = at.node("std", "Sqrt", at.node("above", "Add", var, at.tensor("eps", np.float32(at.op.config["eps"]))))
    return at.node("normal", "Div", centred, std)


def _layer_norm(at: Place, x: str) -> str:
    normal = _normalised(at, x, range(-at.op.config["axes"], 0))
    return at.node("", "Add", at.node("scaled", "Mul", normal, at.param("w")), at.param("b"))


def _group_norm(at: Place, x: str) -> str:
    groups, (channels, *rest) = at.op.config["groups"], at.shape
    apart = at.reshape("apart", x, 0, groups, channels // groups, *rest)
    whole = at.reshape("whole", _normalised(at, apart, range(2, 3 + len(rest))), 0, *at.shape)
    w, b = (at.tensor(name, at.params[name].reshape(channels, *(1 for _ in rest))) for name in "wb")
    return at.node("", "Add", at.node("scaled", "Mul", whole, w), b)


def _batch_norm(at: Place, x: str) -> str:
    params = [at.param(name) for name in ("w", "b", "mean", "var")]
    return at.node("", "BatchNormalization", x, *params, epsilon=float(at.op.config["eps"]))


def _embedding(at: Place, x: str) -> str:
    return at.node("", "Gather", at.param("w"), x, axis=0)


def _position_embedding(at: Place, x: str) -> str:
    return at.node("", "Add", x, at.tensor("w", at.params["w"][: at.shape[0]]))


def _attention(at: Place, x: str) -> str:
    heads, (time, features) = at.op.config["heads"], at.shape
    size = features // heads

    def affine(name: str, letter: str, x: str) -> str:
        product = at.node(f"{letter}_product", "MatMul", x, at.param(f"w{letter}"))
        return at.node(name, "Add", product, at.param(f"b{letter}"))

    def of_heads(letter: str, *perm: int) -> str:
        apart = at.reshape(f"{letter}_apart", affine(letter, letter, x), 0, time, heads, size)
        return at.node(f"{letter}_heads", "Transpose", apart, perm=perm)

    q, k, v = of_heads("q", 0, 2, 1, 3), of_heads("k", 0, 2, 3, 1), of_heads("v", 0, 2, 1, 3)
    scores = at.node("scores", "Div", at.node("products", "MatMul", q, k), at.tensor("scale", np.float32(sqrt(size))))
    if at.op.config["causal"]:
        later = np.triu(np.full((time, time), -np.inf, np.float32), 1)
        scores = at.node("causal", "Add", scores, at.graph.tensor("later", later))  # one for all that are alike
    mixed = at.node("mixed", "MatMul", at.node("weights", "Softmax", scores, axis=-1), v)
    joined = at.reshape("joined", at.node("turned", "Transpose", mixed, perm=(0, 2, 1, 3)), 0, time, features)
    return affine("", "o", joined)


LAYERS: Mapping[str, Translate] = {
    "attention": _attention,
    "avgpool": _pool("AveragePool", count_include_pad=1),
    "batch_norm": _batch_norm,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "dense": _dense,
    "dropout": _identity,
    "elu": _elu,
    "embedding": _embedding,
    "flatten": _one("Flatten", axis=1),
    "gelu": _gelu,
    "global_avgpool": _global_avgpool,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "leaky_relu": _leaky_relu,
    "log_softmax": _one("LogSoftmax", axis=-1),
    "maxpool": _pool("MaxPool"),
    "position_embedding": _position_embedding,
    "relu": _one("Relu"),
    "reshape": _reshape,
    "sigmoid": _one("Sigmoid"),
    "silu": _silu,
    "softmax": _one("Softmax", axis=-1),
    "softplus": _one("Softplus"),
    "tanh": _one("Tanh"),
}
