"""NumPy's .npz: a zip of arrays, of which nothing is unpickled, and nothing inflated beyond a few times the file."""

import re
import zlib
from io import BytesIO
from typing import Any

import numpy as np

from fnn.files.arrays import CODES, array
from fnn.files.flat import flatten
from fnn.op import Array
from fnn.tree import Tree

INFLATED, SMALL = 10, 1 << 20
"""How many times the file's size its arrays may have, and how many bytes whatever it is; weights seldom halve."""

HEADER = re.compile(
    r"\{\s*(?:'(?:descr'\s*:\s*'(?P<dtype>[^']*)'|fortran_order'\s*:\s*(?P<fortran>True|False)|"
    r"shape'\s*:\s*\((?P<shape>[\d\s,]*)\))\s*(?:,\s*)?){3}\}\s*"
)
"""The dict literal before an array's numbers: its three entries, in any order."""


def encode(tree: Tree) -> list[Any]:
    """What `np.load` reads as a dict from paths to arrays; in C order, or Fortran order where they have that."""
    from zipfile import ZipFile

    file = BytesIO()
    with ZipFile(file, "w") as archive:
        for path, leaf in flatten(tree, CODES).items():
            with archive.open(f"{path}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, leaf, allow_pickle=False)
    return [file.getbuffer()]


def decode(data: bytes) -> dict[str, Array]:
    """The arrays by their paths, from `encode`, `np.savez` or `np.savez_compressed`."""
    from zipfile import BadZipFile

    if not data.startswith(b"PK"):
        begins = f"begins with {data[:8]!r}" if data else "is empty"
        raise ValueError(f"a zip of arrays wanted, but the file {begins}")
    try:
        return _arrays(data)
    except (BadZipFile, EOFError, LookupError, OSError, RuntimeError, ValueError, zlib.error) as error:
        raise ValueError(f"damaged, or no .npz file: {str(error)[:200]}") from error


def _arrays(data: bytes) -> dict[str, Array]:
    from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

    arrays: dict[str, Array] = {}
    with ZipFile(BytesIO(data)) as archive:
        members, end = archive.infolist(), data.rfind(b"PK\5\6")
        start = min((member.header_offset for member in members), default=archive.start_dir)
        if start or int.from_bytes(data[end + 10 : end + 12], "little") != min(len(members), 0xFFFF):
            raise ValueError("a list of arrays that is too short, or too long")
        if sum(member.compress_size for member in members) > len(data):
            raise ValueError("arrays that share bytes")
        if sum(member.file_size for member in members) > max(INFLATED * len(data), SMALL):
            raise ValueError(f"arrays that inflate to more than {INFLATED} times the file; wanted as np.savez has them")
        for member in members:
            path = member.filename.removesuffix(".npy")
            if path == member.filename or member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                raise ValueError(f"{path[:80]!r} is no array, or is compressed in a way that NumPy does not know")
            if path in arrays:
                raise ValueError(f"{path[:80]!r} is there twice")
            with archive.open(member) as file:
                content = file.read(member.file_size)  # and no more, whatever it inflates to
            try:
                arrays[path] = _array(content)
            except ValueError as error:
                raise ValueError(f"{path[:80]!r}: {error}") from error
    return arrays


def _array(content: bytes) -> Array:
    """The array in a .npy file: a magic number, a version, the header's length, the header, the numbers."""
    if content[:6] != b"\x93NUMPY" or content[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError(f"an array wanted, but it begins with {content[:8]!r}")
    start = 10 if content[6] == 1 else 12
    end = start + int.from_bytes(content[8:start], "little")
    header = HEADER.fullmatch(content[start : min(end, 10_000)].decode("latin-1"))
    if header is None or None in header.groups():
        raise ValueError("a header that no array of numbers has")
    dtype, fortran, shape = header.group("dtype", "fortran", "shape")
    if dtype[:1] not in ("<", ">", "|") or dtype[1:] not in CODES:
        raise ValueError(f"an array of dtype {dtype[:20]!r}; wanted bools, integers, floats or complex numbers")
    sizes = tuple(int(size) for size in shape.split(",") if size.strip())
    return array(memoryview(content)[end:], np.dtype(dtype), sizes, "F" if fortran == "True" else "C")
