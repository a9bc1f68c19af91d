"""PyTorch's state dicts: what their names say of modules and of the order that these are in."""

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from fnn.checkpoint import CheckpointError, load
from fnn.formats.fitting import listed
from fnn.op import Array, told

State: TypeAlias = Mapping[str, Any] | str | os.PathLike[str]
Modules: TypeAlias = dict[str, dict[str, Array]]

ENTRIES = {
    "weight": ("w",),
    "bias": ("b",),
    "running_mean": ("mean",),
    "running_var": ("var",),
    "in_proj_weight": ("wq", "wk", "wv"),
    "in_proj_bias": ("bq", "bk", "bv"),
    "out_proj.weight": ("wo",),
    "out_proj.bias": ("bo",),
}
"""PyTorch's name for what we have as one array, or as several that it has one after the other along its first axis."""

COUNT = "num_batches_tracked"
"""What a state dict has beside running statistics, and we have not."""


def modules_of(state: State) -> Modules:
    """The arrays in a state dict, by module and entry, in the modules' order."""
    if not isinstance(state, Mapping | str | os.PathLike):
        raise CheckpointError(f"a state dict, or a file of one, wanted, but it is {told(state)}")
    state = state if isinstance(state, Mapping) else load(state)
    modules: Modules = {}
    faults = []
    for name, value in state.items():
        prefix, _, entry = name.rpartition(".")
        inside = prefix.removesuffix("out_proj")
        if inside != prefix and f"{inside}in_proj_weight" in state:
            prefix, entry = inside.removesuffix("."), f"out_proj.{entry}"
        try:
            array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
        except (RuntimeError, TypeError):
            faults.append(f"{name!r}, {value.dtype}, is of a kind that NumPy does not have")
            continue
        if entry not in (*ENTRIES, COUNT):
            faults.append(f"{name!r}, {told(array)}, has no place in our layers")
        modules.setdefault(prefix, {})[entry] = array
    refuse(faults)
    firsts: dict[str, int] = {}

    def rank(prefix: str) -> list[int]:
        parts = prefix.split(".")
        froms = [".".join(parts[: i + 1]) for i in range(len(parts))]
        return [
            int(p) if p.isdecimal() else firsts.setdefault(f, len(firsts)) for p, f in zip(parts, froms, strict=True)
        ]

    return {prefix: modules[prefix] for prefix in sorted(modules, key=rank)}


def check_order(prefixes: list[str]) -> None:
    """Raises the CheckpointError for names beside each other, out of a file, that are no numbers."""
    siblings: dict[str, list[str]] = {}
    for prefix in prefixes:
        parts = prefix.split(".")
        for i, part in enumerate(parts):
            beside = siblings.setdefault(".".join(parts[:i]), [])
            if part not in beside:
                beside.append(part)
    for beside in siblings.values():
        if len(beside) > 1 and not all(part.isdecimal() for part in beside):
            told_names = ", ".join(beside)
            refuse([f"a file forgets the order of {told_names}; wanted numbers, our layers' names, or a dict in order"])


def join(separator: str, path: str, name: str) -> str:
    """`name` below `path`, which is empty for the net or the module itself."""
    return f"{path}{separator}{name}" if path else name


def refuse(faults: list[str]) -> None:
    """Raises the CheckpointError that lists the faults, if there are any."""
    if faults:
        raise CheckpointError(listed("the weights do not fit", faults))
