"""CONTRIBUTING.md: its example is a valid operator, and the files and names that it mentions exist."""

import re
import tomllib
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from fnn import dense, serial
from fnn.onnx.graph import Context, Graph
from fnn.testing import check_op
from tests.support.documents import ROOT, code_blocks, paths_in, read, references_in, undefined_in

TEXT = read("CONTRIBUTING.md")
OPERATOR, TRANSLATION = code_blocks(TEXT)
NEW = {"fnn/ops/rectifiers.py", "tests/ops/test_prelu.py"}
"""The files of the example, which do not exist."""


def run(code: str, **names: Any) -> dict[str, Any]:
    """Executes the code with these names and returns all names."""
    exec(compile(code, "CONTRIBUTING.md", "exec", dont_inherit=True), names)
    return names


def test_contributing_example_is_a_valid_operator() -> None:
    prelu = run(OPERATOR)["prelu"]
    check_op(prelu(), (3,))
    check_op(serial(dense(4), prelu()), (2, 4, 3))
    assert repr(prelu()) == "prelu()"


def test_contributing_example_has_an_onnx_translation() -> None:
    op, graph = run(OPERATOR)["prelu"](), Graph()
    ctx = Context(graph, op, op.init(0, (2, 4, 3)), ("prelu1",), (2, 4, 3), (2, 4, 3))
    run(TRANSLATION, Context=Context)["_prelu"](ctx, "input")
    [(_, kind, inputs, _)] = graph.nodes
    assert (kind, len(inputs)) == ("PRelu", 2)
    np.testing.assert_array_equal(graph.tensors[inputs[1]], np.full((2, 1, 1), 0.25, np.float32))


def test_contributing_paths_exist() -> None:
    assert [path for path in paths_in(TEXT) if path not in NEW and not (ROOT / path).exists()] == []


def test_contributing_names_are_in_their_files() -> None:
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (.*?) \|", TEXT, re.MULTILINE)
    in_table = [(name, path) for path, text in rows for name in re.findall(r"`(_[a-z]\w+|[A-Z_]{3,})`", text)]
    assert ("_multiply_adds", "fnn/summaries.py") in in_table
    assert undefined_in([pair for pair in in_table if pair[0] != "__all__"] + references_in(TEXT)) == []


def test_contributing_listed_mutants_change_lines_that_exist() -> None:
    groups = tomllib.loads(read("tests/support/mutants.toml"))["listed"]
    lines = {group["file"]: {line.strip() for line in read(group["file"]).splitlines()} for group in groups}
    places = [(group["file"], before) for group in groups for _, before, _ in group["mutants"]]
    assert len(places) > 100
    assert [place for place in places if place[1] not in lines[place[0]]] == []
    assert {group["kind"] for group in groups} <= {"equivalent", "speed", "message"}


@pytest.mark.parametrize("command", re.findall(r"^python -m benchmarks (.*?) *#", TEXT, re.MULTILINE))
def test_contributing_flags_of_the_benchmarks_exist(command: str) -> None:
    assert benchmarks.arguments(command.split()).peers == ["fnn"]
