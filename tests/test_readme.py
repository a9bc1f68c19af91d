import doctest
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_readme_python_blocks_print_what_they_say() -> None:
    names: dict[str, Any] = {}
    runner = doctest.DocTestRunner()
    for number, block in enumerate(blocks("python")):
        if not block.startswith(">>>"):
            exec(compile(block, f"README.md, block {number}", "exec"), names)
            continue
        told: list[str] = []
        test = doctest.DocTestParser().get_doctest(block, names, f"block {number}", "README.md", 0)
        runner.run(test, out=told.append, clear_globs=False)
        assert not told, "".join(told)
        names.update(test.globs)
    assert runner.tries > 10


@pytest.mark.parametrize("path", re.findall(r"`((?:fnn|benchmarks)/[\w/.]*|\w+\.py)`", README))
def test_readme_map_names_existing_files(path: str) -> None:
    assert (ROOT / path).exists()


def test_readme_map_names_every_module() -> None:
    named = {path.rstrip("/") for path in re.findall(r"`(fnn/[\w/.]*)`", README)}
    modules = {f"fnn/{path.name}" for path in (ROOT / "fnn").iterdir() if re.match(r"[a-z]\w*(\.py)?$", path.name)}
    assert modules <= named
