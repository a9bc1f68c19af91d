"""The PyTorch layer models of the onnx package: a net gives the same outputs, or the ledger lists the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fnn.op import Array
from tests.onnx.suites.checks import PASSES, agree, check_properties, listed, outcome
from tests.onnx.suites.graph import UnexpressibleError, net_of, onnx
from tests.onnx.suites.layers import LAYERS

pytestmark = pytest.mark.slow

loader = pytest.importorskip("onnx.backend.test.loader")

KINDS = ("pytorch-converted", "pytorch-operator")
CASES = sorted((case for kind in KINDS for case in loader.load_model_tests(kind=kind)), key=lambda case: case.name)


def arrays(case: Any, what: str) -> list[Array]:
    """The inputs or outputs of the case's data set, in the order of the graph."""
    [folder] = Path(case.model_dir).glob("test_data_set_*")
    tensors = []
    for n in range(len(list(folder.glob(f"{what}_*.pb")))):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((folder / f"{what}_{n}.pb").read_bytes())
        tensors.append(np.asarray(onnx.numpy_helper.to_array(tensor)))
    return tensors


def run(case: Any) -> None:
    """Raises AssertionError where fnn and the model disagree, and UnexpressibleError where there is no net."""
    model = onnx.load(Path(case.model_dir, "model.onnx"))
    graph, outputs = model.graph, arrays(case, "output")
    if len(outputs) > 1:
        raise UnexpressibleError("several outputs (a net has one)")
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in known]
    known |= dict(zip(inputs, arrays(case, "input"), strict=True))
    net = net_of(graph, model.opset_import[0].version, known, LAYERS)
    agree(net.output(), outputs[0], case.rtol, case.atol)
    check_properties(net.op, net.x)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_onnx_models_pass_or_are_listed(case: Any) -> None:
    assert outcome(run, case) == listed("models").get(case.name, PASSES)


def test_ledger_lists_only_onnx_models() -> None:
    assert listed("models").keys() <= {case.name for case in CASES}
