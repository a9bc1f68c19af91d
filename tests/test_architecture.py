"""ARCHITECTURE.md: its line counts, files, functions and import order are those of the code."""

import re

from tests.support.documents import (
    ROOT,
    code_blocks,
    count_lines,
    paths_in,
    read,
    references_in,
    undefined_in,
    with_line_counts,
)
from tests.test_structure import ORDER

TEXT = read("ARCHITECTURE.md")
COUNTS = count_lines(TEXT)
MAX_LINES = 1000


def test_architecture_reading_order_has_the_right_line_counts() -> None:
    assert len(COUNTS) == 10
    total = f"{COUNTS}, total {sum(COUNTS.values())}"
    assert with_line_counts(TEXT) == TEXT, f"run `python -m tests.support.documents`, or write into the table: {total}"


def test_architecture_reading_order_has_at_most_1000_lines() -> None:
    assert sum(COUNTS.values()) <= MAX_LINES, COUNTS


def test_architecture_paths_exist() -> None:
    assert [path for path in paths_in(TEXT) if not (ROOT / path).exists()] == []


def test_architecture_names_are_in_their_files() -> None:
    assert len(references_in(TEXT)) > 40
    assert undefined_in(references_in(TEXT)) == []


def test_architecture_training_step_runs() -> None:
    [program] = code_blocks(TEXT)
    names: dict[str, object] = {}
    exec(compile(program, "ARCHITECTURE.md", "exec"), names)
    assert names["state"] == {"step": 1}


def test_architecture_import_order_is_that_of_test_structure() -> None:
    section = TEXT.partition("## Import order")[2].partition("1. ")[2].partition("\n\n")[0]
    names = re.findall(r"`([\w/.]+)`", section)
    assert ["fnn" if name == "fnn/__init__.py" else name for name in names] == ORDER
