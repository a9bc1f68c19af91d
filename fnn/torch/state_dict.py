"""PyTorch's state dicts: their modules in order, and what the names of modules say about order and kind."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from fnn.checks.arrays import Array
from fnn.checks.errors import describe
from fnn.files.allowed import MAX_DEPTH
from fnn.files.checkpoint import CheckpointError, load
from fnn.files.trees import list_faults

NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>[0-9]{1,9})", re.DOTALL)  # a name that ends with a number

State: TypeAlias = Mapping[str, Any] | str | os.PathLike[str]
Modules: TypeAlias = dict[str, dict[str, Array]]

# PyTorch's names of arrays, in the order of its modules, and ours. Several of ours are concatenated on axis 0.
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
COUNT = "num_batches_tracked"  # PyTorch has it with running statistics, and we do not have it

# Usual names of each kind of layer, in lower case, without underscores and numbers.
NAMES = {
    "dense": ("dense", "fc", "lin", "linear"),
    "embedding": ("emb", "embed", "embedding", "positionembedding", "posemb", "posembed", "posembedding"),
    "conv": ("conv", "conv2d"),
    "conv_transpose": ("convtranspose", "convtranspose2d", "deconv", "deconv2d"),
    "batch_norm": ("batchnorm", "batchnorm1d", "batchnorm2d", "bn"),
    "group_norm": ("gn", "groupnorm"),
    "layer_norm": ("layernorm", "ln"),
}
# Kinds whose arrays can have the same names and shapes, and an entry that only the first of them has.
CONFUSABLE = {
    ("dense", "embedding"): "bias",
    ("conv", "conv_transpose"): None,
    ("batch_norm", "group_norm", "layer_norm"): "running_mean",
}


def read_modules(state: State) -> Modules:
    """The arrays in a state dict by module and entry, with numbered modules in the order 0, 2, 10."""
    named = load(state) if isinstance(state, str | os.PathLike) else state
    if not isinstance(named, Mapping):
        raise CheckpointError(f"expected a state dict or a file of one, got {describe(named)}")
    modules: Modules = {}
    faults = []
    for name, value in named.items():
        if not isinstance(name, str) or name.count(".") > MAX_DEPTH:
            faults.append(f"{repr(name)[:80]}: expected a str of at most {MAX_DEPTH} dots")
            continue
        prefix, _, entry = name.rpartition(".")
        parent = prefix.removesuffix("out_proj")
        if parent != prefix and f"{parent}in_proj_weight" in named:  # the output layer of an attention
            prefix, entry = parent.removesuffix("."), f"out_proj.{entry}"
        try:
            array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
        except (RuntimeError, TypeError, ValueError) as error:
            faults.append(f"{name[:80]!r}: expected a dtype and shape that NumPy supports: {str(error)[:200]}")
            continue
        if entry not in (*ENTRIES, COUNT):
            faults.append(f"{name[:80]!r}: expected an entry that our layers have, got {describe(array)}")
        modules.setdefault(prefix, {})[entry] = array
    raise_faults(faults)
    siblings = _find_siblings(modules)
    prefixes = sorted(modules, key=lambda prefix: [siblings[parent][name] for parent, name in _split(prefix)])
    return {prefix: modules[prefix] for prefix in prefixes}


def check_order(state: State, modules: Modules) -> None:
    """Raises CheckpointError if a file has sorted the names of modules, so that their order is unknown."""
    order = (*ENTRIES, COUNT)  # in a dict that was loaded from a file, a bias comes before its weight
    if isinstance(state, Mapping) and all([*names] == sorted(names, key=order.index) for names in modules.values()):
        return
    expected = "expected numbers, our layers' names, or a dict in order, because a file loses the order"
    groups = [names for names in _find_siblings(modules).values() if len(names) > 1 and not _are_numbers(names)]
    raise_faults([f"{', '.join(names)}: {expected}" for names in groups])


def check_numbers(modules: Modules, where: str) -> None:
    """Raises CheckpointError if numbers in names contradict the order, for example conv10 before conv2.

    Numbers may decrease, as in the decoder of a U-Net, if the shapes differ and so prove the order.
    """
    layouts: dict[tuple[str, str], list[object]] = {}
    for prefix, arrays in modules.items():
        layout = sorted((entry, describe(array)) for entry, array in arrays.items())
        for parent, name in _split(prefix):
            rest = prefix.removeprefix(join(".", parent, name))
            layouts.setdefault((parent, name), []).append((rest, layout))
    faults, last = [], dict[tuple[str, str, str], tuple[int, str]]()
    for (parent, name), below in layouts.items():
        if found := NUMBERED.fullmatch(name):
            group, number, path = (parent, found["stem"], repr(below)), int(found["number"]), join(".", parent, name)
            last_number, last_path = last.get(group, (0, ""))
            if number < last_number:
                order = f"{path!r} before {last_path!r}, because the shapes match both orders"
                faults.append(f"{where}: expected {order}, got the reverse")
            last[group] = number, path
    raise_faults(faults)


def guess_kind(name: str) -> str:
    """The kind of layer that the last part of a name means, or an empty string."""
    plain = name.replace("/", ".").rpartition(".")[2].lower().replace("_", "").rstrip("0123456789")
    return next((kind for kind, names in NAMES.items() if plain in names), "")


def _find_siblings(prefixes: Iterable[str]) -> dict[str, dict[str, int]]:
    """For each parent, the positions of its children: their numbers if all are numbers, otherwise their order."""
    siblings: dict[str, dict[str, int]] = {}
    for prefix in prefixes:
        for parent, name in _split(prefix):
            names = siblings.setdefault(parent, {})
            names.setdefault(name, len(names))
    return {parent: {name: int(name) for name in n} if _are_numbers(n) else n for parent, n in siblings.items()}


def _are_numbers(names: Iterable[str]) -> bool:
    return all(name.isdecimal() and len(name) < 10 for name in names)  # `int` fails for thousands of digits


def _split(prefix: str) -> list[tuple[str, str]]:
    """The names in the prefix, each after the part of the prefix before it."""
    names = prefix.split(".")
    return [(".".join(names[:i]), name) for i, name in enumerate(names)]


def join(separator: str, path: str, name: str) -> str:
    """`name` below `path`, which is empty for the net or the module itself."""
    return f"{path}{separator}{name}" if path else name


def raise_faults(faults: list[str]) -> None:
    """Raises CheckpointError that lists the faults, if there are any."""
    if faults:
        raise CheckpointError(list_faults("the weights do not match", faults))
