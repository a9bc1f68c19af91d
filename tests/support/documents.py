"""Reads the documents in tests: code blocks, paths, names and line counts in Markdown.

`python -m tests.support.documents` writes the right line counts into ARCHITECTURE.md.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def read(name: str) -> str:
    """Returns the text of a document at the top of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(text: str, language: str = "python") -> list[str]:
    """Returns the fenced blocks of code in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def paths_in(text: str) -> list[str]:
    """Returns the files and folders in backticks, sorted."""
    return sorted(set(re.findall(r"`((?:[\w.]+/)*\w+(?:/|\.py|\.md))`", text)))


def references_in(text: str) -> list[tuple[str, str]]:
    """Returns the names in backticks that are followed by their file in parentheses, with that file, sorted."""
    return sorted(set(re.findall(r"`(\w+)`\s+\(`(fnn/[\w/]+\.py)`", text)))


def defined_in(path: str) -> set[str]:
    """Returns the names of all functions, classes and variables that the file defines, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def undefined_in(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the pairs of a name and a file that does not define it."""
    return [(name, path) for name, path in pairs if name not in defined_in(path)]


def count_lines(text: str) -> dict[str, int]:
    """Returns the numbers of lines of the files in the table of the reading order."""
    paths = re.findall(r"^\| \d+ \| `(.*?)` \| \d+ \|", text, re.MULTILINE)
    return {path: len(read(path).splitlines()) for path in paths}


def with_line_counts(text: str) -> str:
    """Returns the text with the right line counts, and their total, in the table of the reading order."""
    counts = count_lines(text)
    for path, count in counts.items():
        text = re.sub(rf"^(\| \d+ \| `{path}` \|) \d+ \|", rf"\1 {count} |", text, flags=re.MULTILINE)
    return re.sub(r"^(\| \| total \|) \d+ \|", rf"\1 {sum(counts.values())} |", text, flags=re.MULTILINE)


if __name__ == "__main__":
    (ROOT / "ARCHITECTURE.md").write_text(with_line_counts(read("ARCHITECTURE.md")), encoding="utf-8")
