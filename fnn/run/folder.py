"""The folder of a run: its configuration, metrics by epoch, last state, params and lock.

Each file is replaced as a whole. At the end of an epoch the order is metrics, params, state: if the process is
killed in between, the run continues from the earlier state and writes the other files again.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

from fnn.checks.errors import describe, describe_value, join_first
from fnn.files.checkpoint import CheckpointError, load
from fnn.files.disk import atomic_write, check_regular, lock, remove_leftovers
from fnn.op import Op
from fnn.run.faults import describe_non_finite
from fnn.run.settings import IMAGES, NETS_BY_NAME, SETTINGS, Config, is_int, is_number
from fnn.run.task import Metrics, State, Task, start
from fnn.tree import tree_items

CONFIG, METRICS, STATE, PARAMS = "config.json", "metrics.jsonl", "state.pkl", "params.pkl"
OLD_PARAMS = "best.pkl"  # in the folders of version 0.1.0: the params of the epoch with the best test accuracy
FILES = (CONFIG, METRICS, STATE, PARAMS, OLD_PARAMS)

CURVES = ("epoch", "train_loss", "test_loss", "train_accuracy", "test_accuracy", "rate")
"""The metrics that a report plots."""


class RunError(ValueError):
    """A folder that cannot be used in this way; the message names it."""


def format_net(net: Op) -> str:
    """Returns the net's `repr` in one line."""
    line = re.sub(r",\n *\)", ")", repr(net))
    return re.sub(r",\n *", ", ", re.sub(r"\(\n *", "(", line))


@contextmanager
def locked(folder: Path, new: bool) -> Iterator[None]:
    """Locks the folder for this process during the block; with `new`, creates it if needed.

    The lock ends with the process; the file `lock` remains. Raises RunError if another process has the lock, or if
    `new` and the folder contains a run.
    """
    if new:
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder}: expected a folder, got a file")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder)) from error  # names no folder above it
    check_links(folder, ("lock", *FILES))
    with open(check_regular(folder / "lock", RunError), "ab") as file:
        try:
            lock(file)
        except (BlockingIOError, PermissionError):
            raise RunError(f"{folder}: in use by another run") from None
        except OSError as error:
            raise RunError(f"{folder}: cannot be locked: {error.strerror}; use a folder on a local disk") from error
        if new and any((folder / name).exists() for name in FILES):
            raise RunError(f"{folder}: expected a folder without a run; to continue its run, use --resume {folder}")
        yield


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Raises RunError if one of these files is a link to a file elsewhere, which writing would replace."""
    for path in (folder / name for name in names):
        if path.is_symlink() and os.path.dirname(os.path.realpath(path)) != os.path.realpath(folder):
            raise RunError(f"{path}: expected a file in the folder, got a link to {os.readlink(path)}")


def write_config(folder: Path, config: Config) -> None:
    """Writes the configuration; from now on the folder contains a run."""
    with atomic_write(folder / CONFIG) as file:
        file.write(json.dumps(config, indent=2).encode() + b"\n")


def read_config(folder: Path) -> Config:
    """Returns the configuration of the run in the folder. Raises RunError if there is none.

    Runs made before config.json described the net and the input get the net's text and IMAGES.
    """
    path = folder / CONFIG
    if not path.exists():
        raise RunError(f"{folder}: expected a run, got no file {path}")
    config = _parse_json(path, _read_text(path))
    if not isinstance(config, dict):
        raise RunError(f"{path}: expected names and values, got {describe(config)}")
    net = config.get("net")
    if isinstance(net, str) and net in NETS_BY_NAME:
        config = {"validation": 0, **IMAGES, **config, "net": NETS_BY_NAME[net]}
    for name, (expected, is_valid) in SETTINGS.items():
        if name in config and not is_valid(config[name]):
            raise RunError(f"{path}: {name}: expected {expected}, got {describe_value(config[name])}")
    return config


def _read_text(path: Path) -> str:
    """Returns the content of a file in the folder. Raises RunError for a pipe or a device, which may never end."""
    try:
        return check_regular(path, RunError).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: damaged: {error}") from error


def _parse_json(path: Path, text: str, where: str = "") -> Any:
    """Returns the value of the JSON text, which is the content of the file, or the line `where` of it."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise RunError(f"{path}: damaged: {where}{error}") from error


def check_config(
    folder: Path,
    like: Config,
    wanted: Config,
    choices: Mapping[str, Iterable[str]],
    extendable: Collection[str] = (),
) -> Config:
    """Returns the configuration of the run in the folder.

    Raises RunError unless it has the names of `like`, values among the `choices` of each name, and all `wanted` values.
    Only the number of epochs may be larger than before, for the `extendable` schedules.
    """
    config, path = read_config(folder), folder / CONFIG
    if config.keys() != like.keys():
        raise RunError(f"{path}: missing or unknown names {sorted(config.keys() ^ like.keys())}")
    for name, known in choices.items():
        if config[name] not in list(known):
            raise RunError(f"{path}: {name}: expected one of {list(known)}, got {describe_value(config[name])}")
    for name in ("shape", "scaling"):
        if config[name] != like[name]:
            raise RunError(f"{path}: {name}: expected {like[name]} for this data, got {describe_value(config[name])}")
    differing = [name for name, value in wanted.items() if config[name] != value]
    if differing == ["epochs"] and wanted["epochs"] > config["epochs"]:
        if config["schedule"] not in extendable:
            ends = f"its schedule {config['schedule']} ends with epoch {config['epochs']}, where the rate is lowest"
            raise RunError(f"{folder}: cannot be extended: {ends}; start a new run with --epochs {wanted['epochs']}")
        return config | {"epochs": wanted["epochs"]}
    if differing:
        expected, got = (", ".join(f"{name} {values[name]!r}" for name in differing) for values in (config, wanted))
        raise RunError(f"{folder}: expected the settings of its run, {expected}; got {got}")
    return config


def check_extension(folder: Path, config: Config, rate: float, log: Callable[[str], None]) -> None:
    """Logs the learning rate from now on if `config` has more epochs than the configuration in the folder."""
    if config["epochs"] != (before := read_config(folder)["epochs"]):
        log(f"{folder}: extended from {before} to {config['epochs']} epochs; the learning rate is now {rate:.3g}")


def find_params(folder: Path) -> Path:
    """Returns the file with the params of the run. Raises RunError before the end of its first epoch."""
    for name in (PARAMS, OLD_PARAMS):
        if (folder / name).exists():
            return folder / name
    raise RunError(f"{folder}: expected {PARAMS}, got no such file; each epoch writes it at its end")


def read_metrics(folder: Path) -> list[Metrics]:
    """Returns the metrics of the finished epochs, by rising epoch. Raises RunError for a damaged line.

    Some may be missing, and so is the last line if it is incomplete.
    """
    path = folder / METRICS
    lines: list[Metrics] = []
    *texts, last = _read_text(path).split("\n") if path.exists() else [""]
    with suppress(RunError):  # it raises this for the start of a line, at the end of a truncated file
        _parse_json(path, last)
        texts.append(last)
    for number, text in enumerate(texts, 1):
        where, after = f"line {number}: ", int(lines[-1]["epoch"]) if lines else 0
        line = _parse_json(path, text, where)
        if not (isinstance(line, dict) and is_int(line.get("epoch"), after + 1)):
            raise RunError(f"{path}: {where}expected the metrics of epoch {after + 1} or later")
        for name in dict.fromkeys((*CURVES, *line)):
            most = 1 if name.endswith("_accuracy") else sys.float_info.max
            if not is_number(line.get(name), 0 if most == 1 else -most, most):
                expected = "a number from 0 to 1" if most == 1 else "a finite number"
                got = describe_value(line[name]) if name in line else "nothing"
                raise RunError(f"{path}: {where}expected {expected} as {name}, got {got}")
        lines.append(line)
    return lines


def describe_missing(folder: Path, lines: list[Metrics], ended: int) -> str:
    """Returns a sentence about the epochs, of those that ended, whose metrics are missing; "" if there are none."""
    missing = [str(epoch) for epoch in range(1, ended + 1) if epoch not in {line["epoch"] for line in lines}]
    return f"{folder / METRICS}: the metrics of these epochs are missing: {join_first(missing, 10)}" if missing else ""


def write_metrics(folder: Path, lines: list[Metrics]) -> None:
    """Writes the metrics, one line per epoch."""
    with atomic_write(folder / METRICS) as file:
        file.writelines(json.dumps(line).encode() + b"\n" for line in lines)


def read_state(folder: Path, task: Task) -> State:
    """Returns the last saved state, or the initial one. Raises CheckpointError for the state of another task."""
    path, first = folder / STATE, start(task)
    if not path.exists():
        return first
    state: State = load(path, first)
    n, epochs = len(task.data.train.labels), task.epochs + 1
    epoch, batch, n_batches = state["epoch"], state["batch"], -(-n // task.batch_size)
    if not (1 <= epoch <= epochs and 0 <= batch <= n_batches):
        expected = f"epoch 1 to {epochs} and batch 0 to {n_batches}"
        raise CheckpointError(f"{path}: expected {expected}, got epoch {epoch} and batch {batch}")
    step, seen = (epoch - 1) * n_batches + batch, min(batch * task.batch_size, n)
    checks = {
        "step": (str(step), state["step"] == step),
        "seen": (str(seen), state["seen"] == seen),
        "hits": (f"an int from 0 to {seen}", 0 <= state["hits"] <= seen),
        "loss_sum": ("a finite number", isfinite(state["loss_sum"])),
        "best": ("-1 or a number from 0 to 1", state["best"] == -1 or 0 <= state["best"] <= 1),
        "seconds": ("a number of seconds", 0 <= state["seconds"] < 1e12),
        "epoch_seconds": (
            "a number of seconds",
            (state["epoch_seconds"] > 0 or not batch) and state["epoch_seconds"] < 1e12,
        ),
    }
    for name, (expected, is_valid) in checks.items():
        if not is_valid:
            raise CheckpointError(f"{path}: {name}: expected {expected}, got {describe_value(state[name])}")
    for name, leaf in tree_items(state["optimizer"]):
        if name.endswith("step") and type(leaf) is int and not 0 <= leaf <= step:
            raise CheckpointError(
                f"{path}: optimizer/{name}: expected an int from 0 to {step}, got {describe_value(leaf)}"
            )
    if fault := describe_non_finite("params/", state["params"]):
        raise CheckpointError(f"{path}: expected finite params, got {fault}")
    return state


def truncate_to(folder: Path, state: State) -> list[Metrics]:
    """Removes metrics of later epochs than the state's, and temporary files of killed processes; returns the others."""
    remove_leftovers(folder)
    lines = read_ended(folder, state)
    if lines != read_metrics(folder):
        write_metrics(folder, lines)
    return lines


def read_ended(folder: Path, state: State) -> list[Metrics]:
    """Returns the metrics of the epochs that ended before the state, without those that are missing."""
    return [line for line in read_metrics(folder) if line["epoch"] < state["epoch"]]
