"""The operators of ONNX as layers of fnn: a function for each type, from a node to a net with its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from fnn import (
    Op,
    avgpool,
    batch_norm,
    conv,
    conv_transpose,
    dense,
    dropout,
    elu,
    embedding,
    flatten,
    gelu,
    global_avgpool,
    group_norm,
    layer_norm,
    leaky_relu,
    log_softmax,
    maxpool,
    position_embedding,
    positionwise,
    relu,
    reshape,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from fnn.op import Array, Shape
from tests.onnx.suites.graph import Layer, Node, Translate, Value, chain, join


class Windows:
    """The windows of a convolution or a pooling, a number for each spatial axis; `low` and `high` are its padding."""

    def __init__(self, node: Node, kernel: Sequence[int]) -> None:
        ones = (1,) * len(kernel)
        self.size, self.kernel = node.images[1:], tuple(kernel)
        self.stride, self.dilation = tuple(node.get("strides", ones)), tuple(node.get("dilations", ones))
        self.span = tuple((k - 1) * d + 1 for k, d in zip(kernel, self.dilation, strict=True))
        pads, auto = tuple(node.get("pads", 2 * (0,) * len(kernel))), node.get("auto_pad", "NOTSET")
        self.low, self.high = pads[: len(kernel)], pads[len(kernel) :]
        if auto.startswith("SAME"):
            sizes = zip(self.size, self.stride, self.span, strict=True)
            missing = [max(0, (-(-n // step) - 1) * step + span - n) for n, step, span in sizes]
            self.low = tuple(total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in missing)
            self.high = tuple(total - low for total, low in zip(missing, self.low, strict=True))

    def out(self, ceil: bool = False) -> Shape:
        """The number of windows along each axis. With `ceil`, a last window may reach beyond the padding."""
        counts = []
        for n, span, step, low, high in zip(self.size, self.span, self.stride, self.low, self.high, strict=True):
            rest = n + low + high - span
            count = rest // step + 1
            if ceil and rest % step and count * step < n + low:  # a window does not start in the padding at the end
                count += 1
            counts.append(count)
        return tuple(counts)


def _conv(node: Node) -> Layer:
    w = node.array(1)
    if w.ndim == 5:
        raise node.refused("three spatial axes (fnn has two)")
    windows, bias = Windows(node, w.shape[2:]), node.has(2)
    if node.get("auto_pad") == "SAME_UPPER":
        padding: str | tuple[int, int] = "same"
    elif windows.low == windows.high:
        padding = _flat(windows.low, 0)
    else:
        raise node.refused("different padding at the two ends")
    kernel, stride, dilation = (_flat(n, 1) for n in (windows.kernel, windows.stride, windows.dilation))
    op = conv(len(w), kernel, stride, padding, dilation, node.get("group", 1), bias)
    params = {"w": w.reshape(*w.shape[:2], *kernel)} | ({"b": node.array(2)} if bias else {})
    return _on_images(node, (op, params), len(w))


def _conv_transpose(node: Node) -> Layer:
    w, groups, bias = node.array(1), node.get("group", 1), node.has(2)
    if w.ndim == 5:
        raise node.refused("three spatial axes (fnn has two)")
    windows, upper = Windows(node, w.shape[2:]), node.get("auto_pad") == "SAME_UPPER"
    zeros = (0,) * len(windows.size)
    extra, low, high = list(node.get("output_padding", zeros)), list(windows.low), list(windows.high)
    wanted = node.get("output_shape")
    if node.get("auto_pad", "NOTSET").startswith("SAME"):
        wanted = [n * step for n, step in zip(windows.size, windows.stride, strict=True)]
    for i, n in enumerate(wanted or ()):  # the size of the output, by which ONNX finds the padding
        cut = (windows.size[i] - 1) * windows.stride[i] + extra[i] + windows.span[i] - n
        low[i], high[i] = (cut // 2, cut - cut // 2) if upper else (cut - cut // 2, cut // 2)
        if cut < 0:
            low[i], high[i], extra[i] = 0, 0, extra[i] - cut
    extra = [e + a - b for e, a, b in zip(extra, low, high, strict=True)]
    if min(extra) < 0:
        raise node.refused("more padding at the end than at the beginning")
    kernel, stride, dilation = (_flat(n, 1) for n in (windows.kernel, windows.stride, windows.dilation))
    sizes = (stride, _flat(low, 0), _flat(extra, 0), dilation)
    channels = w.shape[1] * groups
    op = conv_transpose(channels, kernel, *sizes, groups, bias)
    params = {"w": w.reshape(*w.shape[:2], *kernel)} | ({"b": node.array(2)} if bias else {})
    return _on_images(node, (op, params), channels)


def _flat(sizes: Sequence[int], up: int) -> tuple[int, int]:
    """The sizes of an image's axes; a sequence is an image of height 1, along which the size is `up`."""
    height, width = sizes if len(sizes) == 2 else (up, *sizes)
    return height, width


def _on_images(node: Node, layer: Op | Layer, channels: int) -> Layer:
    """The layer, which gives so many channels, on images; a sequence (channels, time) becomes an image of height 1."""
    if len(node.images) == 3:
        return node.then(layer)
    return node.then(reshape(node.images[0], 1, -1), layer, reshape(channels, -1))


def _pool(make: Callable[..., Op]) -> Translate:
    def translate(node: Node) -> Layer:
        windows = Windows(node, node.get("kernel_shape"))
        if set(windows.dilation) != {1}:
            raise node.refused("dilation (fnn's pools have none)")
        if node.get("ceil_mode", 0) and windows.out(ceil=True) != windows.out():
            raise node.refused("ceil_mode adds a window that is not full")
        if windows.low != windows.high:
            raise node.refused("different padding at the two ends")
        if any(2 * low > k for low, k in zip(windows.low, windows.kernel, strict=True)):
            raise node.refused("padding of more than half a window")
        if make is avgpool and any(windows.low) and not node.get("count_include_pad", 0):
            raise node.refused("padding does not count in the mean (it does in fnn)")
        kernel, stride, padding = windows.kernel, windows.stride, windows.low
        if len(kernel) < 3:
            op = make(_flat(kernel, 1), _flat(stride, 1), _flat(padding, 0))
            return _on_images(node, op, node.images[0])
        # Boxes are pooled in two steps: first the slices of all depths, then along the depth.
        channels, depth, *_ = node.images
        deep, high, wide = windows.out()
        return node.then(
            positionwise(make(kernel[1:], stride[1:], padding[1:])),
            reshape(channels, depth, high * wide),
            make((kernel[0], 1), (stride[0], 1), (padding[0], 0)),
            reshape(channels, deep, high, wide),
        )

    return translate


def _global_avgpool(node: Node) -> Layer:
    channels, *sizes = node.images
    return node.then(reshape(channels, sizes[0], -1), global_avgpool, reshape(channels, *(1 for _ in sizes)))


def _global_maxpool(node: Node) -> Layer:
    channels, *sizes = node.images
    return node.then(reshape(channels, 1, -1), maxpool((1, prod(sizes))), reshape(channels, *(1 for _ in sizes)))


def _reduce_mean(node: Node) -> Layer:
    """The mean over neighbouring axes: a window that covers all of them."""
    given = node.array(1).tolist() if node.has(1) else node.get("axes", [])
    axes = sorted(node.axis(n) for n in given or range(len(node.whole_shape)))
    if axes != list(range(axes[0], axes[-1] + 1)):
        raise node.refused("axes that are not neighbours")
    before, over, after = node.shape[: axes[0]], node.shape[axes[0] : axes[-1] + 1], node.shape[axes[-1] + 1 :]
    ones = (1,) * len(over) if node.get("keepdims", 1) else ()
    rows = reshape(prod(before), prod(over), prod(after))
    return node.then(rows, avgpool((prod(over), 1)), reshape(*before, *ones, *after))


def _batch_norm(node: Node) -> Layer:
    if node.get("training_mode", 0):
        raise node.refused("training, with several outputs")
    node.check_batched()
    params = {name: node.array(n) for n, name in enumerate(("w", "b", "mean", "var"), 1)}
    return node.then((batch_norm(**node.options(eps="epsilon")), params))


def _layer_norm(node: Node) -> Layer:
    axes, w = len(node.shape) - node.axis(node.get("axis", -1)), node.array(1)
    params = {"w": w, "b": node.array(2) if node.has(2) else np.zeros_like(w)}
    return node.then((layer_norm(axes, **node.options(eps="epsilon")), params))


def _group_norm(node: Node) -> Layer:
    groups = node.get("num_groups", node.images[0])  # an InstanceNormalization has a group for each channel
    return node.then((group_norm(groups, **node.options(eps="epsilon")), {"w": node.array(1), "b": node.array(2)}))


def _gemm(node: Node) -> Layer:
    """Gemm: alpha A B + beta C, where A is the data."""
    if node.get("transA", 0):
        raise node.refused("transposed data")
    w = node.get("alpha", 1.0) * (node.array(1).T if node.get("transB", 0) else node.array(1))
    beta = node.get("beta", 1.0)
    if not node.has(2) or not beta:
        return node.then(_of_rows(node, _dense(w)))
    if isinstance(added := node.inputs[2], Value):
        if beta != 1:
            raise node.refused("a multiple of the data is added")
        return join("sum", [node.then(_of_rows(node, _dense(w))), added.layer])
    c = beta * node.array(2)
    if c.ndim < 2 or len(c) == 1:
        return node.then(_of_rows(node, _dense(w, np.broadcast_to(c.ravel(), w.shape[1]))))
    if node.batch is not None:  # each row of C belongs to one row of A: a position, and not an example
        raise node.mixes_examples()
    rows = np.broadcast_to(c, (node.shape[0], w.shape[1]))
    return node.then(_of_rows(node, _dense(w)), (position_embedding(), {"w": rows}))


def _of_rows(node: Node, layer: Layer) -> Layer:
    """The layer for each row of a matrix: an example, or a position of the only example."""
    return layer if node.batch is not None else _each_position(layer)


def _matmul(node: Node) -> Layer:
    w = node.array(1)
    if len(node.whole_shape) == 1:  # one row, which meets each of a stack of matrices
        if node.batch is not None:
            raise node.mixes_examples()
        columns = np.moveaxis(w, -2, 0) if w.ndim > 1 else w
        return node.then(_dense(columns.reshape(len(columns), -1)), reshape(*columns.shape[1:]))
    if w.ndim > 2:
        raise node.refused("a matrix for each example")
    layer = _dense(w.reshape(len(w), -1))
    for _ in node.shape[1:]:
        layer = _each_position(layer)
    shape = (*node.shape[:-1], *w.shape[1:])
    return node.then(layer, *([reshape(*shape)] if w.ndim == 1 else []))


def _dense(w: Array, b: Array | None = None) -> Layer:
    return dense(w.shape[1], bias=b is not None), {"w": w} if b is None else {"w": w, "b": b.astype(w.dtype)}


def _each_position(layer: Layer) -> Layer:
    op, params = layer
    return positionwise(op), params


def _gather(node: Node) -> Layer:
    if node.get("axis", 0):
        raise node.refused("another axis than the first")
    return node.then(*lookup(node.array(0), node.shape))


def lookup(table: Array, shape: Shape) -> tuple[Layer, Op]:
    """Layers that map integers of that shape to rows of `table`."""
    rows = table.reshape(len(table), -1)
    return (embedding(*rows.shape), {"w": rows}), reshape(*shape, *table.shape[1:])


def _last_axis(op: Op) -> Translate:
    def translate(node: Node) -> Layer:
        axis = node.get("axis", -1 if node.opset >= 13 else 1)
        if node.axis(axis) != len(node.shape) - 1:
            raise node.refused("another axis than the last")
        return node.then(op)

    return translate


def _sum(node: Node) -> Layer:
    """The sum of all inputs. Constant arrays are added by a position embedding."""
    values = [value for value in node.inputs if isinstance(value, Value)]
    layer = join("sum", [value.layer for value in values]) if len(values) > 1 else node.data.layer
    for n, value in enumerate(node.inputs):
        if not isinstance(value, Value):
            layer = chain(layer, *_added(node, node.array(n)))
    return layer


def _added(node: Node, array: Array) -> list[Op | Layer]:
    """The layers that add an array to the data, with the broadcasting of its opset."""
    if node.opset < 7 and node.get("broadcast", 0) and array.ndim:
        first = node.get("axis", len(node.whole_shape) - array.ndim)
        array = array.reshape(*array.shape, *(1,) * (len(node.whole_shape) - first - array.ndim))
    if node.batch is not None and array.ndim > len(node.shape):
        if len(array) > 1 or array.ndim > len(node.whole_shape):
            raise node.mixes_examples()
        array = array[0]
    w = np.broadcast_to(array, node.shape).reshape(1, -1)
    return [reshape(1, -1), (position_embedding(), {"w": w}), reshape(*node.shape)]


def _concat(node: Node) -> Layer:
    if node.axis(node.get("axis")):
        raise node.refused("another axis than the first after the batch axis")
    layers = [value.layer for value in node.inputs if isinstance(value, Value)]
    if len(layers) < len(node.inputs):
        raise node.refused("an input that does not depend on the data")
    return join("concat", layers)


def _flatten(node: Node) -> Layer:
    whole, axis = node.whole_shape, node.get("axis", 1)
    if node.batch is not None and axis % len(whole) == 1 % len(whole):
        return node.then(flatten)
    cut = axis + len(whole) if axis < 0 else axis
    return node.reshaped((prod(whole[:cut]), prod(whole[cut:])))


def _reshape(node: Node) -> Layer:
    whole, asked = node.whole_shape, node.array(1).tolist() if node.has(1) else node.get("shape")
    copied = [n if n or node.get("allowzero", 0) else whole[i] for i, n in enumerate(asked)]
    rest = prod(whole) // prod(n for n in copied if n != -1) if -1 in copied else 0
    return node.reshaped(tuple(rest if n == -1 else n for n in copied))


def _axes(node: Node) -> list[int]:
    return list(node.array(1).tolist() if node.has(1) else node.get("axes", []))


def _squeeze(node: Node) -> Layer:
    whole = node.whole_shape
    gone = {n % len(whole) for n in _axes(node)} or {i for i, size in enumerate(whole) if size == 1}
    return node.reshaped(tuple(size for i, size in enumerate(whole) if i not in gone))


def _unsqueeze(node: Node) -> Layer:
    sizes, axes = iter(node.whole_shape), _axes(node)
    rank = len(node.whole_shape) + len(axes)
    new = {n % rank for n in axes}
    return node.reshaped(tuple(1 if i in new else next(sizes) for i in range(rank)))


def _identity(node: Node) -> Layer:
    return node.data.layer


def _dropout(node: Node) -> Layer:
    ratio = float(node.array(1)) if node.has(1) else node.get("ratio", 0.5)
    return node.then(dropout(ratio))


def _leaky_relu(node: Node) -> Layer:
    return node.then(leaky_relu(**node.options(slope="alpha")))


def _prelu(node: Node) -> Layer:
    slope = node.array(1)
    if slope.size > 1:
        raise node.refused("several slopes (fnn's leaky_relu has one)")
    return node.then(leaky_relu(slope.item()))


def _elu(node: Node) -> Layer:
    return node.then(elu(**node.options(alpha="alpha")))


def _gelu(node: Node) -> Layer:
    if node.get("approximate", "none") != "tanh":
        raise node.refused("the form with erf (fnn has the form with tanh)")
    return node.then(gelu)


def _swish(node: Node) -> Layer:
    if node.get("alpha", 1.0) != 1:
        raise node.refused("an alpha other than 1")
    return node.then(silu)


def _plain(op: Op) -> Translate:
    return lambda node: node.then(op)


LAYERS: Mapping[str, Translate] = {
    "Add": _sum,
    "AveragePool": _pool(avgpool),
    "BatchNormalization": _batch_norm,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dropout": _dropout,
    "Elu": _elu,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_avgpool,
    "GlobalMaxPool": _global_maxpool,
    "GroupNormalization": _group_norm,
    "Identity": _identity,
    "InstanceNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _last_axis(log_softmax),
    "MatMul": _matmul,
    "MaxPool": _pool(maxpool),
    "PRelu": _prelu,
    "ReduceMean": _reduce_mean,
    "Relu": _plain(relu),
    "Reshape": _reshape,
    "Sigmoid": _plain(sigmoid),
    "Softmax": _last_axis(softmax),
    "Softplus": _plain(softplus),
    "Squeeze": _squeeze,
    "Sum": _sum,
    "Swish": _swish,
    "Tanh": _plain(tanh),
    "Unsqueeze": _unsqueeze,
}
