"""Pickles: exact round trips, files of other programs, and hostile or damaged files."""

import os
import pickle
import random
import shlex
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnn.files import allowed
from fnn.files.allowed import MAX_DEPTH
from fnn.files.checkpoint import CheckpointError, load, save
from fnn.tree import tree_items
from tests.support.trees import EXAMPLE_TREE, assert_memory_below, assert_same, is_tree, memory_order, trees

PROTOCOLS = (2, 3, 4, 5)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints") / "params.pkl"


@settings(deadline=None)
@given(trees)
def test_load_returns_the_saved_tree_bit_for_bit_in_writable_arrays(scratch: Path, tree: Any) -> None:
    save(scratch, tree)
    loaded = load(scratch)
    assert_same(tree, loaded)
    for (_, before), (_, after) in zip(tree_items(tree), tree_items(loaded), strict=True):
        if isinstance(before, np.ndarray):
            assert after.flags.writeable
            assert after.size == 0 or memory_order(after) == memory_order(before)
            assert after.transpose(np.argsort([-stride for stride in after.strides], kind="stable")).flags.c_contiguous
    assert os.listdir(scratch.parent) == [scratch.name]


@settings(deadline=None)
@given(trees, st.sampled_from(PROTOCOLS), st.booleans())
def test_load_reads_files_written_by_pickle(scratch: Path, tree: Any, protocol: int, in_python: bool) -> None:
    with open(scratch, "wb") as file:
        (pickle._Pickler if in_python else pickle.Pickler)(file, protocol).dump(tree)
    loaded = load(scratch)
    assert_same(tree, loaded)
    assert all(leaf.flags.writeable for _, leaf in tree_items(loaded) if isinstance(leaf, np.ndarray))


@pytest.mark.parametrize("name", ["transposed weight", "images, batch innermost", "fortran", "gaps", "backwards"])
def test_load_keeps_the_memory_orders_of_the_operators(scratch: Path, name: str) -> None:
    images = np.arange(120.0, dtype=np.float32).reshape(2, 3, 4, 5)
    weight = np.arange(12.0).reshape(3, 4)
    array = {
        "transposed weight": weight.T,
        "images, batch innermost": images.transpose(3, 1, 0, 2),
        "fortran": np.asfortranarray(images),
        "gaps": images.transpose(2, 0, 3, 1)[:, :, ::2],
        "backwards": images[::-1, :, ::-1],
    }[name]
    save(scratch, {"w": array})
    loaded = load(scratch)["w"]
    assert_same(array, loaded)
    assert loaded.strides == array.copy(order="K").strides


def test_save_writes_files_that_pickle_reads(scratch: Path) -> None:
    w = np.arange(24.0).reshape(2, 3, 4)
    tree = {"conv1": {"w": w, "b": np.zeros(3)}, "dense1": {"w": np.asfortranarray(w)}, "step": 3}
    save(str(scratch), tree)
    assert_same(tree, pickle.loads(scratch.read_bytes()))


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.3.0", reason="NumPy reads other memory orders since 2.3")
def test_save_writes_files_in_any_memory_order_that_pickle_reads(scratch: Path) -> None:
    tree = {"w": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)}
    save(str(scratch), tree)
    assert_same(tree, pickle.loads(scratch.read_bytes()))


NUMPY1 = {  # written by NumPy 1.26: {"w": 2 x 3 in Fortran order, "e": an empty array, "n": a scalar}
    2: b"\x80\x02}q\x00(X\x01\x00\x00\x00wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00"
    b"\x85q\x04c_codecs\nencode\nq\x05X\x01\x00\x00\x00bq\x06X\x06\x00\x00\x00latin1q\x07\x86q\x08Rq\t\x87q\nRq\x0b(K\x01"
    b"K\x02K\x03\x86q\x0ccnumpy\ndtype\nq\rX\x02\x00\x00\x00f4q\x0e\x89\x88\x87q\x0fRq\x10(K\x03X\x01\x00\x00\x00<q\x11NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x12b\x88h\x05X\x1b\x00\x00\x00\x00\x00\x00\x00\x00\x00@@\x00\x00\xc2\x80?"
    b"\x00\x00\xc2\x80@\x00\x00\x00@\x00\x00\xc2\xa0@q\x13h\x07\x86q\x14Rq\x15tq\x16bX\x01\x00\x00\x00eq\x17h\x02h\x03K\x00"
    b"\x85q\x18h\t\x87q\x19Rq\x1a(K\x01K\x00K\x02\x86q\x1bh\rX\x02\x00\x00\x00i2q\x1c\x89\x88\x87q\x1dRq\x1e(K\x03h\x11NNN"
    b'J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x1fb\x89c__builtin__\nbytes\nq )Rq!tq"bX\x01\x00\x00\x00nq#'
    b"cnumpy.core.multiarray\nscalar\nq$h\rX\x02\x00\x00\x00f8q%\x89\x88\x87q&Rq'(K\x03h\x11NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tq(bh\x05X\t\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc3\xa0?q)h\x07\x86q*Rq+\x86q,Rq-u.",
    5: b"\x80\x05\x952\x01\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01w\x94\x8c\x12numpy.core.numeric\x94\x8c\x0b_frombuffer"
    b"\x94\x93\x94(\x96\x18\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00@@\x00\x00\x80?\x00\x00\x80@\x00\x00\x00@\x00"
    b"\x00\xa0@\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02f4\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bK\x02K\x03\x86\x94\x8c\x01F\x94t\x94R\x94\x8c\x01e\x94h\x04(\x96\x00\x00"
    b"\x00\x00\x00\x00\x00\x00\x94h\x08\x8c\x02i2\x94\x89\x88\x87\x94R\x94(K\x03h\x0cNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    b"K\x00t\x94bK\x00K\x02\x86\x94\x8c\x01C\x94t\x94R\x94\x8c\x01n\x94\x8c\x15numpy.core.multiarray\x94\x8c\x06scalar\x94"
    b"\x93\x94h\x08\x8c\x02f8\x94\x89\x88\x87\x94R\x94(K\x03h\x0cNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bC\x08\x00"
    b"\x00\x00\x00\x00\x00\xe0?\x94\x86\x94R\x94u.",
}


@pytest.mark.parametrize("protocol", NUMPY1)
def test_load_reads_pickles_of_numpy_1(scratch: Path, protocol: int) -> None:
    scratch.write_bytes(NUMPY1[protocol])
    loaded = load(scratch)
    expected = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert_same({"w": expected, "e": np.empty((0, 2), np.int16), "n": np.float64(0.5)}, loaded)
    assert loaded["w"].flags.f_contiguous


def test_save_takes_the_same_dict_and_array_twice(scratch: Path) -> None:
    zeros = {"w": np.zeros(3), "b": {}}
    tree = {"first": zeros, "second": zeros}
    save(scratch, tree)
    assert_same(tree, load(scratch))


def nested(depth: int) -> Any:
    tree: Any = 0
    for _ in range(depth):
        tree = {"a": tree}
    return tree


def test_save_and_load_refuse_trees_deeper_than_the_limit(scratch: Path) -> None:
    save(scratch, nested(MAX_DEPTH))
    assert_same(nested(MAX_DEPTH), load(scratch))
    with pytest.raises(CheckpointError, match="at most 120 nested dicts"):
        save(scratch, nested(MAX_DEPTH + 1))
    for depth in (MAX_DEPTH + 1, 5000):
        scratch.write_bytes(b"\x80\x02" + b"}X\x01\x00\x00\x00a" * depth + b"N" + b"s" * depth + b".")
        with pytest.raises(CheckpointError, match=r"params.pkl: 'a/a/.*at most 120 nested dicts"):
            load(scratch)


class Float(np.float64):
    pass


REFUSED_TREES: dict[str, tuple[Any, str]] = {
    "objects": ({"conv1": {"w": np.array([None])}}, r"'conv1/w': expected a plain array .*, got object \(1,\)"),
    "text array": ({"a": np.array(["x"])}, r"'a': expected a plain array .*, got <U1 \(1,\)"),
    "records": ({"a": np.zeros(2, "f4,i4")}, "'a': expected a plain array .*, got .*f4"),
    "dates": ({"a": np.zeros(2, "M8[s]")}, "'a': expected a plain array .*, got datetime64"),
    "void": ({"a": np.zeros(2, "V4")}, r"'a': expected a plain array .*, got \|V4"),
    "metadata": (
        {"a": np.zeros(2, np.dtype("f4", metadata={"x": 1}))},
        r"'a': expected .*without dtype metadata.*, got float32 \(2,\)",
    ),
    "masked": ({"a": np.ma.ones(2)}, "'a': expected a plain array .*, got a numpy.ma.MaskedArray"),
    "wrong bools": ({"a": np.frombuffer(b"\0\2", bool)}, "'a': expected bools stored as 0 or 1"),
    "numpy text": ({"a": np.str_("x")}, "'a': expected a plain array .*, got a str_"),
    "own float": ({"a": Float(1)}, "'a': expected a plain array .*, got a Float"),
    "complex": ({"a": 1j}, "'a': expected a plain array .*, got a complex"),
    "bytes": ({"a": {"b": b"x"}}, "'a/b': expected a plain array .*, got a bytes"),
    "list": ({"a": [1]}, "'a': expected a plain array .*, got a list"),
    "tuple": ({"a": (np.zeros(2),)}, "'a': expected a plain array .*, got a tuple"),
    "set": ({"a": {1}}, "'a': expected a plain array .*, got a set"),
    "dtype": ({"a": np.dtype("f4")}, "'a': expected a plain array .*, got a Float32DType"),
    "function": ({"a": len}, "'a': expected a plain array .*, got a builtin_function_or_method"),
    "ordered dict": ({"a": OrderedDict()}, "'a': expected a plain array .*, got an OrderedDict"),
    "number as key": ({"a": {1: 2}}, "'a': expected keys of type str, got an int"),
    "bytes as key": ({b"a": 2}, "the tree: expected keys of type str, got a bytes"),
    "numpy text as key": ({np.str_("a"): 2}, "the tree: expected keys of type str, got a str_"),
    "no tree at all": ([1], "the tree: expected a plain array .*, got a list"),
}


@pytest.mark.parametrize(("tree", "message"), REFUSED_TREES.values(), ids=REFUSED_TREES)
def test_save_refuses_invalid_trees_before_it_writes(tmp_path: Path, tree: Any, message: str) -> None:
    path = tmp_path / "nowhere" / "params.pkl"  # writing would raise another error
    with pytest.raises(CheckpointError, match=rf"nowhere/params.pkl: {message}"):
        save(path, tree)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "name", [name for name in REFUSED_TREES if name != "own float"]
)  # its pickle is that of NumPy's float
def test_load_refuses_the_trees_that_save_refuses(scratch: Path, name: str, protocol: int) -> None:
    scratch.write_bytes(pickle.dumps(REFUSED_TREES[name][0], protocol))
    with pytest.raises(CheckpointError, match=r"params.pkl: "):
        load(scratch)


def test_save_and_load_refuse_cycles_and_exponential_trees(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert allowed.MAX_ENTRIES == 1 << 20
    monkeypatch.setattr(allowed, "MAX_ENTRIES", 1 << 12)  # counts faster
    cycle: dict[str, Any] = {}
    cycle["a"] = cycle
    shared: dict[str, Any] = {}
    for _ in range(60):
        shared = {"a": shared, "b": shared}
    for tree, message in ((cycle, "'a/a/.*does one contain itself"), (shared, "at most 4096 entries")):
        with pytest.raises(CheckpointError, match=message):
            save(scratch, tree)
        scratch.write_bytes(pickle.dumps(tree))
        with pytest.raises(CheckpointError, match=rf"params.pkl: .*{message}"):
            load(scratch)


# Hostile files


class CallsFunction:
    """Its pickle is a call of `function` with `args`, and a state for the result."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.reduced


def hostile_objects(canary: str) -> dict[str, Any]:
    evil = CallsFunction(os.system, f"touch {shlex.quote(canary)}")
    reconstruct = np.zeros(2).__reduce__()[0]
    state = (1, (2,), np.dtype("f8"), False, bytes(16))
    return {
        "system": evil,
        "eval": CallsFunction(eval, f"open({canary!r}, 'w')"),
        "exec": CallsFunction(exec, f"open({canary!r}, 'w')"),
        "open": CallsFunction(open, canary, "w"),
        "getattr": CallsFunction(getattr, "", "join"),
        "numpy.save": CallsFunction(np.save, canary, 1),
        "numpy.fromfile": CallsFunction(np.fromfile, canary),
        "numpy.memmap": CallsFunction(np.memmap, canary, "u1", "w+", 0, 9),
        "numpy.zeros": CallsFunction(np.zeros, 1 << 40),
        "a key": {evil: 1},
        "beside good": {"a": np.zeros(3), "b": {"c": evil}},
        "in an object array": np.array([evil], object),
        "in an object scalar": CallsFunction(np.float32(1).__reduce__()[0], np.dtype(object), evil),
        "a dtype's argument": CallsFunction(np.dtype, evil),
        "an array's type": CallsFunction(reconstruct, evil, (0,), b"b"),
        "an array's shape": CallsFunction(reconstruct, np.ndarray, (evil,), b"b"),
        "an array's state": CallsFunction(reconstruct, np.ndarray, (0,), b"b", state=(*state[:4], evil)),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", hostile_objects(""))
def test_load_never_calls_functions(tmp_path: Path, name: str, protocol: int) -> None:
    canary, path = tmp_path / "canary", tmp_path / "params.pkl"
    path.write_bytes(pickle.dumps({"w": hostile_objects(str(canary))[name]}, protocol))
    with pytest.raises(
        CheckpointError, match=r"params.pkl: .*byte \d+: (expected only .*, got '.*'|expected bools.* got dtype 'O8')"
    ):
        load(path)
    assert not canary.exists()


def test_pickle_does_call_the_hostile_function(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps({"w": hostile_objects(str(canary))["system"]}))
    assert canary.exists()


# Forged pickles, from their opcodes


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def global_name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def memoize(data: bytes, index: int) -> bytes:
    return data + b"q" + bytes([index])


RECONSTRUCT = global_name("numpy._core.multiarray", "_reconstruct")
FROMBUFFER = global_name("numpy._core.numeric", "_frombuffer")
SCALAR = global_name("numpy._core.multiarray", "scalar")
DTYPE = (
    global_name("numpy", "dtype")
    + text("f8")
    + b"\x89\x88\x87R(K\x03"
    + text("<")
    + b"NNN"
    + b"J\xff\xff\xff\xff" * 2
    + b"K\0tb"
)
EMPTY = RECONSTRUCT + global_name("numpy", "ndarray") + b"K\0\x85C\x01b\x87R"
EIGHT = b"C\x08" + bytes(8)


def integer(value: int) -> bytes:
    return (
        b"\x8a"
        + bytes([value.bit_length() // 8 + 1])
        + value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    )


def array(data: bytes, shape: bytes, order: bytes = text("C"), dtype: bytes = DTYPE) -> bytes:
    return FROMBUFFER + b"(" + data + dtype + shape + order + b"tR"


VALID_PICKLES = {
    "an array": (array(EIGHT, b"K\1\x85"), np.zeros(1)),
    "an array in two steps": (EMPTY + b"(K\1K\1\x85" + DTYPE + b"\x89" + EIGHT + b"tb", np.zeros(1)),
    "an array with the order of its axes": (array(EIGHT, b"K\1K\1\x86", text("K") + b"K\1K\0\x86"), np.zeros((1, 1))),
    "a scalar": (SCALAR + DTYPE + EIGHT + b"\x86R", np.float64(0)),
    "a memo index used twice": (
        b"}(" + memoize(text("a"), 0) + memoize(b"K\1", 0) + text("b") + b"h\0u",
        {"a": 1, "b": 1},
    ),
    "a frame of another length": (b"\x95" + b"\xff" * 8 + b"K\1", 1),
}


@pytest.mark.parametrize(("content", "expected"), VALID_PICKLES.values(), ids=VALID_PICKLES)
def test_load_reads_the_pickles_that_forgeries_are_made_from(scratch: Path, content: bytes, expected: Any) -> None:
    scratch.write_bytes(b"\x80\x05" + content + b".")
    assert_same(expected, load(scratch))


FORGED_PICKLES = {
    "more than there is": (array(EIGHT, b"K\2\x85"), r"array of shape \(2,\) .*, got 8 bytes"),
    "less than there is": (array(EIGHT, b"K\0\x85"), r"array of shape \(0,\) .*, got 8 bytes"),
    "gigabytes": (array(EIGHT, integer(1 << 40) + b"\x85"), "expected all bytes of an array .*, got 8 bytes"),
    "gigabytes in two steps": (
        EMPTY + b"(K\1" + integer(1 << 40) + b"\x85" + DTYPE + b"\x89C\0tb",
        "expected all bytes of an array .*, got 0 bytes",
    ),
    "an overflow to nothing": (
        array(EIGHT, integer(1 << 61) + integer(8) + b"\x86"),
        "expected all bytes of an array .*, got 8 bytes",
    ),
    "an empty giant": (array(b"C\0", b"K\0" + integer(1 << 62) + integer(1 << 62) + b"\x87"), "array is too big"),
    "more than an index": (array(b"C\0", b"K\0" + integer(1 << 64) + b"\x86"), "expected a shape"),
    "a negative shape": (array(EIGHT, b"J\xff\xff\xff\xff" * 2 + b"\x86"), "expected a shape"),
    "a true shape": (array(EIGHT, b"\x88\x85"), "expected a shape"),
    "a float shape": (array(EIGHT, b"G" + bytes(8) + b"\x85"), "expected a shape"),
    "65 axes": (array(EIGHT, b"(" + b"K\1" * 65 + b"t"), "expected a shape"),
    "a number as shape": (array(EIGHT, b"K\1"), "expected a shape"),
    "an unknown order": (array(EIGHT, b"K\1\x85", text("A")), "expected a REDUCE that creates an array"),
    "axes out of range": (array(EIGHT, b"K\1\x85", text("K") + b"K\1\x85"), "axis 1 is out of bounds"),
    "axes too many": (array(EIGHT, b"K\1\x85", text("K") + b"K\0K\0\x86"), "axes don't match array"),
    "axes twice": (array(EIGHT, b"K\1K\1\x86", text("K") + b"K\0K\0\x86"), "repeated axis"),
    "text as data": (array(text("12345678"), b"K\1\x85"), "expected a REDUCE that creates an array"),
    "an array as data": (array(array(EIGHT, b"K\1\x85"), b"K\1\x85"), "expected a REDUCE that creates an array"),
    "no dtype": (array(EIGHT, b"K\1\x85", dtype=text("f8")), "expected a REDUCE that creates an array"),
    "objects": (
        array(EIGHT, b"K\1\x85", dtype=DTYPE.replace(b"f8", b"O8")),
        "floats or complex numbers, got dtype 'O8'",
    ),
    "a large dtype": (
        array(EIGHT, b"K\1\x85", dtype=DTYPE.replace(text("f8"), text("V999999999"))),
        "got dtype 'V9999",
    ),
    "a subarray dtype": (array(EIGHT, b"K\1\x85", dtype=DTYPE.replace(text("f8"), text("9f8"))), "dtype '9f8'"),
    "an aligned dtype": (
        array(EIGHT, b"K\1\x85", dtype=DTYPE.replace(b"\x89\x88", b"\x88\x88")),
        "expected a REDUCE that creates",
    ),
    "a dtype's alignment": (
        array(EIGHT, b"K\1\x85", dtype=DTYPE.replace(b"K\0tb", b"M\0\xfftb")),
        "expected a BUILD that creates",
    ),
    "a dtype's byte order": (
        array(EIGHT, b"K\1\x85", dtype=DTYPE.replace(text("<"), text("?"))),
        "expected a BUILD that creates",
    ),
    "a dtype as leaf": (DTYPE, "expected a plain array .*, got a Float64DType"),
    "wrong bools": (
        array(b"C\x01\x02", b"K\1\x85", dtype=DTYPE.replace(b"f8", b"b1")),
        "expected bools stored as 0 or 1",
    ),
    "a scalar too short": (
        SCALAR + DTYPE + b"C\x04" + bytes(4) + b"\x86R",
        "expected all bytes of an array .*, got 4 bytes",
    ),
    "a scalar of objects": (
        SCALAR + DTYPE.replace(b"f8", b"O8") + EIGHT + b"\x86R",
        "floats or complex numbers, got dtype 'O8'",
    ),
    "another type of array": (
        EMPTY.replace(b"ndarray", b"matrix"),
        "expected only dicts, arrays and plain scalars, got 'numpy.matrix'",
    ),
    "a dtype as the type of an array": (
        RECONSTRUCT + DTYPE + b"K\0\x85C\x01b\x87R",
        "expected a REDUCE that creates an array",
    ),
    "an array that begins with a size": (EMPTY.replace(b"K\0", b"K\5"), "expected a REDUCE that creates an array"),
    "an order that is a number": (
        EMPTY + b"(K\1K\1\x85" + DTYPE + b"K\1" + EIGHT + b"tb",
        "expected a BUILD that creates",
    ),
    "expected an array, got one without content": (EMPTY, "expected an array, got one without content"),
    "an array within itself": (
        memoize(EMPTY, 0) + b"(K\1K\1\x85" + DTYPE + b"\x89h\0tb",
        "expected an array, got one without content",
    ),
    "content twice": (EMPTY + (b"(K\1K\0\x85" + DTYPE + b"\x89C\0tb") * 2, "expected a BUILD that creates"),
    "another encoding": (
        global_name("_codecs", "encode") + text("ab") + text("zip") + b"\x86R",
        "expected a REDUCE that creates",
    ),
    "a global as leaf": (global_name("numpy", "ndarray"), "expected a plain array .*, got a _Global"),
    "a state for a global": (
        global_name("numpy", "dtype") + b"N}" + text("x") + b"K\1s\x86b",
        "expected a BUILD that creates",
    ),
    "a state for a dict": (b"}}" + text("x") + b"K\1sb", "expected a BUILD that creates"),
    "a state for an array": (array(EIGHT, b"K\1\x85") + b"}b", "expected a BUILD that creates"),
    "a call of text": (text("numpy dtype") + text("f8") + b"\x85R", "expected a REDUCE that creates an array"),
    "a call of an array": (array(EIGHT, b"K\1\x85") + b")R", "expected a REDUCE that creates an array"),
    "arguments that are no tuple": (global_name("numpy", "dtype") + b"}R", "expected a REDUCE that creates an array"),
    "a dotted name in a global": (global_name("numpy", "ndarray.dump"), "expected only .*, got 'numpy.ndarray.dump'"),
    "a global with an escape": (global_name("n\\x75mpy", "dtype"), "expected only .*, got 'n"),
    "a global split elsewhere": (text("numpy dtype") + text("") + b"\x93", "expected only .*, got 'numpy dtype.'"),
    "a global that is no text": (b"K\1K\1\x93", "expected str instance"),
    "a global without end": (b"cnumpy", "expected only dicts, arrays"),
    "a new object": (global_name("numpy", "ndarray") + b")\x81", "got opcode NEWOBJ$"),
    "a new object with names": (global_name("numpy", "ndarray") + b")}\x92", "got opcode NEWOBJ_EX$"),
    "an instance": (b"(ios\nsystem\n", "got opcode INST$"),
    "an object": (b"(" + global_name("numpy", "dtype") + b"o", "got opcode OBJ$"),
    "a persistent id": (b"Pid\n", "got opcode PERSID$"),
    "a persistent object": (b"NQ", "got opcode BINPERSID$"),
    "an extension": (b"\x82\x01", "got opcode EXT1$"),
    "a far extension": (b"\x84\x01\x00\x00\x00", "got opcode EXT4$"),
    "a buffer out of band": (b"\x97", "got opcode NEXT_BUFFER$"),
    "python 2's text, a wrong escape": (b"S'\\q'\n", "got opcode STRING$"),
    "a list": (b"]", "got opcode EMPTY_LIST$"),
    "an item for a list": (b"NNa", "got opcode APPEND$"),
    "a key that is a tuple": (b"})Ns", "expected keys of type str, got a tuple"),
    "keys that collide": (b"}" + integer((1 << 61) - 1) + b"Ns", "expected keys of type str, got an int"),
    "a key twice": (b"}" + (text("a") + b"Ns") * 2, "expected each key once, got 'a' twice"),
    "a key without value": (b"}(" + text("a") + b"u", "shorter"),
    "entries of a number": (b"K\1" + text("a") + b"Ns", "expected a dict to add entries to"),
    "two trees": (b"NN", "expected the end of the pickle, with one tree"),
    "no tree": (b"", "expected the end of the pickle, with one tree"),
    "an empty stack": (b"\x87", "expected 3 items on the stack, got 0"),
    "no mark": (b"t", "pop from empty list"),
    "an unused memo index": (b"h\x09", "index out of range"),
    "a large memo index": (b"Nr\xff\xff\xff\x7f", "expected a memo index of at most 0, got 2147483647"),
    "a large unused memo index": (b"j\xff\xff\xff\x7f", "index out of range"),
    "no such opcode": (b"\xff", "expected an opcode of pickle, got another byte"),
    "bytes that are not text": (b"X\x01\x00\x00\x00\xff", "can't decode"),
    "text without end": (b"\x8d" + b"\xff" * 7 + b"\x7f", "expected .* bytes"),
    "bytes without end": (b"\x8e" + b"\xff" * 7 + b"\x7f", "expected .* bytes"),
    "more bytes than memory": (b"B\xff\xff\xff\xff", "expected .* bytes"),
    "a bytearray without end": (b"\x96" + b"\xff" * 7 + b"\x7f", "expected .* bytes"),
    "a number without end": (b"\x8b\xff\xff\xff\x7f", "not enough data"),
    "a negative length": (b"\x8b\xff\xff\xff\xff", "< 0"),
}


@pytest.mark.parametrize(("content", "message"), FORGED_PICKLES.values(), ids=FORGED_PICKLES)
def test_load_refuses_forged_opcodes_with_little_memory(scratch: Path, content: bytes, message: str) -> None:
    scratch.write_bytes(b"\x80\x05" + content + b".")

    def read() -> None:
        with pytest.raises(CheckpointError, match=rf"params.pkl: .*{message}"):
            load(scratch)

    assert_memory_below(read, len(content), 10)


def test_load_errors_are_short(scratch: Path) -> None:
    for content in (
        global_name("m" * 10**6, "n" * 10**6),
        b"}" + (text("k" * 10**6) + b"Ns") * 2,
        b"}" + text("k" * 10**6) + b")s",
    ):
        scratch.write_bytes(b"\x80\x05" + content + b".")
        with pytest.raises(CheckpointError) as raised:
            load(scratch)
        assert len(str(raised.value)) < 400 + len(str(scratch))


def nest_twice(content: bytes) -> bytes:
    """Returns a tuple with the same tuple twice, 100 levels deep: printing or hashing it would take for ever."""
    return content + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(100))


MEGABYTE = memoize(b"B\0\0\x10\0" + bytes(1 << 20), 0)
BOMBS = {
    "arrays that share bytes": (
        b"}("
        + text("a")
        + array(MEGABYTE, integer(1 << 17) + b"\x85")
        + b"".join(text(str(n)) + array(b"h\0", integer(1 << 17) + b"\x85") for n in range(300))
        + b"u",
        "expected arrays with bytes of their own, got shared bytes",
    ),
    "text encoded many times": (
        memoize(text("\xff" * (1 << 20)), 0)
        + b"".join(global_name("_codecs", "encode") + b"h\0" + text("latin1") + b"\x86R" for _ in range(300)),
        "expected arrays with bytes of their own, got shared bytes",
    ),
    "an exponential name of a global": (nest_twice(b"N") + text("x") + b"\x93", "expected str instance, tuple found"),
    "a call of an exponential tuple": (nest_twice(b"N") + b")R", "expected a REDUCE that creates an array"),
    "exponential arguments": (
        global_name("numpy", "dtype") + nest_twice(b"N") + b"R",
        "expected a REDUCE that creates an array",
    ),
    "an exponential state": (EMPTY + nest_twice(b"N") + b"b", "expected a BUILD that creates"),
    "an exponential shape": (array(EIGHT, nest_twice(b"N")), "expected a shape"),
    "an exponential key": (b"}" + nest_twice(b"N") + b"Ns", "expected keys of type str, got a tuple"),
    "an exponential tree": (nest_twice(b"N"), "the tree: expected a plain array .*, got a tuple"),
    "a long key on a deep path": (
        b"}" + memoize(text("x" * (1 << 20)), 0) + b"}" + b"h\0}" * 89 + b"h\0)" + b"s" * 91,
        "'x{80}/x{80}/.*': expected a plain array .*, got a tuple",
    ),
    "marks": (b"(" * 100_000, "expected the end of the pickle, with one tree"),
    "dicts": (b"}" * 100_000, "expected the end of the pickle, with one tree"),
    "memo entries": (b"N" + b"\x94" * 100_000 + b"]", "got opcode EMPTY_LIST$"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("content", "message"), BOMBS.values(), ids=BOMBS)
def test_load_refuses_bombs_with_little_memory(scratch: Path, content: bytes, message: str) -> None:
    scratch.write_bytes(b"\x80\x05" + content + b".")

    def read() -> None:
        with pytest.raises(CheckpointError, match=rf"params.pkl: .*{message}"):
            load(scratch)

    assert_memory_below(read, len(content), 80)  # an empty dict takes 64 bytes in memory and one in the file


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_load_uses_at_most_five_times_the_size_of_a_large_file(scratch: Path, protocol: int) -> None:
    scratch.write_bytes(pickle.dumps({"w": np.random.default_rng(0).random((1000, 500))}, protocol))
    assert_memory_below(lambda: load(scratch), scratch.stat().st_size, 5)


# Damaged and foreign files


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_load_refuses_every_truncation(scratch: Path, protocol: int) -> None:
    content = pickle.dumps(EXAMPLE_TREE, protocol)
    scratch.write_bytes(content)
    for length in reversed(range(len(content))):
        os.truncate(scratch, length)
        with pytest.raises(CheckpointError, match=r"params.pkl: "):
            load(scratch)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_load_of_300_mutations_raises_or_returns_a_tree(scratch: Path, protocol: int) -> None:
    original, rng = pickle.dumps(EXAMPLE_TREE, protocol), random.Random(protocol)
    refused = 0
    for _ in range(300):
        changed = bytearray(original)
        for _ in range(rng.choice([1, 1, 1, 4])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        scratch.write_bytes(changed)
        try:
            assert is_tree(load(scratch))
        except CheckpointError as error:
            assert str(error).startswith(f"{scratch}: ")  # noqa: PT017
            refused += 1
    assert 50 < refused < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "got an empty file", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n", r"got a file that begins with b'\\x89PNG", id="picture"),
        pytest.param(b"PK\x03\x04", "got a file that begins with b'PK", id="zip"),
        pytest.param(
            pickle.dumps({}, 0), r"expected a pickle of protocol 2 to 5, got a file that begins with b'\(dp0", id="old"
        ),
        pytest.param(pickle.dumps({}) + b"\n", "expected the end of the pickle, with one tree", id="more"),
        pytest.param(pickle.dumps({}) * 2, "expected the end of the pickle, with one tree", id="two"),
    ],
)
def test_load_refuses_files_of_other_formats(scratch: Path, content: bytes, message: str) -> None:
    scratch.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"params.pkl: .*{message}"):
        load(scratch)
