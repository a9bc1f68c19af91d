"""NumPy's .npz: a zip of arrays. Nothing is unpickled, and nothing inflates to much more than the file's size."""

import re
import zlib
from io import BytesIO
from typing import IO, Any, BinaryIO

import numpy as np

from fnn.checks.arrays import Array
from fnn.files.allowed import CODES, MAX_RATIO, describe_start, limit_inflated, make_array, read_bytes
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


def decode(file: BinaryIO, size: int) -> dict[str, Array]:
    """The arrays by path in a file by `encode`, `np.savez` or `np.savez_compressed`."""
    from zipfile import BadZipFile

    start = file.read(8)
    if not start.startswith(b"PK"):
        raise ValueError(f"expected a zip of arrays, got {describe_start(start)}")
    try:
        return _read_zip(file, size)
    except (BadZipFile, EOFError, LookupError, OSError, RuntimeError, ValueError, zlib.error) as error:
        raise ValueError(f"damaged, or not a .npz file: {str(error)[:200]}") from error


def _read_zip(file: BinaryIO, size: int) -> dict[str, Array]:
    from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

    arrays: dict[str, Array] = {}
    with ZipFile(file) as archive:
        members = archive.infolist()
        file.seek(max(0, size - (1 << 17)))  # the end of a zip has at most 64 KiB of comment
        tail = file.read()
        entries = tail[tail.rfind(b"PK\5\6") + 10 :][:2]
        start = min((member.header_offset for member in members), default=archive.start_dir)
        if start or int.from_bytes(entries, "little") != min(len(members), 0xFFFF):
            raise ValueError("expected a list of all arrays, got a shorter or longer one")
        if sum(member.compress_size for member in members) > size:
            raise ValueError("expected arrays with bytes of their own, got shared bytes")
        if sum(member.file_size for member in members) > limit_inflated(size):
            raise ValueError(f"expected arrays of at most {MAX_RATIO} times the file's size, got more; use np.savez")
        for member in members:
            path = member.filename.removesuffix(".npy")
            try:
                if path == member.filename or member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                    raise ValueError("expected a .npy file, stored or deflated, got another file or compression")
                if path in arrays:
                    raise ValueError("expected this name once, got it twice")
                with archive.open(member) as content:
                    arrays[path] = _read_npy(content, member.file_size)  # reads no more, even if it inflates to more
            except ValueError as error:
                raise ValueError(f"{path[:80]!r}: {error}") from error
    return arrays


def _read_npy(file: IO[bytes], size: int) -> Array:
    """The array in a .npy file: a magic number, a version, the header's length, the header, the numbers."""
    start = file.read(10)
    if start[:6] != b"\x93NUMPY" or start[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError(f"expected an array, got {describe_start(start)}")
    if start[6] > 1:
        start += file.read(2)
    length = int.from_bytes(start[8:], "little")
    header = HEADER.fullmatch(file.read(min(length, 10_000)).decode("latin-1"))
    if header is None or None in header.groups():
        raise ValueError("expected the header of an array of numbers, got another one")
    dtype, fortran, shape = header.group("dtype", "fortran", "shape")
    if dtype[:1] not in ("<", ">", "|") or dtype[1:] not in CODES:
        raise ValueError(f"expected bools, integers, floats or complex numbers, got dtype {dtype[:20]!r}")
    sizes = tuple(int(size) for size in shape.split(",") if size.strip())
    data = read_bytes(file, max(0, size - len(start) - length))
    return make_array(data, np.dtype(dtype), sizes, "F" if fortran == "True" else "C")
