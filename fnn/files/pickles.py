"""Pickles of trees: written so that memory orders survive, and read as data, without looking up what they name."""

import pickle
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple
from zlib import crc32

import numpy as np

from fnn.files.arrays import CODES, array, naturals
from fnn.op import Array
from fnn.tree import Tree


def encode(tree: Tree) -> list[Any]:
    """The pickle of `tree` and, after its end, where Python's own `pickle` reads no more, the CRC-32 of its bytes."""
    pieces: list[Any] = []
    file: Any = SimpleNamespace(write=pieces.append)
    TreePickler(file, protocol=5).dump(tree)
    checksum = 0
    for piece in pieces:
        checksum = crc32(piece, checksum)
    return [*pieces, checksum.to_bytes(4, "little")]


def decode(data: bytes) -> Tree:
    """The tree in a pickle of protocol 2 to 5, of NumPy 1 or 2; its leaves are still to be checked."""
    if not data.startswith(pickle.PROTO):
        begins = f"begins with {data[:8]!r}" if data else "is empty"
        raise ValueError(f"a pickle of protocol 2 to 5 wanted, but the file {begins}")
    reader = TreeReader(data)
    try:
        return reader.read()
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"damaged, or no tree: byte {reader.at}: {error}") from error


class TreePickler(pickle.Pickler):
    """Keeps the order of the axes in memory; NumPy's own pickles do so for dense arrays, and before 2.3 for fewer."""

    def reducer_override(self, obj: Any) -> Any:
        """What pickle calls for each object: our way for arrays of other orders, NumPy's for all else."""
        if type(obj) is not np.ndarray or obj.flags.forc:
            return NotImplemented
        axes = sorted(range(obj.ndim), key=lambda axis: -abs(obj.strides[axis]))
        dense = np.ascontiguousarray(obj.transpose(axes))
        data: Any = dense.reshape(-1).view(np.uint8)
        rebuild, (buffer, *_) = data.__reduce_ex__(5)
        return rebuild, (buffer, obj.dtype, dense.shape, "K", tuple(np.argsort(axes).tolist()))


GLOBALS = {"numpy ndarray", "numpy dtype", "_codecs encode", "__builtin__ bytes"} | {
    f"numpy.{core}.{name}"
    for core in ("core", "_core")  # NumPy 1, NumPy 2
    for name in ("multiarray _reconstruct", "multiarray scalar", "numeric _frombuffer")
}
"""Every global that pickles of arrays and NumPy scalars name."""

TAKES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
TAKES |= {"SETITEM": 2, "SETITEMS": None, "STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 2}
"""How many items an opcode takes off the stack; None is all those above the last mark."""


class _Global(NamedTuple):
    """One of GLOBALS, by its last name. What it stands for is never looked up."""

    name: str


class _Made:
    """What a pickle makes in two steps: a dtype, whose byte order comes later, or an array, which is None at first."""

    def __init__(self, value: Any = None) -> None:
        self.value = value


class TreeReader:
    """Reads the pickle of a tree by doing what its opcodes say, on data alone.

    `pickle.Unpickler` with a strict `find_class` would still let a few bytes ask for gigabytes (by a place in its memo,
    or by bytes that many arrays share), collide the hashes of keys, or set attributes on what `find_class` returns.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.file, self.at = data, BytesIO(data), 0
        self.left = 2 * len(data)  # bytes still to be made; protocol 2 makes an array's twice, from text
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []

    def read(self) -> Tree:
        """What the pickle holds: dicts with string keys, whose leaves are still to be checked."""
        from pickletools import opcodes

        known, name = {opcode.code: opcode for opcode in opcodes}, ""
        while name != "STOP":
            self.at = self.file.tell()
            code = self.file.read(1).decode("latin-1")
            if code not in known:
                raise ValueError("no opcode of a pickle" if code else "the file ends early")
            name = known[code].name
            self.step(name, known[code].arg)
        rest = self.file.read(5)
        if len(self.stack) != 1 or len(rest) not in (0, 4):
            raise ValueError("the pickle should end here, with one tree")
        if rest and rest != crc32(memoryview(self.data)[:-4]).to_bytes(4, "little"):
            raise ValueError("the checksum that follows is not that of what came before")
        return _value(self.stack[0])

    def step(self, name: str, argument: Any) -> None:
        """Does what one opcode says; one that trees do not need is refused before its argument is read."""
        push, items = self.stack.append, self.take(TAKES[name]) if name in TAKES else ()
        match name:
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                push(argument.reader(self.file))
            case "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8" | "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8":
                push(argument.reader(self.file))
            case "BYTEARRAY8":
                push(bytes(argument.reader(self.file)))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push(None if name == "NONE" else name == "NEWTRUE")
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "TUPLE":
                push(items)
            case "EMPTY_DICT":
                push({})
            case "SETITEM" | "SETITEMS":
                self.fill(items)
            case "MARK":
                self.marks.append(len(self.stack))
            case "MEMOIZE":
                self.memo.append(self.stack[-1])
            case "BINPUT" | "LONG_BINPUT":
                self.remember(argument.reader(self.file))
            case "BINGET" | "LONG_BINGET":
                push(self.memo[argument.reader(self.file)])
            case "GLOBAL":
                push(_global(*(self.file.readline().decode().removesuffix("\n") for _ in range(2))))
            case "STACK_GLOBAL":
                push(_global(*items))
            case "REDUCE":
                push(self.call(*items))
            case "BUILD":
                push(self.build(*items))
            case "PROTO" | "FRAME":
                argument.reader(self.file)
            case "STOP":
                pass
            case _:
                raise ValueError(f"{name} is no part of a tree of dicts, arrays and plain scalars")

    def take(self, n: int | None) -> tuple[Any, ...]:
        """The last `n` items of the stack, or all those above the last mark, taken off it."""
        start = self.marks.pop() if n is None else len(self.stack) - n
        if start < 0:
            raise ValueError("the stack is empty")
        items = tuple(self.stack[start:])
        del self.stack[start:]
        return items

    def remember(self, place: int) -> None:
        """Keeps the last item at a place of the memo, which grows by one place at a time, as `pickle` numbers them."""
        if place > len(self.memo):
            raise ValueError(f"place {place} in a memo of {len(self.memo)}")
        self.memo[place : place + 1] = [self.stack[-1]]

    def fill(self, items: tuple[Any, ...]) -> None:
        """Puts keys and values, which `items` alternates, into the dict on the stack."""
        entries = self.stack[-1]
        if type(entries) is not dict:
            raise ValueError("entries for what is no dict")
        for name, value in zip(items[::2], items[1::2], strict=True):
            if type(name) is not str:
                raise ValueError(f"a dict has a key of type {type(name).__name__}; wanted a str")
            if name in entries:
                raise ValueError(f"a dict has the key {name[:80]!r} twice")
            entries[name] = _value(value)

    def call(self, function: Any, args: Any) -> Any:
        """What NumPy's pickles mean by calling one of GLOBALS."""
        match function, _values(args):
            case _Global("bytes"), ():
                return b""
            case _Global("encode"), (str(text), "latin1"):
                self.spend(len(text))
                return text.encode("latin1")
            case _Global("dtype"), (str(code), 0, 1) if code in CODES:
                return _Made(np.dtype(code))
            case _Global("dtype"), (str(code), 0, 1):
                raise ValueError(f"an array of dtype {code[:20]!r}; wanted bools, integers, floats or complex numbers")
            case _Global("_reconstruct"), (_Global("ndarray"), (0,), b"b"):
                return _Made()
            case _Global("scalar"), (np.dtype() as dtype, bytes(data)):
                return self.array(data, dtype, ())[()]
            case _Global("_frombuffer"), (bytes(data), np.dtype() as dtype, shape, "C" | "F" as order):
                return self.array(data, dtype, shape, order)
            case _Global("_frombuffer"), (bytes(data), np.dtype() as dtype, shape, "K", axes):
                return self.array(data, dtype, shape).transpose(naturals(axes))
        raise ValueError("a call that makes no array")

    def build(self, made: Any, state: Any) -> _Made:
        """What NumPy's pickles mean by giving a dtype or an array its state."""
        match made, _values(state):
            case _Made(value=np.dtype() as dtype), (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0):
                made.value = np.dtype(order + dtype.str[1:])
            case _Made(value=None), (1, shape, np.dtype() as dtype, bool(fortran), bytes(data)):
                made.value = self.array(data, dtype, shape, "F" if fortran else "C")
            case _:
                raise ValueError("a state that no array and no dtype of numbers has")
        return made

    def array(self, data: bytes, dtype: np.dtype[Any], shape: Any, order: Literal["C", "F"] = "C") -> Array:
        """A new array of these bytes."""
        self.spend(len(data))
        return array(data, dtype, shape, order)

    def spend(self, n: int) -> None:
        """Counts `n` bytes that are made, so that a few of the file's can't be made into many."""
        self.left -= n
        if self.left < 0:
            raise ValueError("arrays that share bytes, and are larger than the file")


def _value(item: Any) -> Any:
    if not isinstance(item, _Made):
        return item
    if item.value is None:
        raise ValueError("an array without content")
    return item.value


def _values(items: Any) -> Any:
    return tuple(map(_value, items)) if type(items) is tuple else None


def _global(module: str, name: str) -> _Global:
    if " ".join((module, name)) not in GLOBALS:  # a TypeError for what is no text: to show it could take for ever
        told = f"{module[:50]}.{name[:50]}"
        raise ValueError(f"{told!r} is refused: only dicts, NumPy arrays and plain scalars are admitted")
    return _Global(name)
