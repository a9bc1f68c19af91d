"""`from_torch` and `to_torch`: weights of PyTorch's modules as params, and the way back, through state dicts.

A layer is a dict of arrays in the params; a module is a prefix of names in a state dict. They are paired by name if all
names agree (`block/conv1` and `block.conv1`), otherwise by order, as in `nn.Sequential`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fnn.checks.arrays import Array
from fnn.checks.errors import describe
from fnn.op import Params
from fnn.torch import state_dict
from fnn.torch.state_dict import CONFUSABLE, COUNT, ENTRIES, Modules, State, join, raise_faults

# Kinds with the same matrices in PyTorch. All others are (in, out) here and (out, in) in PyTorch.
NOT_TRANSPOSED = ("embedding", "position_embedding", "layer_norm")


class TorchLayer(NamedTuple):
    """A dict of arrays in the params."""

    path: str
    numbers: str  # its prefix in nested Sequentials
    arrays: dict[str, Array]
    transposed: tuple[bool, ...]  # whether PyTorch transposes its matrices; both if only a module's shapes can tell


def from_torch(state: State, like: Params) -> Params:
    """Returns the weights of a PyTorch module as params with the structure, shapes, dtypes and memory orders of `like`.

    `state` is the module's state dict, of tensors or arrays, or the path of a file of one that `load` takes, such as
    .safetensors. PyTorch is not needed. Layers and modules with weights are paired by name if all names agree
    (`block/conv1` and `block.conv1`; `named` gives a layer a name). Otherwise they are paired in order: numbered
    modules as 0, 2, 10, others as they come in the dict.

    Raises CheckpointError that lists what does not match: numbers of layers, entries, shapes and dtypes; a name of
    another kind, as `deconv` for a `conv`, or `fc` for an embedding, if the arrays could be of both; a name of another
    layer; `conv10` before `conv2` if they could be swapped; `state` or `like` whose order was lost in a file.

    Where names and shapes match, mistakes cannot be detected: another order of equal modules, another kind of layer
    with a name that does not say it, a square matrix stored as (in, out), and other hyper-parameters such as stride,
    padding, groups, heads and eps. So compare an output with the module's.
    """
    layers, modules = _find_layers(like), state_dict.read_modules(state)
    found = {
        layer.path: _from_entries(layer.arrays, modules[prefix], transposed)
        for layer, prefix, transposed in _pair(layers, modules, state)
    }
    return _replace_layers(like, found, "")


def _replace_layers(node: Params, found: dict[str, Params], path: str) -> Params:
    """`node`, the part of a net's params at `path`, with the layers in `found`."""
    if path in found:
        return found[path]
    return {name: _replace_layers(child, found, join("/", path, name)) for name, child in node.items()}


def to_torch(params: Params, like: State | None = None) -> dict[str, Array]:
    """Returns the state dict, with arrays in C order, of the PyTorch module that has these params.

    Without `like`, the names are those of nested `nn.Sequential`s with one module for each of our operators, for
    example a Flatten for each `flatten`. They count the dicts in `params`, so params from a file without empty dicts
    need a `like`, here or in `load`. With `like`, the module's own state dict or a file of it, the names come from
    there; layers and modules are paired as in `from_torch`, with the same errors and limits. Load the result with
    `module.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch(params).items()})`.
    """
    layers = _find_layers(params)
    if like is None:
        _check_order(layers)
        modules: Modules = {layer.numbers: {} for layer in layers}
        raise_faults([_describe_ambiguous(layer) for layer in layers if len(layer.transposed) > 1])
        pairs = [(layer, layer.numbers, layer.transposed[0]) for layer in layers]
    else:
        modules = state_dict.read_modules(like)
        pairs = _pair(layers, modules, like)
    state: dict[str, Array] = {}
    for layer, prefix, transposed in pairs:
        entries = _to_entries(layer.arrays, transposed)
        if "running_mean" in entries:
            entries[COUNT] = modules[prefix].get(COUNT, np.array(0))
        state |= {join(".", prefix, entry): np.array(array, order="C") for entry, array in entries.items()}
    return state


def _find_layers(params: Params) -> list[TorchLayer]:
    """The dicts of arrays, in their order. Raises CheckpointError for arrays that PyTorch's modules do not have."""
    faults: list[str] = []
    layers = list(_iterate_layers(params if isinstance(params, dict) else {"params": params}, "", "", faults))
    raise_faults(faults)
    return layers


def _iterate_layers(node: Params, path: str, numbers: str, faults: list[str]) -> Iterator[TorchLayer]:
    """The layers in `node`, the part of a net's params at `path`. Adds what is wrong with them to `faults`."""
    arrays = {name: child for name, child in node.items() if not isinstance(child, dict)}
    if not arrays:
        for i, (name, child) in enumerate(node.items()):
            yield from _iterate_layers(child, join("/", path, name), join(".", numbers, str(i)), faults)
        return
    known = {name for names in ENTRIES.values() if _have_entry(arrays, names) for name in names}
    for name in [name for name in node if name not in known]:
        expected = "expected an entry that PyTorch's modules have"
        faults.append(f"{join('/', path, name)!r}: {expected}, got {describe(node[name])}")
    yield TorchLayer(path, numbers, arrays, _find_transposed(path, arrays))


def _have_entry(arrays: dict[str, Any], names: tuple[str, ...]) -> bool:
    """Whether there are arrays of all these names. Several must be alike, so that they can be concatenated."""
    values: list[Any] = [arrays.get(name) for name in names]
    if not all(isinstance(array, np.ndarray) for array in values):
        return False
    return len(names) == 1 or (np.ndim(values[0]) > 0 and len({np.shape(array) for array in values}) == 1)


def _find_transposed(path: str, arrays: dict[str, Any]) -> tuple[bool, ...]:
    """Whether PyTorch transposes the layer's matrices: both answers if neither its name nor a bias tells."""
    kind, w, b = path.rpartition("/")[2].rstrip("0123456789"), arrays.get("w"), arrays.get("b")
    if w is None or np.ndim(w) != 2 or kind == "dense" or (b is not None and np.ndim(b) == 1):
        return (True,)
    return (False,) if kind in NOT_TRANSPOSED or b is not None else (True, False)


def _describe_ambiguous(layer: TorchLayer) -> str:
    expected = "a layer named dense1 or embedding1, because this array could be of either kind"
    return f"{join('/', layer.path, 'w')!r}: expected {expected}, got {describe(layer.arrays['w'])}"


def _pair(layers: list[TorchLayer], modules: Modules, state: State) -> list[tuple[TorchLayer, str, bool]]:
    """Each layer with its module's prefix, and whether its matrices are transposed there."""
    names = [layer.path.replace("/", ".") for layer in layers]
    prefixes = names if sorted(names) == sorted(modules) else list(modules)
    if len(prefixes) != len(layers):
        expected = f"modules for {len(layers)} layers with weights ({', '.join(layer.path for layer in layers)})"
        raise_faults([f"expected {expected}, got {len(prefixes)} ({', '.join(prefixes)})"])
    if prefixes is not names:
        state_dict.check_order(state, modules)
        state_dict.check_numbers(modules, "the state dict")
        _check_order(layers)
    pairs, faults = [], []
    for layer, prefix in zip(layers, prefixes, strict=True):
        misfits = {way: _find_misfits(layer, prefix, modules[prefix], way) for way in layer.transposed}
        matches = [way for way in layer.transposed if not misfits[way]]
        if len(matches) > 1:
            faults.append(_describe_ambiguous(layer))
        elif matches:
            pairs.append((layer, prefix, matches[0]))
            faults += _find_wrong_name(layer, prefix, modules[prefix], names)
        else:
            faults += misfits[layer.transposed[0]]
    raise_faults(faults)
    return pairs


def _check_order(layers: list[TorchLayer]) -> None:
    """Raises CheckpointError if the params are not in the net's order, as after loading a .safetensors file."""
    paths: dict[str, list[str]] = {}  # by dtype, because such a file sorts by dtype first
    for layer in layers:
        for name, array in layer.arrays.items():
            paths.setdefault(array.dtype.str, []).append(join("/", layer.path, name))
    # Layers begin with "w", so "b" before "w" shows alphabetical order. Layers with one array do not tell.
    several = [[*layer.arrays] for layer in layers if len(layer.arrays) > 1]
    if len(layers) > 1 and several and all(names == sorted(names) for names in (*several, *paths.values())):
        raise_faults(["the params: expected the net's order, got alphabetical order; load them with like=..."])
    state_dict.check_numbers({layer.path.replace("/", "."): layer.arrays for layer in layers}, "the params")


def _find_wrong_name(layer: TorchLayer, prefix: str, entries: dict[str, Array], names: list[str]) -> list[str]:
    """A fault if the module, although its shapes match, has the name of another kind or of another layer in the net."""
    ours, theirs = state_dict.guess_kind(layer.path), state_dict.guess_kind(prefix)
    confusable = [kinds for kinds, proof in CONFUSABLE.items() if proof not in entries]
    if ours != theirs and any({ours, theirs} <= {*kinds} for kinds in confusable):
        fix = f"rename it if it is of kind {ours}"
        return [f"{prefix!r}: expected a name of kind {ours} for {layer.path!r}, got one of {theirs}; {fix}"]
    # Numbered names are no evidence: PyTorch's users count from 0, and we count from 1.
    numbered = any(state_dict.NUMBERED.fullmatch(name) for name in prefix.split("."))
    if prefix in names and prefix != layer.path.replace("/", ".") and not numbered:
        return [f"{prefix!r}: expected the module for {layer.path!r} here, got the name of another layer"]
    return []


def _find_misfits(layer: TorchLayer, prefix: str, entries: dict[str, Array], transposed: bool) -> list[str]:
    """Faults for the module's entries that differ from the layer's arrays."""
    ours, faults = _to_entries(layer.arrays, transposed), []
    owner = repr(layer.path) if layer.path else "the net"
    for entry in ours | entries:
        expected, got = (describe(e[entry]) if entry in e else "nothing" for e in (ours, entries))
        if expected != got and entry != COUNT:
            faults.append(f"{join('.', prefix, entry)!r}: expected {expected} for {owner}, got {got}")
    return faults


def _to_entries(arrays: dict[str, Array], transposed: bool) -> dict[str, Array]:
    """The layer's arrays as PyTorch stores them."""
    entries = {}
    for entry, names in ENTRIES.items():
        if names[0] in arrays:
            parts = [_transpose(arrays[name], transposed) for name in names]
            entries[entry] = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return entries


def _from_entries(arrays: dict[str, Array], entries: dict[str, Array], transposed: bool) -> dict[str, Array]:
    """Copies of the module's arrays, like the layer's `arrays`."""
    copies = {name: np.empty_like(array) for name, array in arrays.items()}
    for entry, names in ENTRIES.items():
        if names[0] in arrays:
            parts = np.split(entries[entry], len(names)) if len(names) > 1 else [entries[entry]]
            for name, part in zip(names, parts, strict=True):
                copies[name][...] = _transpose(part, transposed)
    return copies


def _transpose(array: Array, transposed: bool) -> Array:
    return array.T if transposed and array.ndim == 2 else array
