"""The .safetensors of Hugging Face, by their package; ours have a checksum, as the format itself has none."""

from typing import Any
from zlib import crc32

import numpy as np

from fnn.files.arrays import array
from fnn.files.flat import flatten
from fnn.op import Array
from fnn.tree import Tree

DTYPES = {"BOOL": "b1", "F16": "f2", "F32": "f4", "F64": "f8"}
DTYPES |= {f"{kind}{8 * size}": f"{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}
"""What the format and NumPy both have, by its name for it, as NumPy spells it."""

CHECKSUM = "crc32"
"""The name in the file's metadata."""


def encode(tree: Tree) -> list[Any]:
    """The arrays in C order, least significant byte first, as the format has them."""
    package = _package()
    # The package writes any array's memory as it lies, and calls it C order.
    arrays = {
        path: np.asarray(leaf, leaf.dtype.newbyteorder("<"), order="C")
        for path, leaf in flatten(tree, DTYPES.values()).items()
    }
    if "__metadata__" in arrays:
        raise ValueError("'__metadata__' is a name that the format has taken; wanted another one")
    return [package.numpy.save(arrays, {CHECKSUM: _checksum(arrays)})]


def decode(data: bytes) -> dict[str, Array]:
    """The arrays by their paths, in the order of the file, once their checksum is right, if there is one."""
    import json

    package = _package()
    try:
        tensors = dict(package.deserialize(data))
    except package.SafetensorError as error:
        raise ValueError(f"damaged, or no .safetensors file: {str(error)[:200]}") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")], object_pairs_hook=_distinct)
    metadata = header.pop("__metadata__", None) or {}
    arrays = {}
    for path in header:
        code, shape, content = (tensors[path][key] for key in ("dtype", "shape", "data"))
        if code not in DTYPES:
            raise ValueError(f"{path[:80]!r} is of dtype {code}; wanted {', '.join(DTYPES)}")
        arrays[path] = array(content, np.dtype(f"<{DTYPES[code]}"), tuple(shape))
    if CHECKSUM in metadata and metadata[CHECKSUM] != _checksum(arrays):
        raise ValueError("damaged: the checksum in its metadata is not that of its arrays")
    return arrays


def _package() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ValueError("needs safetensors: install fnn[safetensors]") from None
    return safetensors


def _checksum(arrays: dict[str, Array]) -> str:
    """The CRC-32 of all that the arrays are, whatever order they are in."""
    checksum = 0
    for path in sorted(arrays):
        leaf = arrays[path]
        checksum = crc32(f"{path} {leaf.dtype.str} {leaf.shape} ".encode(), checksum)
        checksum = crc32(leaf.reshape(-1).view(np.uint8).data, checksum)
    return f"{checksum:08x}"


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("damaged, or no .safetensors file: a name is there twice")
    return entries
