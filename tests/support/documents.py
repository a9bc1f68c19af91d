"""What the tests of the documents share: code blocks, paths and names in Markdown."""

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
