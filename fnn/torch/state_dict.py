"""PyTorch's state dicts: what their names say of modules and of the order that these are in."""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from fnn.checks.errors import describe
from fnn.files.allowed import MAX_DEPTH
from fnn.files.checkpoint import CheckpointError, load
from fnn.files.template import list_faults
from fnn.op import Array

NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>[0-9]{1,9})", re.DOTALL)
"""A name that ends with a number."""

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

NAMES = {
    "dense": ("dense", "fc", "lin", "linear"),
    "embedding": ("emb", "embed", "embedding", "positionembedding", "posemb", "posembed", "posembedding"),
    "conv": ("conv", "conv2d"),
    "conv_transpose": ("convtranspose", "convtranspose2d", "deconv", "deconv2d"),
    "batch_norm": ("batchnorm", "batchnorm1d", "batchnorm2d", "bn"),
    "group_norm": ("gn", "groupnorm"),
    "layer_norm": ("layernorm", "ln"),
}
"""What layers and modules of a kind are usually called, in lower case, without underscores and numbers."""

CONFUSABLE = {
    ("dense", "embedding"): "bias",
    ("conv", "conv_transpose"): None,
    ("batch_norm", "group_norm", "layer_norm"): "running_mean",
}
"""Kinds whose arrays may have the same names and shapes, with the entry that only the first of them can have."""

COUNT = "num_batches_tracked"
"""What a state dict has beside running statistics, and we have not."""


def modules_of(state: State) -> Modules:
    """The arrays in a state dict, by module and entry, in the modules' order."""
    named = load(state) if isinstance(state, str | os.PathLike) else state
    if not isinstance(named, Mapping):
        raise CheckpointError(f"a state dict, or a file of one, wanted, but it is {describe(named)}")
    modules: Modules = {}
    faults = []
    for name, value in named.items():
        if not isinstance(name, str) or name.count(".") > MAX_DEPTH:
            faults.append(f"{repr(name)[:80]} is {describe(name)}, wanted a str of at most {MAX_DEPTH} dots")
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
            faults.append(f"{name[:80]!r}, {describe(array)}, has no place in our layers")
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


def check_numbers(layouts: Mapping[str, object], where: str) -> None:
    """Raises the CheckpointError where numbers in names contradict the order, as when conv10 comes before conv2.

    `layouts` holds what tells the arrays of a module from those of others, by its prefix. If these differ, their shapes
    decide which order fits, and numbers may go down, as in the decoder of a U-Net.
    """
    beside: dict[tuple[str, str], dict[str, object]] = {}
    for prefix, layout in layouts.items():
        for parent, name in _steps(prefix):
            beside.setdefault((parent, name), {})[prefix.removeprefix(join(".", parent, name))] = layout
    last: dict[tuple[str, str, str], tuple[int, str]] = {}
    faults = []
    for (parent, name), below in beside.items():
        if found := NUMBERED.fullmatch(name):
            alike, number, path = (parent, found["stem"], repr(below)), int(found["number"]), join(".", parent, name)
            before, other = last.get(alike, (0, ""))
            if number < before:
                faults.append(f"{other!r} is before {path!r} in {where}, but both fit in either place")
            last[alike] = number, path
    refuse(faults)


def kind_of_name(name: str) -> str:
    """The kind of layer that the last part of a name tells of, or an empty string."""
    plain = name.replace("/", ".").rpartition(".")[2].lower().replace("_", "").rstrip("0123456789")
    return next((kind for kind, names in NAMES.items() if plain in names), "")


def contradict(kind: str, other: str, entries: Collection[str]) -> bool:
    """Whether a module of these entries could be of either kind, and the kinds differ."""
    return kind != other and any(
        kind in kinds and other in kinds and telling not in entries for kinds, telling in CONFUSABLE.items()
    )


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
        raise CheckpointError(list_faults("the weights do not fit", faults))
