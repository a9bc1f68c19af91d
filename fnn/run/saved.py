"""A saved run as a net with params: read from its folder alone, and written as an ONNX model."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fnn.files.checkpoint import CheckpointError, load
from fnn.inspection.text import parse_net
from fnn.onnx import export
from fnn.op import Op, OpError, Params, Shape
from fnn.run.faults import describe_non_finite
from fnn.run.folder import CONFIG, RunError, find_params, format_net, read_config
from fnn.run.settings import IMAGES, Config


class SavedRun(NamedTuple):
    """What is needed to predict: a net, its params, and the configuration, which describes the input."""

    net: Op
    params: Params
    config: Config

    @property
    def shape(self) -> Shape:
        """The shape of one example."""
        return tuple(self.config["shape"])


def load_run(folder: Path, operators: Mapping[str, Op | Callable[..., Op]] | None = None) -> SavedRun:
    """Returns the run in the folder, which needs nothing else. `operators` are your own ones in its net, by name.

    Raises RunError if the folder has no run or no finished epoch, and for a damaged configuration. Raises
    CheckpointError for damaged params or another net's.
    """
    config = read_config(folder)
    if missing := sorted({"net", *IMAGES} - config.keys()):
        raise RunError(f"{folder / CONFIG}: missing names {missing}")
    try:
        net = parse_net(config["net"], operators)
        like = net.init(0, tuple(config["shape"]))
    except (MemoryError, OpError) as error:
        raise RunError(f"{folder / CONFIG}: {error}") from error
    return SavedRun(net, load_params(find_params(folder), like), config)


def load_params(path: Path, like: Params) -> Params:
    """Returns the params in the file, of the same net as `like`. Raises CheckpointError for nan and infinity."""
    params: Params = load(path, like)
    if fault := describe_non_finite("params/", params):
        raise CheckpointError(f"{path}: expected finite params, got {fault}")
    return params


def export_run(run: SavedRun, path: Path) -> str:
    """Writes the run as an ONNX model for raw pixels: it scales its input itself. Returns a line that says so.

    The model's metadata has this line as "input", the names of the classes as JSON, and the net as text. Raises as
    `fnn.onnx.export` does.
    """
    scaling, shape = run.config["scaling"], ", ".join(map(str, run.shape))
    levels = f"grey levels from 0 (background) to 255; do not scale them, the model computes {format_scaling(scaling)}"
    line = f'"pixels", float32 (batch, {shape}): {levels}'
    metadata = {"input": line, "classes": json.dumps(run.config["classes"]), "net": format_net(run.net)}
    export(run.net, run.params, run.shape, path, scaling=scaling, metadata=metadata)
    return f"wrote: {path}; its input is {line}"


def format_scaling(scaling: Mapping[str, float]) -> str:
    """Returns the formula of the scaling."""
    return f"pixels / {scaling['divide_by']:g} - {scaling['subtract']:g}"
