"""Damaged and hostile files of each format: load raises CheckpointError or returns the right tree.

It never runs code from the file and uses little memory.
"""

import json
import os
import random
import shlex
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fnn.files.checkpoint import CheckpointError, load, save
from tests.support.damage import SMALL, SUFFIXES, change_bytes, outcome
from tests.support.memory import peak_of_load
from tests.support.programs import python
from tests.support.trees import assert_memory_below, assert_same

pytest.importorskip("safetensors")


@pytest.fixture(scope="module", params=SUFFIXES)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the tree SMALL."""
    path = tmp_path_factory.mktemp("damage") / f"params{request.param}"
    save(path, SMALL)
    return path


@pytest.mark.slow
def test_load_of_1000_mutations_raises_or_returns_the_right_tree(small: Path) -> None:
    without_like, content, rng = load(small), small.read_bytes(), random.Random(0)
    counts = {"refused": 0, "read": 0}
    for i in range(1000):
        changed = change_bytes(content, rng)
        counts[outcome(small, changed, SMALL, SMALL) if i % 2 else outcome(small, changed, None, without_like)] += 1
    assert counts["refused"] > 850


@pytest.mark.slow
def test_load_with_any_byte_changed_raises_or_returns_the_right_tree(small: Path) -> None:
    content, rng = small.read_bytes(), random.Random(1)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << rng.randrange(8)
        outcome(small, bytes(changed), SMALL, SMALL)


def test_load_refuses_every_truncation(small: Path) -> None:
    content, without_like = small.read_bytes(), load(small)
    for length in range(len(content)):
        result = outcome(small, content[:length], None, without_like)
        # Without its checksum at the end, a pickle is like one from Python.
        assert result == ("read" if small.suffix == ".pkl" and length == len(content) - 4 else "refused")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_refuses_changed_numbers_by_the_checksum(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"params{suffix}"
    save(path, {"w": np.arange(1000.0)})
    content = path.read_bytes()
    at = content.index(np.float64(500).tobytes())
    path.write_bytes(content[: at + 6] + b"\x7e" + content[at + 7 :])
    with pytest.raises(CheckpointError, match=rf"params{suffix}: damaged.*([Cc]hecksum|CRC)"):
        load(path)


@pytest.mark.parametrize(("old", "new"), [(b"[2,3]", b"[3,2]"), (b"F64", b"I64"), (b'"w"', b'"v"')])
def test_load_refuses_a_changed_safetensors_header_by_the_checksum(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "params.safetensors"
    save(path, {"w": np.zeros((2, 3))})
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    with pytest.raises(CheckpointError, match="damaged: the checksum in the metadata"):
        load(path)


# Hostile .npz files


def npy(
    descr: str = "'<f8'", shape: str = "(1,)", fortran: str = "False", data: bytes = bytes(8), more: str = ""
) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, {more}}}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def zipped(*members: tuple[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def patch_zip(content: bytes, *fields: tuple[bytes, int, bytes]) -> bytes:
    """Returns the zip with the bytes at an offset after each occurrence of a signature replaced; for each field."""
    changed = bytearray(content)
    for signature, offset, value in fields:
        at = content.find(signature)
        while at >= 0:
            changed[at + offset : at + offset + len(value)] = value
            at = content.find(signature, at + 1)
    return bytes(changed)


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"

ONE = zipped(("w.npy", npy()))
DEFLATED = zipped(("w.npy", npy(shape="(4000000,)", data=bytes(32_000_000))), how=zipfile.ZIP_DEFLATED)


def shared_zip(n: int) -> bytes:
    """Returns a zip with n names for the same megabyte."""
    content = zipped(("000.npy", npy(shape="(131072,)", data=bytes(1 << 20))))
    at, end = content.index(CENTRAL), content.index(END)
    entries = b"".join(content[at:end].replace(b"000.npy", b"%03d.npy" % i) for i in range(n))
    count = struct.pack("<HHII", n, n, len(entries), at)
    return content[:at] + entries + content[end : end + 8] + count + content[end + 20 :]


def with_duplicate_names(make: Callable[[], bytes]) -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return make()


HOSTILE_NPZ: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty file": (lambda: b"", "expected a zip of arrays, got an empty file"),
    "a pickle": (lambda: b"\x80\4}.", r"expected a zip of arrays, got a file that begins with b'\\x80"),
    "no zip": (lambda: b"PK\3\4 and no more", "damaged, or not a .npz file: File is not a zip file"),
    "objects": (lambda: zipped(("w.npy", npy("'|O'"))), r"'w': expected bools.*, got dtype '\|O'"),
    "text": (lambda: zipped(("w.npy", npy("'<U2'"))), "'w': expected bools.*, got dtype '<U2'"),
    "records": (lambda: zipped(("w.npy", npy("[('a', '<f8')]"))), "'w': expected the header of an array of numbers"),
    "a large dtype": (
        lambda: zipped(("w.npy", npy("'|V999999999'"))),
        r"'w': expected bools.*, got dtype '\|V999999999'",
    ),
    "a subarray": (lambda: zipped(("w.npy", npy("'9<f8'"))), "'w': expected bools.*, got dtype '9<f8'"),
    "a call": (
        lambda: zipped(("w.npy", npy("__import__('os').system('true')"))),
        "'w': expected the header of an array of numbers",
    ),
    "a deep header": (
        lambda: zipped(("w.npy", npy("'<f8'", "(" * 9000))),
        "'w': expected the header of an array of numbers",
    ),
    "spaces": (
        lambda: zipped(("w.npy", npy(more=" " * 60_000 + "x"))),
        "'w': expected the header of an array of numbers",
    ),
    "a long number": (lambda: zipped(("w.npy", npy(shape=f"({'9' * 9000},)"))), "'w': Exceeds the limit"),
    "huge": (
        lambda: zipped(("w.npy", npy(shape="(1099511627776,)"))),
        r"'w': expected all bytes of an array of shape \(1099.*, got 8 bytes",
    ),
    "an overflow": (
        lambda: zipped(("w.npy", npy(shape="(2305843009213693952, 8)"))),
        "'w': expected all bytes of an array .*, got 8 bytes",
    ),
    "an index": (lambda: zipped(("w.npy", npy(shape="(0, 18446744073709551616)", data=b""))), "'w': expected a shape"),
    "an empty giant": (
        lambda: zipped(("w.npy", npy(shape="(0, 4611686018427387904, 4611686018427387904)", data=b""))),
        "'w': array is too big",
    ),
    "65 axes": (lambda: zipped(("w.npy", npy(shape=f"({'1,' * 65})"))), "'w': expected a shape"),
    "negative": (lambda: zipped(("w.npy", npy(shape="(-1,)"))), "'w': expected the header of an array of numbers"),
    "too little": (lambda: zipped(("w.npy", npy(shape="(2,)"))), "'w': expected all bytes of an array .*, got 8 bytes"),
    "too much": (
        lambda: zipped(("w.npy", npy(shape="()", data=bytes(16)))),
        "'w': expected all bytes of an array .*, got 16 bytes",
    ),
    "no order": (lambda: zipped(("w.npy", npy(fortran="0"))), "'w': expected the header of an array of numbers"),
    "an entry twice": (
        lambda: zipped(("w.npy", npy().replace(b"fortran_order': False", b"descr': '<f8'        "))),
        "'w': expected the header",
    ),
    "one more entry": (
        lambda: zipped(("w.npy", npy(more="'x': True, "))),
        "'w': expected the header of an array of numbers",
    ),
    "wrong bools": (lambda: zipped(("w.npy", npy("'|b1'", data=b"\2"))), "'w': expected bools stored as 0 or 1"),
    "a far header": (
        lambda: zipped(("w.npy", npy()[:8] + b"\xff\xff" + npy()[10:])),
        "'w': expected the header of an array of numbers",
    ),
    "version 9": (
        lambda: zipped(("w.npy", npy().replace(b"NUMPY\1", b"NUMPY\x09"))),
        "'w': expected an array, got a file that begins",
    ),
    "an empty array file": (lambda: zipped(("w.npy", b"")), "'w': expected an array, got an empty file"),
    "another file": (lambda: zipped(("w.npy", npy()), ("readme.txt", b"")), "'readme.txt': expected a .npy file"),
    "a folder": (lambda: zipped(("w/", b"")), "'w/': expected a .npy file"),
    "a name twice": (
        lambda: with_duplicate_names(lambda: zipped(("w.npy", npy()), ("w.npy", npy(data=b"\1" * 8)))),
        "'w': expected this name once, got it twice",
    ),
    "a bomb": (lambda: DEFLATED, "expected arrays of at most 100 times the file's size, got more; use np.savez"),
    "a bomb that says it is small": (
        lambda: patch_zip(DEFLATED, (LOCAL, 22, b"\x60\0\0\0"), (CENTRAL, 24, b"\x60\0\0\0")),
        "damaged, or not a .npz file: Bad CRC-32 for file 'w.npy'",
    ),
    "a small file that says it is large": (
        lambda: patch_zip(ONE, (LOCAL, 22, b"\xff\xff\xff\x7f"), (CENTRAL, 24, b"\xff\xff\xff\x7f")),
        "expected arrays of at most 100 times the file's size",
    ),
    "shared bytes": (lambda: shared_zip(5), "expected arrays with bytes of their own, got shared bytes"),
    "bzip2": (
        lambda: zipped(("w.npy", npy()), how=zipfile.ZIP_BZIP2),
        "'w': expected a .npy file, stored or deflated",
    ),
    "lzma": (lambda: zipped(("w.npy", npy()), how=zipfile.ZIP_LZMA), "'w': expected a .npy file, stored or deflated"),
    "no such compression": (
        lambda: patch_zip(ONE, (CENTRAL, 10, b"\x63\0")),
        "'w': expected a .npy file, stored or deflated",
    ),
    "no deflate": (
        lambda: patch_zip(ONE, (LOCAL, 8, b"\x08\0"), (CENTRAL, 10, b"\x08\0")),
        "damaged, or not a .npz file: ",
    ),
    "encrypted": (lambda: patch_zip(ONE, (LOCAL, 6, b"\1\0"), (CENTRAL, 8, b"\1\0")), "damaged, .*encrypted, password"),
    "two names": (lambda: patch_zip(ONE, (CENTRAL, 46, b"x")), "damaged, .*File name in directory 'x.npy' and header"),
    "another offset": (
        lambda: patch_zip(ONE, (CENTRAL, 42, b"\5\0\0\0")),
        "expected a list of all arrays",
    ),
    "no central list": (lambda: patch_zip(ONE, (END, 16, b"\xff\xff\xff\x7f")), "damaged, or not a .npz file: "),
    "an empty list": (
        lambda: ONE.replace(END, END + bytes(16)),
        "expected a list of all arrays",
    ),
    "a list too short": (
        lambda: patch_zip(ONE, (END, 8, b"\2\0\2\0")),
        "expected a list of all arrays",
    ),
    "many names of nothing": (
        lambda: zipped(*((f"{n}.npy", b"") for n in range(2_000))),
        "'0': expected an array, got an empty file",
    ),
}


@pytest.mark.parametrize(("make", "message"), HOSTILE_NPZ.values(), ids=HOSTILE_NPZ)
def test_load_refuses_hostile_npz_files_with_little_memory(
    tmp_path: Path, make: Callable[[], bytes], message: str
) -> None:
    path, content = tmp_path / "params.npz", make()
    path.write_bytes(content)

    def read() -> None:
        with pytest.raises(CheckpointError, match=rf"params.npz: .*{message}") as raised:
            load(path)
        assert len(str(raised.value)) < 400 + len(str(path))

    assert_memory_below(read, len(content), 20)


def test_load_reads_the_zips_that_hostile_files_are_made_from(tmp_path: Path) -> None:
    path = tmp_path / "params.npz"
    for content, expected in (
        (ONE, np.zeros(1)),
        (zipped(("w.npy", npy("'>i2'", "(2,2)", "True", bytes(8)))), np.zeros((2, 2), ">i2")),
        (shared_zip(1), np.zeros(1 << 17)),
    ):
        path.write_bytes(content)
        assert_same(load(path), {"w" if b"w.npy" in content else "000": expected})


def test_load_does_not_use_names_in_an_npz_as_file_paths(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "params.npz"
    path.parent.mkdir()
    names = ["/etc/passwd", "../up", "C:\\windows", "a/./b", "-rf"]
    path.write_bytes(zipped(*((f"{name}.npy", npy()) for name in names)))
    tree = {name: np.zeros(1) for name in names}
    assert_same(load(path, like=tree), tree)
    assert load(path).keys() == {"", "..", "C:\\windows", "a", "-rf"}
    assert [entry.name for entry in tmp_path.rglob("*")] == ["inner", "params.npz"]


class CreatesFile:
    """Its pickle calls a function that creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {shlex.quote(str(self.canary))}",)


def test_load_does_not_unpickle_objects_in_an_npz(tmp_path: Path) -> None:
    path, canary = tmp_path / "params.npz", tmp_path / "canary"
    np.savez(path, w=np.array([CreatesFile(canary)], object))
    with pytest.raises(CheckpointError, match=r"params.npz: .*'w': expected bools.*, got dtype '\|O'"):
        load(path)
    assert not canary.exists()
    with np.load(path, allow_pickle=True) as file:
        _ = file["w"]
    assert canary.exists()


# Hostile .safetensors files


def tensors(header: Any, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def tensor(start: int = 0, end: int = 4, dtype: str = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


PACKAGE = "damaged, or not a .safetensors file: ."
"""The start of an error that the package safetensors raises."""

HOSTILE_SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", PACKAGE),
    "a header without end": (struct.pack("<Q", 1 << 63) + b"{}", PACKAGE),
    "a header of 99 megabytes": (struct.pack("<Q", 99_000_000) + b"{}", PACKAGE),
    "no JSON": (tensors(b"\x93NUMPY"), PACKAGE),
    "a list": (tensors([]), PACKAGE),
    "deep lists": (tensors(b"[" * 100_000), PACKAGE),
    "deep dicts": (tensors(b'{"a":' * 100_000), PACKAGE),
    "deep in a tensor": (tensors(b'{"w":{"x":' + b"[" * 100_000), PACKAGE),
    "half a character": (tensors(b'{"\\ud800":' + json.dumps(tensor()).encode() + b"}", bytes(4)), PACKAGE),
    "a long number": (
        tensors(b'{"w":{"dtype":"F32","shape":[' + b"9" * 9000 + b'],"data_offsets":[0,4]}}'),
        PACKAGE,
    ),
    "a negative shape": (tensors({"w": tensor(shape=[-1])}, bytes(4)), PACKAGE),
    "a float shape": (tensors({"w": tensor(shape=[1.0])}, bytes(4)), PACKAGE),
    "overlap": (tensors({"a": tensor(), "b": tensor()}, bytes(4)), PACKAGE),
    "a hole": (tensors({"a": tensor(4, 8)}, bytes(8)), PACKAGE),
    "leftover bytes": (tensors({"a": tensor()}, bytes(8)), PACKAGE),
    "offsets the wrong way round": (tensors({"a": tensor(4, 0)}, bytes(4)), PACKAGE),
    "far offsets": (tensors({"a": tensor(0, 1 << 42, shape=[1 << 40])}, bytes(4)), PACKAGE),
    "huge": (tensors({"a": tensor(shape=[1 << 40])}, bytes(4)), PACKAGE),
    "an overflow": (tensors({"a": tensor(shape=[1 << 61, 8])}, bytes(4)), PACKAGE),
    "an empty giant": (tensors({"a": tensor(0, 0, shape=[0, 1 << 62, 1 << 62])}), "array is too big"),
    "more than an index": (tensors({"a": tensor(0, 0, shape=[0, 1 << 63])}), "expected a shape"),
    "65 axes": (tensors({"a": tensor(shape=[1] * 65)}, bytes(4)), "expected a shape"),
    "no such dtype": (tensors({"a": tensor(dtype="F31")}, bytes(4)), PACKAGE),
    "bfloat16": (
        tensors({"a": tensor(dtype="BF16", shape=[2])}, bytes(4)),
        "'a': expected dtype BOOL, F16, F32, .*, got BF16",
    ),
    "float8": (
        tensors({"a": tensor(dtype="F8_E4M3", shape=[4])}, bytes(4)),
        "'a': expected dtype BOOL, F16, F32, .*, got F8_E4M3",
    ),
    "complex": (
        tensors({"a": tensor(0, 8, dtype="C64")}, bytes(8)),
        f"'a': expected dtype BOOL, F16, F32, .*, got C64|{PACKAGE}",
    ),
    "wrong bools": (tensors({"a": tensor(0, 1, dtype="BOOL")}, b"\2"), "'a': expected bools stored as 0 or 1"),
    "a name twice": (
        tensors(b'{"w":%b,"w":%b}' % ((json.dumps(tensor()).encode(),) * 2), bytes(4)),
        "expected each name once",
    ),
    "metadata of numbers": (tensors({"__metadata__": {"crc32": 3}}), PACKAGE),
    "another checksum": (
        tensors({"__metadata__": {"crc32": "0"}, "w": tensor()}, bytes(4)),
        "the checksum in the metadata",
    ),
    "a long name": (
        tensors({"w" * 10**6: tensor(dtype="BF16", shape=[2])}, bytes(4)),
        "'w{80}': expected dtype BOOL, .* got BF16",
    ),
    "a folder in an array": (
        tensors({"w": tensor(), "w/x": tensor(4, 8)}, bytes(8)),
        "'w/x': expected no array above or below this one",
    ),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE_SAFETENSORS.values(), ids=HOSTILE_SAFETENSORS)
def test_load_refuses_hostile_safetensors_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "params.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"params.safetensors: .*({message})") as raised:
        load(path)
    assert len(str(raised.value)) < 500 + len(str(path))


@pytest.mark.parametrize("metadata", [{}, {"__metadata__": None}, {"__metadata__": {"format": "pt"}}])
def test_load_reads_safetensors_without_our_checksum(tmp_path: Path, metadata: Any) -> None:
    path = tmp_path / "params.safetensors"
    path.write_bytes(tensors(metadata | {"w": tensor(4, 8), "b": tensor(0, 4)}, struct.pack("<2f", 1, 2)))
    assert load(path) == {"w": np.float32(2), "b": np.float32(1)}


# Memory

READ = """
import resource, sys
from pathlib import Path
from fnn.files.checkpoint import CheckpointError, load
import json, pickletools, zipfile, safetensors.numpy

def kilobytes(name):  # of this process; getrusage may return the peak of its parent
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(name)).split()[1])

limit = kilobytes("VmSize") + (128 << 10)
resource.setrlimit(resource.RLIMIT_AS, (limit << 10, limit << 10))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for path in sorted(Path(sys.argv[1]).iterdir()):
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = kilobytes("VmHWM")
    try:
        load(path)
    except CheckpointError as error:
        print(path.name, kilobytes("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS of Linux")
def test_load_refuses_hostile_files_within_128_megabytes(tmp_path: Path) -> None:
    contents = {f"{i:03}.npz": make() for i, (make, _) in enumerate(HOSTILE_NPZ.values())}
    contents |= {f"{i:03}.safetensors": content for i, (content, _) in enumerate(HOSTILE_SAFETENSORS.values())}
    contents["many.safetensors"] = tensors({f"{i}": tensor(0, 0, "BF16", [0]) for i in range(20_000)})
    contents["deep.safetensors"] = tensors({"a/" * 500_000: tensor()}, bytes(4))
    contents["axes.safetensors"] = tensors({"w": tensor(0, 0, shape=[0] * 500_000)})
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    done = python("-c", READ, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    grown = dict(line.split() for line in done.stdout.splitlines())
    assert grown.keys() == contents.keys()  # all were refused
    for name, kilobytes in grown.items():
        assert int(kilobytes) << 10 < 25 * len(contents[name]) + (1 << 20), name


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_uses_at_most_five_times_the_size_of_a_large_file(tmp_path: Path, suffix: str) -> None:
    path, like = tmp_path / f"params{suffix}", {"w": np.zeros((1000, 500), order="F")}
    save(path, {"w": np.random.default_rng(0).random((1000, 500))})
    load(path)
    assert_memory_below(lambda: load(path, like), path.stat().st_size, 5)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc/self/status")
@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_needs_little_more_memory_than_the_arrays(tmp_path: Path, suffix: str, count: int) -> None:
    w = np.random.default_rng(0).random((64 << 20) // 4 // count, np.float32)
    path = tmp_path / f"params{suffix}"
    save(path, {f"w{i}": w + i for i in range(count)})
    assert peak_of_load(path) < 1.2 * (64 << 20)


def test_load_reads_a_shared_array_once(tmp_path: Path) -> None:
    bools = np.zeros(1 << 20, np.bool_)
    tree = {str(i): bools for i in range(20_000)}
    began = time.perf_counter()
    save(tmp_path / "a.pkl", tree)  # 20 billion bytes, if each reference is read
    assert len({id(leaf) for leaf in load(tmp_path / "a.pkl").values()}) == 1
    assert time.perf_counter() - began < 5


def test_arrays_that_share_bytes_in_a_pickle_get_memory_of_their_own(tmp_path: Path) -> None:
    """An array in a file may change without changing another one."""
    data = b"\x80\x05}(\x8c\1acnumpy._core.numeric\n_frombuffer\n(\x96\4" + bytes(7) + b"\1\2\3\4\x94"
    dtype = b"cnumpy\ndtype\n\x8c\2u1\x89\x88\x87R"
    rest = dtype.replace(b"\x89\x88", b"K\0K\1") + b"K\4\x85\x8c\1CtR"
    again = b"\x8c\1bcnumpy._core.numeric\n_frombuffer\n(h\0" + rest
    (tmp_path / "a.pkl").write_bytes(data + rest + again + b"u.")
    tree = load(tmp_path / "a.pkl")
    tree["a"][0] = 9
    assert (tree["a"].tolist(), tree["b"].tolist()) == ([9, 2, 3, 4], [1, 2, 3, 4])


@pytest.mark.parametrize("kept", [0.02, 0.005])
def test_load_reads_a_compressed_pruned_net(tmp_path: Path, kept: float) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((1000, 1000)).astype(np.float32) * (rng.random((1000, 1000)) < kept)
    np.savez_compressed(tmp_path / "a.npz", w=w)
    assert w.nbytes > 10 * (tmp_path / "a.npz").stat().st_size
    assert np.array_equal(load(tmp_path / "a.npz")["w"], w)
