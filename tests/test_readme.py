"""The README: its code runs, its commands exist, and its map is complete."""

import doctest
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import train
from benchmarks import __main__ as benchmarks
from fnn import __main__ as commands
from tests.support.documents import ROOT, code_blocks, paths_in, read

README = read("README.md")
MAP = README.partition("## Map of the repository")[2]
DOCTESTS = [block for block in code_blocks(README) if block.startswith(">>>")]
PROGRAMS = [block for block in code_blocks(README) if not block.startswith(">>>")]


def test_readme_doctests_print_what_the_readme_shows() -> None:
    names: dict[str, Any] = {}
    runner = doctest.DocTestRunner()
    for number, block in enumerate(DOCTESTS):
        output: list[str] = []
        test = doctest.DocTestParser().get_doctest(block, names, f"block {number}", "README.md", 0)
        runner.run(test, out=output.append, clear_globs=False)
        assert not output, "".join(output)
        names.update(test.globs)
    assert runner.tries > 10


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_readme_program_runs_by_itself(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some blocks write files
    exec(compile(PROGRAMS[number], f"README.md, program {number}", "exec"), {})


def test_readme_has_a_program_for_each_subject() -> None:
    for call in ("calibrate(", "np.float64", "fnn.mse", "check_op(", "check_loss(", "fnn.save(", "fnn.to_torch("):
        assert any(call in program for program in PROGRAMS), call


COMMANDS = re.findall(r"python train\.py[^`#\n&]*|python -m (?:benchmarks|fnn \w+) [^`#\n]*", README)


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_flags_of_each_command_exist(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, *arguments = shlex.split(command)
    if arguments[0] == "train.py" and "--help" not in arguments:
        monkeypatch.setattr("sys.argv", arguments)
        monkeypatch.setattr("fnn.run.program", lambda name, main: 0)
        assert train.main() == 0  # a wrong flag would end the program
    elif arguments[:2] == ["-m", "fnn"]:
        commands.parse(arguments[2:])
    elif arguments[0] == "-m":
        benchmarks.arguments(arguments[2:])


def test_readme_paths_exist() -> None:
    assert [path for path in paths_in(README) if not (ROOT / path).exists()] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a Git checkout, which knows the user's own files")
@pytest.mark.parametrize("folder", ["", "fnn/"])
def test_readme_map_names_every_module_and_package(folder: str) -> None:
    files = subprocess.run(["git", "ls-files", f"./{folder}"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = {re.match(r"[^/]+/?", path.removeprefix(folder))[0] for path in files.stdout.splitlines()}  # type: ignore[index]
    modules = {folder + name for name in names if re.fullmatch(r"[a-zA-Z]\w*(\.py|\.md|/)?", name)} - {"LICENSE"}
    assert len(modules) > 5
    assert modules - {*paths_in(MAP), "fnn/"} == set()
