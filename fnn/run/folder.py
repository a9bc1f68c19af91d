"""A run's folder: the configuration, a line of metrics for each epoch, the last state and the best params.

Each file is written whole or not at all, and an epoch's end in the order metrics, best params, state. Where a process
is killed in between, the state is that of an earlier step, and going on from it writes the others again.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from fnn.checks.errors import describe
from fnn.files.checkpoint import CheckpointError, load
from fnn.files.disk import atomic_write
from fnn.run.task import Metrics, State, Task, start

CONFIG, METRICS, STATE, BEST = "config.json", "metrics.jsonl", "state.pkl", "best.pkl"

Config: TypeAlias = dict[str, Any]
"""All that decides a run's bits, by name: numbers, strings, None and lists of numbers."""


class RunError(ValueError):
    """A folder that cannot be used as it was asked for; the message names it."""


def refuse_used(folder: Path) -> None:
    """Raises RunError when the folder holds a run, or a part of one."""
    if any((folder / name).exists() for name in (CONFIG, METRICS, STATE, BEST)):
        raise RunError(f"{folder} holds a run, which is not overwritten; --resume {folder} goes on with it")


def write_config(folder: Path, config: Config) -> None:
    """Keeps the configuration, by which the folder holds a run from here on."""
    _write(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def read_config(folder: Path) -> Config:
    """The configuration of the run in the folder. Raises RunError when there is none."""
    path = folder / CONFIG
    if not path.exists():
        raise RunError(f"{folder} holds no run: there is no {CONFIG} in it")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise RunError(f"{path} is damaged: it holds {describe(config)}, wanted names and values")
    return config


def agreed(folder: Path, like: Config, wanted: Config, choices: Mapping[str, Iterable[str]]) -> Config:
    """The configuration of the run in the folder. Raises RunError, naming all that differs, unless it is as wanted.

    It must have the names of `like`, and for those in `choices` one of these values.
    """
    config, path = read_config(folder), folder / CONFIG
    if config.keys() != like.keys():
        raise RunError(f"{path} is damaged, or another program's: see {sorted(config.keys() ^ like.keys())}")
    for name, known in choices.items():
        if config[name] not in list(known):
            raise RunError(f"{path} is damaged: {name} is {config[name]!r}, wanted one of {list(known)}")
    if differing := [name for name, value in wanted.items() if config[name] != value]:
        differences = "; ".join(f"{name} {config[name]!r}, not {wanted[name]!r}" for name in differing)
        raise RunError(f"the run in {folder} has {differences}")
    return config


def read_metrics(folder: Path) -> list[Metrics]:
    """The metrics of the epochs that have ended, in their order. Raises RunError unless these are 1, 2 and so on."""
    path = folder / METRICS
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    for number, line in enumerate(lines, 1):
        if not (isinstance(line, dict) and line.get("epoch") == number):
            raise RunError(f"{path} is damaged: line {number} does not hold the metrics of epoch {number}")
    return lines


def write_metrics(folder: Path, lines: list[Metrics]) -> None:
    """Keeps the metrics, one line for each epoch."""
    _write(folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines))


def read_state(folder: Path, task: Task) -> State:
    """The last state that was kept, or else the first one. Raises CheckpointError for that of another task."""
    path, first = folder / STATE, start(task)
    if not path.exists():
        return first
    state: State = load(path, first)
    n_batches = -(-len(task.data.train.labels) // task.batch_size)
    if not (1 <= state["epoch"] <= task.epochs + 1 and 0 <= state["batch"] <= n_batches):
        raise CheckpointError(f"{path}: epoch {state['epoch']}, batch {state['batch']}, where the run never is")
    return state


def settle(folder: Path, state: State) -> list[Metrics]:
    """Removes from the folder what lies beyond the state, and what writers left behind that were killed.

    Gives the metrics of the epochs that ended before it.
    """
    for left in folder.glob(".fnn-*"):
        left.unlink()
    lines = read_metrics(folder)
    ended = [line for line in lines if line["epoch"] < state["epoch"]]
    if ended != lines:
        write_metrics(folder, ended)
    return ended


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())
