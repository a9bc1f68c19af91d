"""Hugging Face's .safetensors, through their package. Ours have a checksum, which the format itself lacks."""

from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

from fnn.checks.arrays import Array
from fnn.files.allowed import make_array, read_bytes
from fnn.files.trees import flatten
from fnn.tree import Tree

# The format's names of the dtypes that NumPy has too, with NumPy's names.
DTYPES = {"BOOL": "b1", "F16": "f2", "F32": "f4", "F64": "f8"}
DTYPES |= {f"{kind}{8 * size}": f"{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}
CHECKSUM = "crc32"  # its name in the file's metadata


def encode(tree: Tree) -> list[Any]:
    """The content of a file: the arrays in C order and little-endian, as the format requires."""
    package = _import_package()
    # The package writes an array's memory as it is and calls it C order, so convert first.
    arrays = {
        path: np.asarray(leaf, leaf.dtype.newbyteorder("<"), order="C")
        for path, leaf in flatten(tree, DTYPES.values()).items()
    }
    if "__metadata__" in arrays:
        raise ValueError("'__metadata__': expected another name, because the format uses this one")
    return [package.numpy.save(arrays, {CHECKSUM: _compute_checksum(arrays)})]


def decode(file: BinaryIO, size: int) -> dict[str, Array]:
    """The arrays by path, in the order of the file. Raises ValueError if there is a checksum and it is wrong."""
    import json

    package = _import_package()
    try:
        with package.safe_open(file.name, "np"):  # checks everything but the numbers
            start = 8 + int.from_bytes(file.read(8), "little")
    except package.SafetensorError as error:
        raise ValueError(f"damaged, or not a .safetensors file: {str(error)[:200]}") from error
    header = json.loads(file.read(start - 8), object_pairs_hook=_check_names)
    metadata = header.pop("__metadata__", None) or {}
    arrays = {}
    for path, entry in header.items():
        code, shape, (begin, end) = (entry[key] for key in ("dtype", "shape", "data_offsets"))
        if code not in DTYPES:
            raise ValueError(f"{path[:80]!r}: expected dtype {', '.join(DTYPES)}, got {code}")
        file.seek(start + begin)
        arrays[path] = make_array(read_bytes(file, end - begin), np.dtype(f"<{DTYPES[code]}"), tuple(shape))
    if CHECKSUM in metadata and metadata[CHECKSUM] != _compute_checksum(arrays):
        raise ValueError("damaged: the checksum in the metadata does not match the arrays")
    return arrays


def _import_package() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ValueError("the package safetensors is missing; run pip install '.[safetensors]'") from None
    return safetensors


def _compute_checksum(arrays: dict[str, Array]) -> str:
    """The CRC-32 of names, dtypes, shapes and numbers. The order of the arrays does not matter."""
    checksum = 0
    for path in sorted(arrays):
        leaf = arrays[path]
        checksum = crc32(f"{path} {leaf.dtype.str} {leaf.shape} ".encode(), checksum)
        checksum = crc32(leaf.reshape(-1).view(np.uint8).data, checksum)
    return f"{checksum:08x}"


def _check_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The dict of these pairs. Raises ValueError if a name appears twice."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("damaged, or not a .safetensors file: expected each name once, got one twice")
    return entries
