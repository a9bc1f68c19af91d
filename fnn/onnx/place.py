"""What an ONNX graph is made of, by names that are our paths; and the place in it where an operator is translated."""

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fnn.op import Array, Op, Params, Shape

INPUT, OUTPUT = "input", "output"


class Node(NamedTuple):
    """A node, of the `kind` that ONNX calls its op_type; its one output is named as it is itself."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]


class Graph:
    """The nodes in the order of their work, and the tensors that are no node's output, by name."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.tensors: dict[str, Array] = {}
        self._taken = {INPUT, OUTPUT}

    def node(self, name: str, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns its name, which is `name` with a number behind it where that one is taken."""
        free = next(n for n in _spellings(name) if n not in self._taken)
        self._taken.add(free)
        self.nodes.append(Node(free, kind, inputs, attributes))
        return free

    def result(self, name: str) -> None:
        """Makes the value of that name the model's output."""
        self.nodes.append(Node(OUTPUT, "Identity", (name,), {}))

    def tensor(self, name: str, value: ArrayLike) -> str:
        """The name of a tensor of this value: `name`, with a number behind it where another has that one."""
        array = np.asarray(value)
        free = next(n for n in _spellings(name) if n not in self._taken or _same(self.tensors.get(n), array))
        self._taken.add(free)
        self.tensors[free] = array
        return free


def _spellings(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{i}" for i in count(2))


def _same(a: Array | None, b: Array) -> bool:
    """Whether `a` is an array of the same bits as `b`."""
    return a is not None and a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


class Place(NamedTuple):
    """An operator where it stands in the net: its params and path, and the shapes of an example that comes and goes."""

    graph: Graph
    op: Op
    params: Params
    path: tuple[str, ...]
    shape: Shape
    out: Shape

    def node(self, name: str, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of the operator's, under its path and `name`, or its path alone for the one named ""."""
        own = "/".join(part for part in (*self.path, name) if part)
        return self.graph.node(own or self.op.kind, kind, *inputs, **attributes)

    def tensor(self, name: str, value: ArrayLike) -> str:
        """A tensor under the operator's path and `name`."""
        return self.graph.tensor("/".join((*self.path, name)), value)

    def param(self, name: str) -> str:
        """The tensor of one of the operator's params."""
        return self.tensor(name, self.params[name])

    def reshape(self, name: str, x: str, *sizes: int) -> str:
        """Adds a Reshape to these sizes: a 0 keeps that axis as it is, and a -1 takes what is left."""
        return self.node(name, "Reshape", x, self.tensor("shape", np.array(sizes, np.int64)))


Translate: TypeAlias = Callable[[Place, str], str]
"""What translates a kind of operator: adds its nodes, which read the value of that name; returns its output's name."""
