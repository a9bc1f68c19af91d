"""Weights from PyTorch's modules and for them, by way of their state dicts; PyTorch itself is not needed.

A layer is a dict of arrays in our params, and a prefix of names in a state dict. Layers and modules go together by name
where all of their names agree, `block/conv1` and `block.conv1`, and else by their order, as in `nn.Sequential`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fnn.checks.errors import describe
from fnn.op import Array, Params
from fnn.torch.state_dict import (
    COUNT,
    ENTRIES,
    NUMBERED,
    Modules,
    State,
    check_numbers,
    check_order,
    contradict,
    join,
    kind_of_name,
    modules_of,
    refuse,
)

ALIKE = ("embedding", "position_embedding", "layer_norm")
"""The kinds whose matrices are the same here and there; those of all others are (in, out) here and (out, in) there."""


class Layer(NamedTuple):
    """A dict of arrays in our params: where it is, by names and by numbers, and whether its matrices may be turned."""

    path: str
    place: str
    arrays: dict[str, Array]
    readings: tuple[bool, ...]


def from_torch(state: State, like: Params) -> Params:
    """Returns the weights of a PyTorch module as params with the structure, shapes, dtypes and memory orders of `like`.

    `state` is the module's state dict, of tensors or arrays, or the path of a file of one that `load` takes, such as
    .safetensors. PyTorch is not needed. Layers and modules with weights are paired by name if all names agree
    (`block/conv1` and `block.conv1`; `named` gives a layer a name). Otherwise they are paired in order: numbered
    modules as 0, 2, 10, others as they come in the dict.

    Raises CheckpointError that lists what does not fit: numbers of layers, entries, shapes and dtypes; a name that says
    another kind, as `deconv` for a `conv`, or `fc` for an embedding, where both could have these arrays; a name of
    another layer; `conv10` before `conv2` if they could be swapped; `state` or `like` whose order a file has lost.

    These mistakes cannot be detected, because names and shapes fit. Compare an output with the module's:

    - two modules of the same shapes whose order in the dict is not the order in which the net uses them;
    - Conv2d for `conv_transpose` or the reverse, if the numbers of channels are equal and no name tells;
    - LayerNorm of one axis for `group_norm` or the reverse, and nn.Embedding for `position_embedding`, likewise;
    - a square matrix that somebody stored as (in, out) under PyTorch's names;
    - hyper-parameters: stride, padding, groups, heads, eps.
    """
    layers, modules = _layers(like), modules_of(state)
    found = {
        layer.path: _ours(layer.arrays, modules[prefix], turned)
        for layer, prefix, turned in _paired(layers, modules, state)
    }
    return _placed(found, like, "")


def _placed(found: dict[str, Params], node: Params, path: str) -> Params:
    """`node`, the part of a net's params at `path`, with the layers of `found`."""
    if path in found:
        return found[path]
    return {name: _placed(found, child, join("/", path, name)) for name, child in node.items()}


def to_torch(params: Params, like: State | None = None) -> dict[str, Array]:
    """Returns the state dict, with arrays in C order, of the PyTorch module that has these params.

    Without `like`, the names are those of nested `nn.Sequential`s with a module for each of our operators and no other,
    for example a Flatten for each `flatten`. They count the dicts in `params`, so params from a file without empty
    dicts need a `like`, here or in `load`. With `like`, the module's own state dict or a file of it, names are taken
    from there; layers and modules are paired as in `from_torch`, with the same limits. Load the result by

        module.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch(params).items()})

    Raises CheckpointError that lists what does not fit.
    """
    layers = _layers(params)
    if like is None:
        _check_order_of_params(layers)
        modules: Modules = {layer.place: {} for layer in layers}
        refuse([_ambiguous(layer) for layer in layers if len(layer.readings) > 1])
        pairs = [(layer, layer.place, layer.readings[0]) for layer in layers]
    else:
        modules = modules_of(like)
        pairs = _paired(layers, modules, like)
    state: dict[str, Array] = {}
    for layer, prefix, turned in pairs:
        entries = _theirs(layer.arrays, turned)
        if "running_mean" in entries:
            entries[COUNT] = modules[prefix].get(COUNT, np.array(0))
        state |= {join(".", prefix, entry): np.array(array, order="C") for entry, array in entries.items()}
    return state


def _layers(params: Params) -> list[Layer]:
    """The dicts of arrays, in their order."""
    faults: list[str] = []
    layers = list(_layers_of(params if isinstance(params, dict) else {"params": params}, "", "", faults))
    refuse(faults)
    return layers


def _layers_of(node: Params, path: str, place: str, faults: list[str]) -> Iterator[Layer]:
    """The layers in `node`, the part of a net's params at `path`; adds what is wrong with them to `faults`."""
    arrays = {name: child for name, child in node.items() if not isinstance(child, dict)}
    if not arrays:
        for i, (name, child) in enumerate(node.items()):
            yield from _layers_of(child, join("/", path, name), join(".", place, str(i)), faults)
        return
    known = {name for names in ENTRIES.values() if _is_run(arrays, names) for name in names}
    faults.extend(
        f"{join('/', path, name)!r}, {describe(child)}, has no place in a module of PyTorch's"
        for name, child in node.items()
        if name not in known
    )
    yield Layer(path, place, arrays, _readings(path, arrays))


def _is_run(arrays: dict[str, Any], names: tuple[str, ...]) -> bool:
    """Whether all of the names are of arrays, which can lie one after the other if they are several."""
    few: list[Any] = [arrays.get(name) for name in names]
    if not all(isinstance(array, np.ndarray) for array in few):
        return False
    return len(names) == 1 or (np.ndim(few[0]) > 0 and len({np.shape(array) for array in few}) == 1)


def _readings(path: str, arrays: dict[str, Any]) -> tuple[bool, ...]:
    """Whether PyTorch has the layer's matrices turned: one answer, or both if neither its name nor a bias can tell."""
    kind, w, b = path.rpartition("/")[2].rstrip("0123456789"), arrays.get("w"), arrays.get("b")
    if w is None or np.ndim(w) != 2 or kind == "dense" or (b is not None and np.ndim(b) == 1):
        return (True,)
    return (False,) if kind in ALIKE or b is not None else (True, False)


def _ambiguous(layer: Layer) -> str:
    shown = f"{join('/', layer.path, 'w')!r}, {describe(layer.arrays['w'])},"
    return f"{shown} may be of a dense layer or of an embedding: called dense1 or embedding1 it would say"


def _paired(layers: list[Layer], modules: Modules, state: State) -> list[tuple[Layer, str, bool]]:
    """Each layer with its module's prefix, and whether its matrices are turned there."""
    names = [layer.path.replace("/", ".") for layer in layers]
    prefixes = names if sorted(names) == sorted(modules) else list(modules)
    if len(prefixes) != len(layers):
        here, there = ", ".join(layer.path for layer in layers), ", ".join(prefixes)
        refuse([f"{len(layers)} layers with weights ({here}) for {len(prefixes)} modules ({there})"])
    if prefixes is not names:
        check_order(state, modules)
        check_numbers({prefix: _layout(entries) for prefix, entries in modules.items()}, "the state dict")
        _check_order_of_params(layers)
    pairs, faults = [], []
    for layer, prefix in zip(layers, prefixes, strict=True):
        misfits = {turned: _misfits(layer, prefix, modules[prefix], turned) for turned in layer.readings}
        fitting = [turned for turned in layer.readings if not misfits[turned]]
        if len(fitting) > 1:
            faults.append(_ambiguous(layer))
        elif fitting:
            pairs.append((layer, prefix, fitting[0]))
            faults += _misnamed(layer, prefix, modules[prefix], names)
        else:
            faults += misfits[layer.readings[0]]
    refuse(faults)
    return pairs


def _check_order_of_params(layers: list[Layer]) -> None:
    """Raises the CheckpointError for params whose order is not the net's, as those from a .safetensors file."""
    paths: dict[str, list[str]] = {}  # by dtype, because such a file sorts by dtype first
    for layer in layers:
        for name, array in layer.arrays.items():
            paths.setdefault(array.dtype.str, []).append(join("/", layer.path, name))
    # Layers begin with their weights, and "b" is before "w" in the alphabet. Weights alone do not tell.
    several = [[*layer.arrays] for layer in layers if len(layer.arrays) > 1]
    if len(layers) > 1 and several and all(names == sorted(names) for names in (*several, *paths.values())):
        refuse(["the params are in alphabetical order, as from a file, not in the net's; load them with like=..."])
    check_numbers({layer.path.replace("/", "."): _layout(layer.arrays) for layer in layers}, "the params")


def _layout(arrays: dict[str, Array]) -> list[tuple[str, str]]:
    return sorted((name, describe(array)) for name, array in arrays.items())


def _misnamed(layer: Layer, prefix: str, entries: dict[str, Array], names: list[str]) -> list[str]:
    """What is wrong if a module's name says that it is another layer of the net, or of another kind, and it fits."""
    ours, theirs = kind_of_name(layer.path), kind_of_name(prefix)
    if contradict(ours, theirs, entries):
        return [f"{prefix!r} is named like {theirs}, wanted {ours} for {layer.path!r}; if it is that, rename it"]
    numbered = any(NUMBERED.fullmatch(name) for name in prefix.split("."))  # PyTorch's users begin at 0, and we at 1
    if prefix in names and prefix != layer.path.replace("/", ".") and not numbered:
        return [f"{prefix!r} stands where {layer.path!r} does in the net, but has the name of another layer"]
    return []


def _misfits(layer: Layer, prefix: str, entries: dict[str, Array], turned: bool) -> list[str]:
    """What of the module is not as the layer would be there."""
    wanted, faults = _theirs(layer.arrays, turned), []
    whose = repr(layer.path) if layer.path else "the net"
    for entry in [*wanted, *(entry for entry in entries if entry not in wanted and entry != COUNT)]:
        name = f"{join('.', prefix, entry)!r}"
        if entry not in entries:
            faults.append(f"{name} is missing, wanted {describe(wanted[entry])} for {whose}")
        elif entry not in wanted:
            faults.append(f"{name} is unexpected, {describe(entries[entry])}, which {whose} does not have")
        elif describe(entries[entry]) != describe(wanted[entry]):
            faults.append(f"{name} is {describe(entries[entry])}, wanted {describe(wanted[entry])} for {whose}")
    return faults


def _theirs(arrays: dict[str, Array], turned: bool) -> dict[str, Array]:
    """The layer's arrays as PyTorch has them."""
    return {
        entry: np.concatenate([_turned(arrays[name], turned) for name in names])
        if len(names) > 1
        else _turned(arrays[names[0]], turned)
        for entry, names in ENTRIES.items()
        if names[0] in arrays
    }


def _ours(arrays: dict[str, Array], entries: dict[str, Array], turned: bool) -> dict[str, Array]:
    """The module's arrays as copies like the layer's `arrays`."""
    ours = {name: np.empty_like(array) for name, array in arrays.items()}
    for entry, names in ENTRIES.items():
        if names[0] in arrays:
            parts = np.split(entries[entry], len(names)) if len(names) > 1 else [entries[entry]]
            for name, part in zip(names, parts, strict=True):
                ours[name][...] = _turned(part, turned)
    return ours


def _turned(array: Array, turned: bool) -> Array:
    return array.T if turned and array.ndim == 2 else array
