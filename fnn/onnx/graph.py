"""An ONNX graph under construction, with the paths of params as names, and the context to translate one operator."""

from collections.abc import Callable, Mapping
from itertools import chain, count
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fnn.op import Array, Op, Params, Shape

INPUT, OUTPUT, PIXELS = "input", "output", "pixels"


class Graph:
    """Nodes in execution order, as (name, op_type, inputs, attributes), and constant tensors by name.

    A node has one output, with the node's own name.
    """

    def __init__(self) -> None:
        self.nodes: list[tuple[str, str, tuple[str, ...], Mapping[str, Any]]] = []
        self.tensors: dict[str, Array] = {}
        self._names = {INPUT, OUTPUT, PIXELS}

    def add_node(self, name: str, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns its name: `name`, with a number if that is taken."""
        name = self._reserve(name, None)
        self.nodes.append((name, kind, inputs, attributes))
        return name

    def add_tensor(self, name: str, value: ArrayLike) -> str:
        """Returns the name of a tensor with this value: `name`, with a number if another tensor or node has it."""
        array = np.asarray(value)
        name = self._reserve(name, array)
        self.tensors[name] = array
        return name

    def _reserve(self, name: str, tensor: Array | None) -> str:
        """The first of name, name_2, name_3... that is free, or that already has the bits of `tensor`."""
        names = chain([name], (f"{name}_{i}" for i in count(2)))
        name = next(n for n in names if n not in self._names or _is_same(self.tensors.get(n), tensor))
        self._names.add(name)
        return name


def _is_same(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return False
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


class Context(NamedTuple):
    """An operator during translation: its params and path, and the shapes of an example in its input and output."""

    graph: Graph
    op: Op
    params: Params
    path: tuple[str, ...]
    shape: Shape
    out_shape: Shape

    def node(self, name: str, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node below the operator's path. The operator's last node has the name "", so just the path."""
        path = "/".join(part for part in (*self.path, name) if part)
        return self.graph.add_node(path or self.op.kind, kind, *inputs, **attributes)

    def tensor(self, name: str, value: ArrayLike) -> str:
        """Adds a tensor below the operator's path."""
        return self.graph.add_tensor("/".join((*self.path, name)), value)

    def param(self, name: str) -> str:
        """Adds one of the operator's params as a tensor."""
        return self.tensor(name, self.params[name])

    def reshape(self, name: str, x: str, *sizes: int) -> str:
        """Adds a Reshape. A size of 0 keeps the axis, and -1 is computed from the other sizes."""
        return self.node(name, "Reshape", x, self.tensor("shape", np.array(sizes, np.int64)))


# Adds the nodes of one kind of operator, which read the value with the given name. Returns the output's name.
Translate: TypeAlias = Callable[[Context, str], str]
