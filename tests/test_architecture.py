"""ARCHITECTURE.md: its line counts, files, functions and import order are those of the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")

READING_ORDER = re.findall(r"^\| \d+ \| `(fnn/[\w/]+\.py)` \| (\d+) \|", TEXT, re.MULTILINE)
MOST_LINES = 1000

REFERENCES = re.findall(r"`(\w+)`\s+\(`(fnn/[\w/]+\.py)`", TEXT)
"""Names that are followed by the file in which they are defined."""

LEVELS = [
    re.findall(r"`(\w+)`", line) for line in re.findall(r"^\d+\. (`.*)$", TEXT.partition("## Import order")[2], re.M)
]


def count_lines(path: str) -> int:
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


def test_the_reading_order_has_the_right_line_counts() -> None:
    assert len(READING_ORDER) == 12
    counts = {path: count_lines(path) for path, _ in READING_ORDER}
    wrong = [f"{path}: {counts[path]} lines" for path, stated in READING_ORDER if counts[path] != int(stated)]
    [total] = re.findall(r"^\| \| total \| (\d+) \| \|$", TEXT, re.MULTILINE)
    if sum(counts.values()) != int(total):
        wrong.append(f"total: {sum(counts.values())} lines")
    assert not wrong, "write into the table of ARCHITECTURE.md: " + ", ".join(wrong)


def test_the_reading_order_has_at_most_1000_lines() -> None:
    counts = {path: count_lines(path) for path, _ in READING_ORDER}
    assert sum(counts.values()) <= MOST_LINES, counts


@pytest.mark.parametrize("path", [path for path, _ in READING_ORDER])
def test_a_file_of_the_reading_order_has_at_most_one_import_from_kernels(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8").count("from fnn.kernels") <= 1


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w/]+(?:/|\.py|\.md))`", TEXT))))
def test_each_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


def defined_in(path: Path) -> set[str]:
    """The names of all functions, classes and variables that the file defines, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@pytest.mark.parametrize(("name", "path"), sorted(set(REFERENCES)))
def test_each_function_is_in_the_file_that_follows_it(name: str, path: str) -> None:
    assert name in defined_in(ROOT / path)


def test_the_step_that_the_page_follows_runs() -> None:
    [program] = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(program, "ARCHITECTURE.md", "exec"), names)
    assert names["state"] == {"step": 1}


def test_the_import_order_names_every_module_and_package() -> None:
    modules = {path.stem for path in (ROOT / "fnn").iterdir() if re.fullmatch(r"[a-z]\w*(\.py)?", path.name)}
    listed = [name for level in LEVELS for name in level]
    assert sorted(listed) == sorted(modules)


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
def test_imports_go_to_earlier_levels(path: Path) -> None:
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    own = path.relative_to(ROOT / "fnn").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imports_of(path):
        if name == "fnn":
            assert own not in imports_of(ROOT / "fnn" / "__init__.py"), "a circular import of fnn"
        else:
            assert name == own or level[name] < level[own], f"imports fnn.{name}, which is not on an earlier level"
