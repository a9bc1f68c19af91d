"""ONNX graphs as nets: what a node says, and how the layers of all nodes become one net.

A net has one input, with a batch axis. If a graph has several data inputs, the net gets them side by side, as features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
import pytest

from fnn import Op, Params, dense, parallel, reshape, serial
from fnn.op import Array, Shape

onnx = pytest.importorskip("onnx", minversion="1.23", reason="the ledger describes the test cases of onnx 1.23")
reference = pytest.importorskip("onnx.reference")

Layer: TypeAlias = tuple[Op, Params]
FLOATS = (np.float16, np.float32, np.float64)


class UnexpressibleError(Exception):
    """fnn has no net for a case. The message is the reason; the ledger repeats it."""


class BatchAxisError(UnexpressibleError):
    """A node mixes the examples of a batch. It may still work with the whole array as the only example."""


def chain(*layers: Op | Layer) -> Layer:
    """The layers one after the other, without serials inside a serial. A bare operator has no parameters."""
    parts: list[Layer] = []
    for layer in layers:
        op, params = (layer, {}) if isinstance(layer, Op) else layer
        if op.kind == "serial":
            parts += [(part, params[name]) for name, part in op.parts.items()]
        else:
            parts.append((op, params))
    if len(parts) == 1:
        return parts[0]
    net = serial(*(op for op, _ in parts))
    return net, dict(zip(net.parts, (params for _, params in parts), strict=True))


def join(how: Literal["sum", "concat"], layers: Sequence[Layer]) -> Layer:
    """The layers side by side on the same input. Their outputs are joined as in `parallel`."""
    net = parallel(*(op for op, _ in layers), join=how)
    return net, dict(zip(net.parts, (params for _, params in layers), strict=True))


@dataclass(frozen=True)
class Described:
    """The attributes and inputs of an ONNX operator. A missing optional input is None."""

    op_type: str
    attributes: Mapping[str, Any]
    inputs: tuple[Any, ...]
    opset: int

    def get(self, attribute: str, default: Any = None) -> Any:
        """Returns the attribute, strings as str."""
        value = self.attributes.get(attribute, default)
        return value.decode() if isinstance(value, bytes) else value

    def options(self, **names: str) -> dict[str, Any]:
        """Returns fnn's hyper-parameters by their ONNX names. A missing one has the same default in both."""
        return {ours: self.get(theirs) for ours, theirs in names.items() if theirs in self.attributes}

    def has(self, n: int) -> bool:
        """Returns whether the optional input `n` exists."""
        return n < len(self.inputs) and self.inputs[n] is not None

    def refused(self, why: str) -> UnexpressibleError:
        """Returns the error to raise if fnn has no net for the operator."""
        return UnexpressibleError(f"{self.op_type}: {why}")


@dataclass(frozen=True)
class Value:
    """An array that depends on the data: the layer that computes it from the net's input, and one example's shape."""

    layer: Layer
    shape: Shape


@dataclass(frozen=True)
class Node(Described):
    """A node of a graph. Its inputs are values, or arrays that do not depend on the data.

    `batch` is the size of the batch, or None if the whole array is one example.
    """

    batch: int | None

    def array(self, n: int) -> Array:
        """Input `n`, which must not depend on the data."""
        value = self.inputs[n]
        if not isinstance(value, np.ndarray):
            raise self.refused("the data is where fnn has parameters")
        return value

    @property
    def data(self) -> Value:
        """The first input that depends on the data."""
        return next(value for value in self.inputs if isinstance(value, Value))

    @property
    def shape(self) -> Shape:
        """The shape of one example of the data."""
        return self.data.shape

    @property
    def whole_shape(self) -> Shape:
        """The shape of the data as ONNX sees it."""
        return self.shape if self.batch is None else (self.batch, *self.shape)

    @property
    def images(self) -> Shape:
        """The shape of one example, (channels, ...), of data that has a batch axis."""
        self.check_batched()
        return self.shape

    def check_batched(self) -> None:
        """Raises UnexpressibleError if the whole data is one example."""
        if self.batch is None:
            raise self.mixes_examples()

    def axis(self, n: int) -> int:
        """Returns axis `n` of the data as an axis of one example."""
        axis = n % len(self.whole_shape) - (self.batch is not None)
        if axis < 0:
            raise self.mixes_examples()
        return axis

    def then(self, *layers: Op | Layer) -> Layer:
        """The layer that computes the data, and these layers after it."""
        return chain(self.data.layer, *layers)

    def reshaped(self, shape: Shape) -> Layer:
        """The data with another shape, as ONNX sees it."""
        if self.batch is None:
            return self.then(reshape(*shape))
        if shape[:1] != (self.batch,):
            raise self.mixes_examples()
        return self.then(reshape(*shape[1:]))

    def mixes_examples(self) -> BatchAxisError:
        """The error to raise if the first axis of the data cannot be the batch axis of a net."""
        return BatchAxisError(f"{self.op_type}: mixes the examples of a batch")


Translate: TypeAlias = Callable[[Node], Layer]

JOINING = ("Add", "Concat", "Sum")
"""Nodes that take several data inputs."""


@dataclass(frozen=True)
class Net:
    """The net of a graph, and the input at which it must give the graph's output."""

    op: Op
    params: Params
    x: Array
    batched: bool

    def output(self) -> Array:
        """The graph's output, computed by the net."""
        y = predicted((self.op, self.params), self.x)
        return y if self.batched else y[0]


def predicted(layer: Layer, x: Array, key: int | None = None) -> Array:
    """The output of a layer for a batch."""
    op, params = layer
    with warnings.catch_warnings():
        # A case may ask for the statistics of an untrained batch_norm. fnn's warning about them is no fault.
        warnings.filterwarnings("ignore", message=".*calibrate")
        return op.apply(params, x, key)[0]


def net_of(graph: Any, opset: int, arrays: Mapping[str, Array], layers: Mapping[str, Translate]) -> Net:
    """The net of an ONNX graph, by the translations of its nodes.

    `arrays` are the initializers and the inputs of the graph. Its first input that is no initializer is the data. So
    are others that have the same shape and go into a joining node. The output is the graph's first. Raises
    UnexpressibleError if there is no net.
    """
    data = _data_inputs(graph, arrays)
    x = arrays[data[0]]
    if graph.node[0].op_type != "Gather":
        check_dtype(x)
    known = {name: array for name, array in arrays.items() if name not in data}
    try:
        if not x.ndim:
            raise BatchAxisError("no batch axis")
        return _translated(graph, opset, known, {name: arrays[name] for name in data}, layers, batched=True)
    except BatchAxisError:
        wholes = {name: arrays[name][None] for name in data}
        return _translated(graph, opset, known, wholes, layers, batched=False)


def check_dtype(x: Array) -> None:
    """Raises UnexpressibleError unless fnn computes with numbers of that kind."""
    if x.dtype not in FLOATS:
        raise UnexpressibleError(f"{x.dtype} (fnn computes with NumPy's floats)")


def _data_inputs(graph: Any, arrays: Mapping[str, Array]) -> list[str]:
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in initializers]
    first = inputs[1] if graph.node[0].op_type == "Gather" and len(inputs) > 1 else inputs[0]
    joined = {name for node in graph.node if node.op_type in JOINING for name in node.input}
    return [n for n in inputs if n == first or (n in joined and arrays[n].shape == arrays[first].shape)]


def _translated(
    graph: Any,
    opset: int,
    known: Mapping[str, Array],
    data: Mapping[str, Array],
    layers: Mapping[str, Translate],
    batched: bool,
) -> Net:
    x, inputs = _side_by_side(data)
    values: dict[str, Value | Array] = {**known, **inputs}
    for proto in graph.node:
        arguments = tuple(values[name] if name else None for name in proto.input)
        if not any(isinstance(value, Value) for value in arguments):
            results = reference.ReferenceEvaluator(proto).run(None, {n: values[n] for n in proto.input if n})
            values |= dict(zip(proto.output, results, strict=True))
            continue
        if proto.op_type not in layers:
            raise UnexpressibleError(f"{proto.op_type}: no such operator in fnn")
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        node = Node(proto.op_type, attributes, arguments, opset, len(x) if batched else None)
        layer = layers[proto.op_type](node)
        values[proto.output[0]] = Value(layer, _output_shape(layer, x))
    result = values[graph.output[0].name]
    assert isinstance(result, Value)
    return Net(*result.layer, x, batched)


def _side_by_side(data: Mapping[str, Array]) -> tuple[Array, dict[str, Value]]:
    """The input of the net, and the data inputs of the graph as values that are computed from it."""
    shapes = {name: array.shape[1:] for name, array in data.items()}
    if len(data) == 1:
        [(name, x)] = data.items()
        return x, {name: Value(chain(), shapes[name])}
    x = np.concatenate([array.reshape(len(array), -1) for array in data.values()], 1)
    parts = np.split(np.eye(x.shape[1], dtype=x.dtype), len(data), 1)
    values = {}
    for part, (name, shape) in zip(parts, shapes.items(), strict=True):
        chosen = (dense(prod(shape), bias=False), {"w": part})
        values[name] = Value(chain(chosen, reshape(*shape)), shape)
    return x, values


def _output_shape(layer: Layer, x: Array) -> Shape:
    return predicted(layer, x[:0]).shape[1:]
