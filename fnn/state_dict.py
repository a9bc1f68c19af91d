"""PyTorch's state dicts: what their names say of modules and of the order that these are in."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from fnn.checkpoint import CheckpointError, load
from fnn.formats.admitted import DEPTH
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
"""PyTorch's name for what we have as one array, or as several that it has one after the other along its first axis.

They are in the order in which its modules have them.
"""

COUNT = "num_batches_tracked"
"""What a state dict has beside running statistics, and we have not."""


def modules_of(state: State) -> Modules:
    """The arrays in a state dict, by module and entry, in the modules' order."""
    named = load(state) if isinstance(state, str | os.PathLike) else state
    if not isinstance(named, Mapping):
        raise CheckpointError(f"a state dict, or a file of one, wanted, but it is {told(named)}")
    modules: Modules = {}
    faults = []
    for name, value in named.items():
        if not isinstance(name, str) or name.count(".") > DEPTH:
            faults.append(f"{repr(name)[:80]} is {told(name)}, wanted a str of at most {DEPTH} dots")
            continue
        prefix, _, entry = name.rpartition(".")
        inside = prefix.removesuffix("out_proj")
        if inside != prefix and f"{inside}in_proj_weight" in named:
            prefix, entry = inside.removesuffix("."), f"out_proj.{entry}"
        try:
            array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
        except (RuntimeError, TypeError, ValueError) as error:
            faults.append(f"{name[:80]!r} is nothing that NumPy has: {str(error)[:200]}")
            continue
        if entry not in (*ENTRIES, COUNT):
            faults.append(f"{name[:80]!r}, {told(array)}, has no place in our layers")
        modules.setdefault(prefix, {})[entry] = array
    refuse(faults)
    siblings = _siblings(modules)

    def place(prefix: str) -> list[int]:
        return [siblings[parent][name] for parent, name in _steps(prefix)]

    return {prefix: modules[prefix] for prefix in sorted(modules, key=place)}


def check_order(state: State, modules: Modules) -> None:
    """Raises the CheckpointError where nothing says how modules beside each other are ordered: no numbers, no dict.

    A file sorts its names, and so they come in a dict that was loaded from one: a bias then is before its weight.
    """
    order = (*ENTRIES, COUNT)
    if isinstance(state, Mapping) and all([*names] == sorted(names, key=order.index) for names in modules.values()):
        return
    for names in _siblings(modules).values():
        if len(names) > 1 and not _numbers(names):
            shown = ", ".join(names)
            refuse([f"a file forgets the order of {shown}; wanted numbers, our layers' names, or a dict in order"])


def _siblings(prefixes: Iterable[str]) -> dict[str, dict[str, int]]:
    """The names beside each other with their places, by what is before them: as their numbers say, or as they come."""
    siblings: dict[str, dict[str, int]] = {}
    for prefix in prefixes:
        for parent, name in _steps(prefix):
            beside = siblings.setdefault(parent, {})
            beside.setdefault(name, len(beside))
    return {parent: {name: int(name) for name in n} if _numbers(n) else n for parent, n in siblings.items()}


def _steps(prefix: str) -> list[tuple[str, str]]:
    """The names that the prefix is made of, each with the part of the prefix before it."""
    names = prefix.split(".")
    return [(".".join(names[:i]), name) for i, name in enumerate(names)]


def _numbers(names: Iterable[str]) -> bool:
    return all(name.isdecimal() and len(name) < 10 for name in names)  # of thousands of digits, `int` makes none


def join(separator: str, path: str, name: str) -> str:
    """`name` below `path`, which is empty for the net or the module itself."""
    return f"{path}{separator}{name}" if path else name


def refuse(faults: list[str]) -> None:
    """Raises the CheckpointError that lists the faults, if there are any."""
    if faults:
        raise CheckpointError(listed("the weights do not fit", faults))
