"""ARCHITECTURE.md: its line counts, files, functions and import order are those of the code."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.documents import ROOT, code_blocks, paths_in, read, references_in, undefined_in

TEXT = read("ARCHITECTURE.md")
READING_ORDER = re.findall(r"^\| \d+ \| `(fnn/[\w/]+\.py)` \| (\d+) \|", TEXT, re.MULTILINE)
COUNTS = {path: len(read(path).splitlines()) for path, _ in READING_ORDER}
MAX_LINES = 1000

ORDER = TEXT.partition("## Import order")[2]
LEVELS = [re.findall(r"`(\w+)`", line) for line in re.findall(r"^\d+\. (`.*)$", ORDER, re.MULTILINE)]


def test_the_reading_order_has_the_right_line_counts() -> None:
    assert len(READING_ORDER) == 12
    wrong = [f"{path}: {COUNTS[path]} lines" for path, stated in READING_ORDER if COUNTS[path] != int(stated)]
    [total] = re.findall(r"^\| \| total \| (\d+) \| \|$", TEXT, re.MULTILINE)
    if sum(COUNTS.values()) != int(total):
        wrong.append(f"total: {sum(COUNTS.values())} lines")
    assert not wrong, "write into the table of ARCHITECTURE.md: " + ", ".join(wrong)


def test_the_reading_order_has_at_most_1000_lines() -> None:
    assert sum(COUNTS.values()) <= MAX_LINES, COUNTS


def test_a_file_of_the_reading_order_has_at_most_one_import_from_kernels() -> None:
    assert [path for path in COUNTS if read(path).count("from fnn.kernels") > 1] == []


def test_its_paths_exist() -> None:
    assert [path for path in paths_in(TEXT) if not (ROOT / path).exists()] == []


def test_its_names_are_in_the_files_that_it_says() -> None:
    assert len(references_in(TEXT)) > 40
    assert undefined_in(references_in(TEXT)) == []


def test_the_step_that_it_follows_runs() -> None:
    [program] = code_blocks(TEXT)
    names: dict[str, object] = {}
    exec(compile(program, "ARCHITECTURE.md", "exec"), names)
    assert names["state"] == {"step": 1}


def test_the_import_order_names_every_module_and_package() -> None:
    modules = {path.stem for path in (ROOT / "fnn").iterdir() if re.fullmatch(r"[a-z]\w*(\.py)?", path.name)}
    assert sorted(name for level in LEVELS for name in level) == sorted(modules)


def imports_of(path: Path) -> set[str]:
    """The modules and packages of the library that the file imports: "ops" for `fnn.ops.linear`, and "fnn" itself."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "fnn":
            names |= {f"fnn.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    parts = [name.split(".") for name in names if name.partition(".")[0] == "fnn"]
    return {part[1] if len(part) > 1 else "fnn" for part in parts}


@pytest.mark.parametrize("path", sorted((ROOT / "fnn").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_come_from_earlier_levels(path: Path) -> None:
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    own = path.relative_to(ROOT / "fnn").parts[0].removesuffix(".py")
    for name in imports_of(path) - {own} if own != "__init__" else ():
        if name == "fnn":
            assert own not in imports_of(ROOT / "fnn" / "__init__.py"), "a circular import of fnn"
        else:
            assert level[name] < level[own], f"imports fnn.{name}, which is not on an earlier level"
