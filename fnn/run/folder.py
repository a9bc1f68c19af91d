"""The folder of a run: its configuration, metrics by epoch, last state, params and lock.

Each file is replaced as a whole. At the end of an epoch the order is metrics, params, state: if the process is
killed in between, the run continues from the earlier state and writes the other files again.
"""

import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

from fnn.checks.errors import describe
from fnn.data import SCALING
from fnn.files.checkpoint import CheckpointError, load
from fnn.files.disk import atomic_write
from fnn.op import Op
from fnn.run.task import Metrics, State, Task, start

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


CONFIG, METRICS, STATE, PARAMS = "config.json", "metrics.jsonl", "state.pkl", "params.pkl"
OLD_PARAMS = "best.pkl"  # in the folders of version 0.1.0: the params of the epoch with the best test accuracy

Config: TypeAlias = dict[str, Any]
"""All settings that determine the result, by name.

`net` is the net's `repr` in one line; the settings of IMAGES describe its input.
"""

IMAGES: Config = {"shape": [1, 28, 28], "scaling": SCALING, "classes": list("0123456789")}
"""The input of a net for MNIST: the shape of one example, which numbers scale the pixels, and the classes' names."""

NETS_BY_NAME = {
    "cnn": "serial(conv(6, 3, padding=1), maxpool(2), tanh, conv(12, 3, padding=1), maxpool(2), tanh, "
    "dense(512), tanh, dense(128), tanh, dense(10))",
    "fc": "serial(dense(512), sigmoid, dense(128), sigmoid, dense(10))",
    "deep": "serial(conv(32, 3, w_init=he_normal), relu, conv(32, 3, w_init=he_normal), relu, maxpool(2), "
    "conv(64, 3, w_init=he_normal), relu, conv(64, 3, w_init=he_normal), relu, maxpool(2), "
    "dense(256, w_init=he_normal), relu, dense(10))",
}
"""The nets of runs made before config.json had texts: such a run has only the name."""


def _is_int(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < 1 << 63


def _is_number(value: Any, limit: float = inf) -> bool:
    return type(value) in (int, float) and 0 <= value < limit


SETTINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "net": ("a net as text", lambda net: isinstance(net, str)),
    "shape": (
        f"a value like {IMAGES['shape']}",
        lambda shape: isinstance(shape, list) and bool(shape) and all(_is_int(n, 1) for n in shape),
    ),
    "scaling": (
        f"a value like {IMAGES['scaling']}",
        lambda scaling: (
            isinstance(scaling, dict)
            and scaling.keys() == SCALING.keys()
            and all(isinstance(x, int | float) for x in scaling.values())
        ),
    ),
    "classes": (
        f"a value like {IMAGES['classes']}",
        lambda names: isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names),
    ),
    **dict.fromkeys(("epochs", "batch_size", "shard_size"), ("an integer from 1", lambda n: _is_int(n, 1))),
    **dict.fromkeys(("seed", "validation", "shift"), ("an integer from 0", _is_int)),
    **dict.fromkeys(("lr", "weight_decay"), ("a number from 0", _is_number)),
    **dict.fromkeys(("momentum", "smoothing"), ("a number from 0 to below 1", lambda x: _is_number(x, 1))),
    "limit": ("null or an integer from 1", lambda n: n is None or _is_int(n, 1)),
    "data": ("null or a text", lambda source: source is None or isinstance(source, str)),
    "affine": ("three numbers from 0", lambda xs: isinstance(xs, list) and len(xs) == 3 and all(map(_is_number, xs))),
}
"""What a setting must be, by name, and whether a value is that: someone may have edited the configuration."""


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
        folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "ab") as file:
        try:
            _lock(file.fileno())
        except (BlockingIOError, PermissionError):
            raise RunError(f"{folder}: in use by another run") from None
        if new and any((folder / name).exists() for name in (CONFIG, METRICS, STATE, PARAMS, OLD_PARAMS)):
            raise RunError(f"{folder}: expected a folder without a run; to continue its run, use --resume {folder}")
        yield


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
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path}: damaged: {error}") from error
    if not isinstance(config, dict):
        raise RunError(f"{path}: expected names and values, got {describe(config)}")
    net = config.get("net")
    if isinstance(net, str) and net in NETS_BY_NAME:
        config = {"validation": 0, **IMAGES, **config, "net": NETS_BY_NAME[net]}
    for name, (expected, is_valid) in SETTINGS.items():
        if name in config and not is_valid(config[name]):
            raise RunError(f"{path}: {name}: expected {expected}, got {config[name]!r}")
    return config


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
            raise RunError(f"{path}: {name}: expected one of {list(known)}, got {config[name]!r}")
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
    """Returns the metrics of the finished epochs. Raises RunError unless these are 1, 2, 3 and so on."""
    path = folder / METRICS
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    except ValueError as error:
        raise RunError(f"{path}: damaged: {error}") from error
    for number, line in enumerate(lines, 1):
        if not (isinstance(line, dict) and line.get("epoch") == number):
            raise RunError(f"{path}: line {number}: expected the metrics of epoch {number}")
    return lines


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
    epochs, n_batches = task.epochs + 1, -(-len(task.data.train.labels) // task.batch_size)
    epoch, batch = state["epoch"], state["batch"]
    if not (1 <= epoch <= epochs and 0 <= batch <= n_batches):
        expected = f"epoch 1 to {epochs} and batch 0 to {n_batches}"
        raise CheckpointError(f"{path}: expected {expected}, got epoch {epoch} and batch {batch}")
    return state


def truncate_to(folder: Path, state: State) -> list[Metrics]:
    """Removes temporary files of killed processes, and metrics of later epochs than the state's; returns the others."""
    for temporary in folder.glob(".fnn-*"):
        temporary.unlink()
    lines = read_ended(folder, state)
    if lines != read_metrics(folder):
        write_metrics(folder, lines)
    return lines


def read_ended(folder: Path, state: State) -> list[Metrics]:
    """Returns the metrics of the epochs that ended before the state. Raises RunError if some are missing."""
    lines, ended = read_metrics(folder), state["epoch"] - 1
    if len(lines) < ended:
        raise RunError(f"{folder / METRICS}: expected the metrics of {ended} epochs, got {len(lines)}")
    return lines[:ended]
