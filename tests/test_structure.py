"""The structure of fnn/: imports point downwards, without cycles, and no function hides a module."""

import ast
import importlib
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ORDER = [
    *("checks", "tree", "random", "kernels", "init", "op", "inspection", "chain", "combinators", "ops"),
    *("losses", "grad", "transforms", "summaries", "optim"),
    *("files", "data", "torch", "fnn", "mpi", "onnx", "testing", "run", "page", "__main__"),
]
"""The modules and packages of fnn/; each imports only those before it. "fnn" is fnn/__init__.py."""

CORE = ORDER[: ORDER.index("files")]


def read_modules() -> dict[str, str]:
    """The source code of each module of fnn/, by its dotted name."""
    sources = {}
    for path in sorted((ROOT / "fnn").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text("utf-8")
    return sources


SOURCES = read_modules()


def find_imports(module: str, sources: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yields the modules of fnn/ that a module imports, with the line: also in functions and under TYPE_CHECKING."""
    is_package = any(name.startswith(f"{module}.") for name in sources)
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(sources[module])):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in sources else base for alias in node.names]
        for name in names:
            if name.split(".")[0] == "fnn":
                yield name, node.lineno


def get_unit(module: str) -> str:
    """The module or package directly under fnn/, "fnn" for fnn/__init__.py."""
    return module.split(".")[1] if "." in module else module


def find_upward_imports(sources: Mapping[str, str]) -> list[str]:
    found = []
    for module in sources:
        for name, line in find_imports(module, sources):
            unit, imported = get_unit(module), get_unit(name)
            if unit != imported and ORDER.index(imported) > ORDER.index(unit):
                found.append(f"{module}, line {line}: {unit} imports {imported}")
    return found


def find_cycle(sources: Mapping[str, str]) -> list[str]:
    """The modules of a cycle of imports, if there is one."""
    graph = {module: {name for name, _ in find_imports(module, sources)} for module in sources}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_structure_lists_every_module_and_package_of_fnn() -> None:
    assert sorted(ORDER) == sorted({get_unit(module) for module in SOURCES})


def test_imports_point_downwards() -> None:
    assert find_upward_imports(SOURCES) == []


def test_imports_have_no_cycles() -> None:
    assert find_cycle(SOURCES) == []


@pytest.mark.parametrize(
    "code",
    [
        "from fnn.run import task",
        "from fnn import run",
        "import fnn.run.task",
        "from . import run",
        "from .run.task import Task",
        "def f():\n    from fnn.run import Task",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fnn.run import Task",
    ],
)
def test_find_upward_imports_and_find_cycle_find_an_import_of_run_in_tree(code: str) -> None:
    sources = {
        "fnn": "",
        "fnn.tree": code,
        "fnn.run": "from fnn.run.task import Task",
        "fnn.run.task": "import fnn.tree",
    }
    line = code.count("\n") + 1
    assert find_upward_imports(sources) == [f"fnn.tree, line {line}: tree imports run"]
    assert {"fnn.tree", "fnn.run.task"} <= set(find_cycle(sources))


def test_operators_do_not_import_each_other() -> None:
    for module in SOURCES:
        if module.startswith("fnn.ops."):
            assert [name for name, _ in find_imports(module, SOURCES) if get_unit(name) == "ops"] == [], module


@pytest.mark.parametrize(
    "module", [module for module in SOURCES if get_unit(module) in {*CORE} - {"checks", "kernels"}]
)
def test_core_files_have_at_most_one_import_from_kernels(module: str) -> None:
    assert len({line for name, line in find_imports(module, SOURCES) if get_unit(name) == "kernels"}) <= 1


def test_modules_are_not_hidden_by_functions_of_the_same_name() -> None:
    for module in SOURCES:
        if module.rpartition(".")[2] != "__main__":
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                if str(error.name).startswith("fnn"):  # else an optional package is missing
                    raise
    for module in SOURCES:
        parent, _, name = module.rpartition(".")
        if parent and module in sys.modules:
            assert getattr(sys.modules[parent], name) is sys.modules[module], module
