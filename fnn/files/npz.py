"""NumPy's .npz: a zip of arrays. Nothing is unpickled, and nothing inflates to much more than the file's size."""

import re
import zlib
from io import BytesIO
from typing import Any

import numpy as np

from fnn.checks.arrays import Array
from fnn.files.allowed import CODES, MAX_RATIO, describe_start, limit_inflated, make_array
from fnn.files.trees import flatten
from fnn.tree import Tree

# The dict literal before an array's numbers, with its three entries in any order.
HEADER = re.compile(
    r"\{\s*(?:'(?:descr'\s*:\s*'(?P<dtype>[^']*)'|fortran_order'\s*:\s*(?P<fortran>True|False)|"
    r"shape'\s*:\s*\((?P<shape>[\d\s,]*)\))\s*(?:,\s*)?){3}\}\s*"
)


def encode(tree: Tree) -> list[Any]:
    """The content of a file for `np.load`: arrays by path, in C order, or in Fortran order if they already are."""
    from zipfile import ZipFile

    file = BytesIO()
    with ZipFile(file, "w") as archive:
        for path, leaf in flatten(tree, CODES).items():
            with archive.open(f"{path}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, leaf, allow_pickle=False)
    return [file.getbuffer()]


def decode(data: bytes) -> dict[str, Array]:
    """The arrays by path in a file by `encode`, `np.savez` or `np.savez_compressed`."""
    from zipfile import BadZipFile

    if not data.startswith(b"PK"):
        raise ValueError(f"expected a zip of arrays, got {describe_start(data)}")
    try:
        return _read_zip(data)
    except (BadZipFile, EOFError, LookupError, OSError, RuntimeError, ValueError, zlib.error) as error:
        raise ValueError(f"damaged, or not a .npz file: {str(error)[:200]}") from error


def _read_zip(data: bytes) -> dict[str, Array]:
    from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

    arrays: dict[str, Array] = {}
    with ZipFile(BytesIO(data)) as archive:
        members, end = archive.infolist(), data.rfind(b"PK\5\6")
        start = min((member.header_offset for member in members), default=archive.start_dir)
        if start or int.from_bytes(data[end + 10 : end + 12], "little") != min(len(members), 0xFFFF):
            raise ValueError("expected a list of all arrays, got a shorter or longer one")
        if sum(member.compress_size for member in members) > len(data):
            raise ValueError("expected arrays with bytes of their own, got shared bytes")
        if sum(member.file_size for member in members) > limit_inflated(len(data)):
            raise ValueError(f"expected arrays of at most {MAX_RATIO} times the file's size, got more; use np.savez")
        for member in members:
            path = member.filename.removesuffix(".npy")
            try:
                if path == member.filename or member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                    raise ValueError("expected a .npy file, stored or deflated, got another file or compression")
                if path in arrays:
                    raise ValueError("expected this name once, got it twice")
                with archive.open(member) as file:
                    arrays[path] = _read_npy(file.read(member.file_size))  # reads no more, even if it inflates to more
            except ValueError as error:
                raise ValueError(f"{path[:80]!r}: {error}") from error
    return arrays


def _read_npy(content: bytes) -> Array:
    """The array in a .npy file: a magic number, a version, the header's length, the header, the numbers."""
    if content[:6] != b"\x93NUMPY" or content[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError(f"expected an array, got {describe_start(content)}")
    start = 10 if content[6] == 1 else 12
    end = start + int.from_bytes(content[8:start], "little")
    header = HEADER.fullmatch(content[start : min(end, 10_000)].decode("latin-1"))
    if header is None or None in header.groups():
        raise ValueError("expected the header of an array of numbers, got another one")
    dtype, fortran, shape = header.group("dtype", "fortran", "shape")
    if dtype[:1] not in ("<", ">", "|") or dtype[1:] not in CODES:
        raise ValueError(f"expected bools, integers, floats or complex numbers, got dtype {dtype[:20]!r}")
    sizes = tuple(int(size) for size in shape.split(",") if size.strip())
    return make_array(memoryview(content)[end:], np.dtype(dtype), sizes, "F" if fortran == "True" else "C")
