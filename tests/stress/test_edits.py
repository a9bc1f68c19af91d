"""Edited files of a run: the commands work, or say in one line which file, which field and which value are wrong."""

import json
import math
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("fcntl")  # not on Windows

import fnn
import train
from fnn.__main__ import main
from fnn.run import loop, training
from tests.support.children import child
from tests.support.runs import stop_after, write_small_mnist

pytestmark = [pytest.mark.stress, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

FLAGS = ["--net", "serial(dense(8), tanh, dense(10))", "--lr", "0.1", "--epochs", "3", "--batch-size", "50"]
LIMIT = 600.0  # seconds for a command
NUMBERS: list[Any] = [0, -1, 1, 2, 7, 10**6, 10**15, 2**31, 2**63 - 1, 2**63, 10**400, 0.5, -0.5, 1e-300, 1e300]
NUMBERS += [math.nan, math.inf, -math.inf, True, False]
TEXTS: list[Any] = ["", "x", "0", "digits", "/", ".", "/dev/null", "a\0b", "\ud800", "\x1b[31m", "é\n", "x" * 5000]
TEXTS += ["dense(10)", "dense(10", "dense(100000000000)", "conv(6, 3)", "serial()", "dropout(0.5)", "cnn", "fc", "best"]
OTHERS: list[Any] = [None, [], [1], [[]], {}, {"a": 1}, [1, 28, 28], [1, 28], [3, 32, 32], ["a"] * 10, [0.1, 0, 0]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped in its last epoch."""
    folder = tmp_path_factory.mktemp("edits")
    flags = [*FLAGS, "--data", str(write_small_mnist(folder)), "--out", str(folder / "run")]
    assert resume(flags, 16) == 0  # of 18 steps and 3 ends of epochs
    return folder / "run"


def resume(flags: list[str], steps: int) -> int:
    """Runs `train.py` for at most so many steps and ends of epochs: an edited run may have billions."""

    def train_shortly(task: Any, state: Any, folder: Any, seconds: Any, stop: Any, log: Any, record: Any) -> Any:
        return loop.train(task, state, folder, seconds, stop_after(steps), log, record)

    with patch.object(training, "train", train_shortly), patch.object(sys, "argv", ["train.py", *flags]):
        return train.main()


def edit(value: Any, rng: random.Random) -> Any:
    """Returns another value, often a similar one."""
    similar: list[Any] = []
    if isinstance(value, int | float):
        similar = [value + 1, -value, value * 1.5, str(value), [value], *rng.sample(NUMBERS, 3)]
    elif isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        similar = [value[:at] + rng.choice(" 0,()-x\0é") + value[at:], value[:at], value + value, value.encode().hex()]
    elif isinstance(value, list):
        similar = [value[1:], [*value, *value[:1]], value[::-1], [edit(item, rng) for item in value], value[0]]
    elif isinstance(value, dict) and value:
        similar = [edit_entries(value, rng)[0]]
    elif isinstance(value, np.ndarray):
        changed = value.copy()
        changed.reshape(-1)[rng.randrange(changed.size)] = rng.choice([math.nan, math.inf, 1e30, 0])
        similar = [changed, value[:-1], value.astype(np.float64), value.T, value.reshape(-1), value.astype(np.int32)]
        similar += [np.zeros(0, np.float32), value * np.float32(1e38), value[np.newaxis]]
    return rng.choice(similar if similar and rng.random() < 0.6 else [*NUMBERS, *TEXTS, *OTHERS])


def edit_entries(entries: dict[str, Any], rng: random.Random) -> tuple[dict[str, Any], str, Any]:
    """Returns the dict with one entry changed, removed or added; and its name and the new value."""
    name = rng.choice([*entries])
    kind = rng.choice(["change"] * 8 + ["remove", "add"])
    if kind == "remove":
        return {other: value for other, value in entries.items() if other != name}, name, None
    if kind == "add":
        name = rng.choice(["x", "", "é", "net2", "step/", name.upper()])
    value = edit(entries.get(name), rng)
    if isinstance(entries.get(name), dict) and entries[name] and rng.random() < 0.9:
        value, inner, new = edit_entries(entries[name], rng)
        return entries | {name: value}, inner, new
    return entries | {name: value}, name, value


def edit_config(folder: Path, rng: random.Random) -> tuple[str, Any]:
    entries, name, value = edit_entries(json.loads((folder / "config.json").read_text()), rng)
    (folder / "config.json").write_text(json.dumps(entries, indent=rng.choice([None, 2])))
    return name, value


def edit_metrics(folder: Path, rng: random.Random) -> tuple[str, Any]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kind, at = rng.choice(["change"] * 6 + ["lose", "double", "swap", "text"]), rng.randrange(len(lines))
    name, value = "metrics.jsonl", None
    if kind == "change":
        lines[at], name, value = edit_entries(lines[at], rng)
    elif kind == "lose":
        del lines[at]
    elif kind == "double":
        lines.insert(at, lines[at])
    elif kind == "swap":
        lines.reverse()
    texts = [json.dumps(line) for line in lines]
    if kind == "text":
        texts[at] = rng.choice(["", "[]", "{", "null", "\0" * 9, texts[at][:-9], texts[at] * 2, "9" * 9999, "[" * 9999])
    (folder / "metrics.jsonl").write_text("\n".join(texts) + rng.choice(["\n", "", "\n\n"]))
    return name, value


def edit_state(folder: Path, rng: random.Random) -> tuple[str, Any]:
    while True:
        state, name, value = edit_entries(fnn.load(folder / "state.pkl"), rng)
        try:
            fnn.save(folder / "state.pkl", state)
        except fnn.CheckpointError:
            continue  # a list, which no state can have
        return name, value


EDITS: dict[str, tuple[Callable[[Path, random.Random], tuple[str, Any]], list[str]]] = {
    "config.json": (edit_config, ["train", "eval", "export", "predict"]),
    "metrics.jsonl": (edit_metrics, ["train", "curves"]),
    "state.pkl": (edit_state, ["train"]),
}


def run_command(command: str, folder: Path) -> int:
    """Runs a command on the folder; training takes at most three more steps."""
    if command == "train":
        return resume(["--resume", str(folder)], 3)
    if command == "curves":
        from fnn.run import exit_status, pictures, report

        def draw() -> int:
            figure = pictures.plot_curves(report.read_curves(folder))
            figure.set_layout_engine("none")
            return int(not pictures.to_png(figure))

        return exit_status("fnn curves", draw)
    more = {"export": [str(folder.parent / "model.onnx")], "predict": [str(folder.parent / "digit.png")]}
    return main([command, str(folder), *more.get(command, [])])


@pytest.mark.parametrize("file", EDITS)
def test_an_edited_file_of_a_run_gives_one_clear_line_or_a_run(
    finished: Path, tmp_path: Path, trials: int, rng: random.Random, counts: Counter[str], file: str
) -> None:
    image = pytest.importorskip("PIL.Image")
    for package in ("onnx", "matplotlib"):
        pytest.importorskip(package)
    make_edit, commands = EDITS[file]
    image.fromarray(fnn.data.digits(1, 3).images[0]).save(tmp_path / "digit.png")
    unclear = []
    for number in range(2 * trials):
        folder = tmp_path / "run"
        shutil.copytree(finished, folder)
        name, value = make_edit(folder, rng)
        command = commands[number % len(commands)]
        with child(partial(run_command, command, folder), tmp_path / "output", folder) as process:
            status = process.wait(LIMIT)
        output = (tmp_path / "output").read_text(errors="replace")
        shutil.rmtree(folder)
        what = judge(status, output, folder, file, name)
        counts[what] += 1
        if what.startswith("UNCLEAR"):
            unclear.append(f"{what}: {command} after {name!r} became {str(value)[:200]!r}: {output[-1000:]}")
    assert not unclear, "\n\n".join(unclear)


def judge(status: int | None, output: str, folder: Path, file: str, name: str) -> str:
    """Returns what the output of a command is: a run, an error that names file and field, another clear error, or not.

    An error is one line, the last of the output.
    """
    *_, last = ["", *output.splitlines()]
    if status == 0:
        return "UNCLEAR, traceback" if "Traceback" in output or "Warning" in output else "ran"
    if status != 1 or "Traceback" in output or not last.startswith(("train.py: error: ", "fnn ")) or len(last) > 3000:
        return f"UNCLEAR, status {status}"
    if f"{folder / file}: " in last:
        return "one line that names file and field" if name in last else "one line that names the file"
    return "one line that names another file or the folder" if str(folder) in last else "UNCLEAR, no file"
