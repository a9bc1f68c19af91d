"""The node cases of the onnx package: fnn agrees and its net passes `check_op`, or the ledger lists the case."""

import pytest

from tests.onnx.suites.cases import Case, node_cases
from tests.onnx.suites.checks import LEDGER, PASSES, listed, outcome
from tests.onnx.suites.runs import RELEVANT, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return node_cases()


@pytest.mark.parametrize("op_type", RELEVANT)
def test_onnx_nodes_pass_or_are_listed(op_type: str, cases: list[Case]) -> None:
    wanted = listed("nodes")
    of_type = [case for case in cases if case.op_type == op_type]
    assert of_type
    came = {case.name: outcome(run, case) for case in of_type}
    assert came == {name: wanted.get(name, PASSES) for name in came}


def test_ledger_lists_only_onnx_nodes(cases: list[Case]) -> None:
    assert listed("nodes").keys() <= {case.name for case in cases if case.op_type in RELEVANT}


def test_every_onnx_node_type_is_run_or_out_of_scope(cases: list[Case]) -> None:
    out_of_scope = LEDGER["out_of_scope"]["types"].split()
    assert sorted({case.op_type for case in cases}) == sorted([*RELEVANT, *out_of_scope])
