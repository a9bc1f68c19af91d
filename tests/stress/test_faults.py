"""Disk faults at each system call of saving and of training: files are the old or the new ones, and nothing is left."""

import os
import random
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fcntl")  # not on Windows

import fnn
from fnn import run
from fnn.files.checkpoint import CheckpointError
from tests.support.children import child
from tests.support.damage import SMALL, SUFFIXES
from tests.support.disk_faults import ERRORS, faults
from tests.support.runs import bits, make_task, metrics_without_times, no_log
from tests.support.trees import assert_same

pytestmark = [pytest.mark.stress, pytest.mark.skipif(os.name != "posix", reason="needs the system calls of POSIX")]

NEW = SMALL | {"step": SMALL["step"] + 1}
FOREVER = 1 << 60


def kinds(rng: random.Random, trials: int, calls: int) -> list[tuple[int, int, int]]:
    """Returns faults as first call, last call and error: at each call in turn, once or from then on; at least `trials`.

    Each error is used at some call, and each call with some error.
    """
    chosen = []
    for number in range(max(trials, calls)):
        first = number % calls + 1
        chosen.append((first, rng.choice([first, FOREVER]), rng.choice(ERRORS)))
    return chosen


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_save_with_a_fault_at_each_call_leaves_the_old_or_the_new_file(
    tmp_path: Path, trials: int, rng: random.Random, counts: Counter[str], suffix: str
) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"tree{suffix}"
    fnn.save(path, SMALL)
    old = fnn.load(path)
    with faults(tmp_path) as counted:
        fnn.save(path, NEW)
    new = fnn.load(path)
    for first, last, error in kinds(rng, trials, counted.calls):
        fnn.save(path, SMALL)
        with faults(tmp_path, first, last, error) as state:
            try:
                fnn.save(path, NEW)
                result, expected = "saved in spite of the fault", new
            except OSError as raised:
                named = (raised.errno, raised.filename)
                result, expected = "the error names the file, which is the old one", old
        assert state.failed
        assert expected is new or named == (error, str(path)), state.failed
        assert_same(fnn.load(path), expected)
        if set(state.failed) & {"unlink"}:
            fnn.save(path, NEW)  # the temporary file could not be removed before
        assert os.listdir(tmp_path) == [path.name], state.failed
        counts[result] += 1


def test_saves_of_several_processes_into_one_folder_keep_the_temporary_files_of_the_others(
    tmp_path: Path, trials: int, counts: Counter[str]
) -> None:
    def save_often(name: str) -> int:
        for number in range(20 * trials):
            fnn.save(tmp_path / name, {"w": number})
        return 0

    with ExitStack() as stack:
        processes = [
            stack.enter_context(child(partial(save_often, name), tmp_path / f"{name}.txt", tmp_path))
            for name in ("a.pkl", "b.pkl", "same.pkl", "same.pkl")
        ]
        assert [process.wait(60 + 10 * trials) for process in processes] == [0] * len(processes)
    counts["saves"] += 20 * trials * len(processes)
    assert sorted(path.name for path in tmp_path.glob("*.pkl")) == ["a.pkl", "b.pkl", "same.pkl"]
    assert not list(tmp_path.glob(".fnn-*"))


def train_in(folder: Path) -> run.State:
    """Trains in the folder from its last state on, as programs do, and saves after each step."""
    task = make_task(epochs=2)
    with run.locked(folder, new=not (folder / "config.json").exists()):
        run.write_config(folder, run.IMAGES | {"epochs": 2})
        return run.train(task, run.read_state(folder, task), folder, 0, log=no_log)


def results(folder: Path) -> list[Any]:
    """Returns what must be the same in the folders of two runs."""
    trees = [bits(fnn.load(folder / name)) for name in ("state.pkl", "params.pkl")]
    return [*trees, metrics_without_times(folder), sorted(os.listdir(folder))]


def test_train_with_faults_at_each_call_continues_with_the_same_bits(
    tmp_path: Path, trials: int, rng: random.Random, counts: Counter[str]
) -> None:
    with faults(tmp_path / "whole") as counted:
        train_in(tmp_path / "whole")
    expected = results(tmp_path / "whole")
    chosen = kinds(rng, 0, counted.calls)
    for number, (first, last, error) in enumerate(rng.sample(chosen, min(trials, len(chosen)))):
        folder = tmp_path / str(number)
        with faults(folder, first, last, error) as state:
            try:
                train_in(folder)
                message = ""
            except (OSError, run.RunError, CheckpointError) as raised:
                message = str(raised)
        assert state.failed
        assert not message or str(folder) in message, (message, state.failed)
        counts["errors that name a file or the folder" if message else "trained in spite of the fault"] += 1
        train_in(folder)
        assert results(folder) == expected, state.failed
        counts["continued with the same bits, without other files"] += 1
