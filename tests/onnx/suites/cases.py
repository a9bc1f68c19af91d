"""The node cases of the onnx package."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from fnn.op import Array
from tests.onnx.suites.checks import agree, check_properties
from tests.onnx.suites.graph import Described, Layer, net_of, onnx, predicted
from tests.onnx.suites.layers import LAYERS

package = pytest.importorskip("onnx.backend.test.case.node")


@dataclass(frozen=True)
class Case(Described):
    """A graph of one node, its inputs and the outputs that it must give."""

    name: str
    graph: Any
    outputs: tuple[Array, ...]
    rtol: float
    atol: float

    def array(self, n: int) -> Array:
        """Returns input `n`, which must exist."""
        array = self.inputs[n]
        assert isinstance(array, np.ndarray)
        return array

    def agrees(self, came: Array, wanted: Array) -> None:
        """Raises AssertionError unless the arrays agree to the tolerance of the case."""
        agree(came, wanted, self.rtol, self.atol)

    def agrees_by_graph(self) -> None:
        """Compares the first output with that of the net that `net_of` makes of the graph."""
        names = [name for name in self.graph.node[0].input if name]
        arrays = dict(zip(names, (array for array in self.inputs if array is not None), strict=True))
        net = net_of(self.graph, self.opset, arrays, LAYERS)
        self.agrees(net.output(), self.outputs[0])
        check_properties(net.op, net.x)

    def agrees_with(
        self,
        layer: Layer,
        x: Array,
        wanted: Array,
        read: Callable[[Array], Array] = lambda y: y,
        key: int | None = None,
    ) -> None:
        """Compares what `read` finds in the layer's output for `x`."""
        self.agrees(read(predicted(layer, x, key)), wanted)
        check_properties(layer[0], x, key)


@cache
def node_cases() -> list[Case]:
    """All cases of a single node. The package computes them when its modules are imported."""
    slow = "onnx.backend.test.case.node.lppool"  # two seconds, for an operator that fnn does not have
    with warnings.catch_warnings(), patch.dict(sys.modules, {slow: ModuleType(slow)}):
        warnings.simplefilter("ignore")  # overflows and divisions by zero belong to the cases
        cases = package.collect_testcases(None)
    return [_case(case) for case in cases if len(case.model.graph.node) == 1]


def _case(case: Any) -> Case:
    [node], [(inputs, outputs)] = case.model.graph.node, case.data_sets
    given = iter(inputs)
    return Case(
        op_type=node.op_type,
        attributes={a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
        inputs=tuple(_array(next(given)) if name else None for name in node.input),
        opset=next(opset.version for opset in case.model.opset_import if opset.domain == node.domain),
        name=case.name,
        graph=case.model.graph,
        outputs=tuple(map(_array, outputs)),
        rtol=case.rtol,
        atol=case.atol,
    )


def _array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.generic) else value
