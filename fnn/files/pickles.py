"""Pickles of trees. Writing keeps memory orders. Reading only interprets data: it imports and calls nothing in it."""

import pickle
from types import SimpleNamespace
from typing import Any, BinaryIO, Literal, NamedTuple
from zlib import crc32

import numpy as np

from fnn.checks.arrays import Array
from fnn.checks.errors import describe
from fnn.files.allowed import CODES, check_sizes, describe_start, make_array, read_bytes
from fnn.tree import Tree

# All names that pickles of arrays and NumPy scalars refer to.
GLOBALS = {"numpy ndarray", "numpy dtype", "_codecs encode", "__builtin__ bytes"} | {
    f"numpy.{core}.{name}"
    for core in ("core", "_core")  # NumPy 1, NumPy 2
    for name in ("multiarray _reconstruct", "multiarray scalar", "numeric _frombuffer")
}

# How many items an opcode takes from the stack. None: all items above the last mark.
TAKES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
TAKES |= {"SETITEM": 2, "SETITEMS": None, "STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 2}

# How many bytes the length of bytes has.
SIZES = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}


def encode(tree: Tree) -> list[Any]:
    """The pickle of `tree`, then its CRC-32. Python's own `pickle` stops before the checksum."""
    pieces: list[Any] = []
    file: Any = SimpleNamespace(write=pieces.append)
    _Pickler(file, protocol=5).dump(tree)
    checksum = 0
    for piece in pieces:
        checksum = crc32(piece, checksum)
    return [*pieces, checksum.to_bytes(4, "little")]


def decode(file: BinaryIO, size: int) -> Tree:
    """The tree in a pickle of protocol 2 to 5 by NumPy 1 or 2. The caller checks its leaves."""
    start = file.read(8)
    if not start.startswith(pickle.PROTO):
        raise ValueError(f"expected a pickle of protocol 2 to 5, got {describe_start(start)}")
    file.seek(0)
    reader = _Reader(file, size)
    try:
        return reader.read()
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"damaged, or not a tree: byte {reader.position}: {error}") from error


class _Pickler(pickle.Pickler):
    """Keeps the memory order of the axes. NumPy's own pickles keep it for dense arrays, before 2.3 only for some.

    With other memory orders than C and Fortran, the pickle is like those of NumPy 2.3, which earlier ones cannot read.
    """

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not np.ndarray or obj.flags.forc:
            return NotImplemented
        axes = sorted(range(obj.ndim), key=lambda axis: -abs(obj.strides[axis]))
        dense = np.ascontiguousarray(obj.transpose(axes))
        data: Any = dense.reshape(-1).view(np.uint8)
        rebuild, (buffer, *_) = data.__reduce_ex__(5)
        return rebuild, (buffer, obj.dtype, dense.shape, "K", tuple(np.argsort(axes).tolist()))


class _Global(NamedTuple):
    """One of GLOBALS, by the last part of its name. It is only compared, never imported."""

    name: str


class _TwoStep:
    """An object that a pickle completes later: a dtype without its byte order, or an array without content (None)."""

    def __init__(self, value: Any = None) -> None:
        self.value = value


class _Limited:
    """A file for `pickletools`, whose lengths of texts and ints may be huge in a damaged file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, n: int) -> bytes:
        return self.file.read(min(n, self.size - self.file.tell()))


class _Reader:
    """Interprets the opcodes of a tree's pickle, on data only.

    `pickle.Unpickler` with a strict `find_class` is not enough: a few bytes could still ask for gigabytes (with a far
    memo index, or with bytes that many arrays share), use keys with equal hashes, or set attributes of found classes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.position = file, size, 0
        self.limited = _Limited(file, size)
        self.budget = 2 * size  # in bytes; protocol 2 creates an array's bytes twice, from text
        self.owned: set[int] = set()  # the ids of bytes that are the memory of an array
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []

    def read(self) -> Tree:
        from pickletools import opcodes

        known, name = {opcode.code: opcode for opcode in opcodes}, ""
        while name != "STOP":
            self.position = self.file.tell()
            code = self.file.read(1).decode("latin-1")
            if code not in known:
                raise ValueError(f"expected an opcode of pickle, got {'another byte' if code else 'the end'}")
            name = known[code].name
            self.run_opcode(name, known[code].arg)
        rest = self.file.read(5)
        if len(self.stack) != 1 or len(rest) not in (0, 4):
            raise ValueError("expected the end of the pickle, with one tree")
        if rest and rest != self.compute_checksum().to_bytes(4, "little"):
            raise ValueError("the checksum at the end does not match the content")
        return _get_value(self.stack[0])

    def compute_checksum(self) -> int:
        """The CRC-32 of the file without its last four bytes."""
        checksum, rest = 0, self.size - 4
        self.file.seek(0)
        while rest and (chunk := self.file.read(min(rest, 1 << 20))):
            checksum, rest = crc32(chunk, checksum), rest - len(chunk)
        return checksum

    def run_opcode(self, name: str, argument: Any) -> None:
        """Does what one opcode says. An opcode that trees do not need is an error before its argument is read."""
        push, items = self.stack.append, self.take(TAKES[name]) if name in TAKES else ()
        match name:
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                push(argument.reader(self.limited))
            case "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                push(argument.reader(self.limited))
            case "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                n = int.from_bytes(self.file.read(SIZES[name]), "little")
                if n > (rest := self.size - self.file.tell()):
                    raise ValueError(f"expected {n} bytes, got {rest}")
                push(read_bytes(self.file, n))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push(None if name == "NONE" else name == "NEWTRUE")
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "TUPLE":
                push(items)
            case "EMPTY_DICT":
                push({})
            case "SETITEM" | "SETITEMS":
                self.fill_dict(items)
            case "MARK":
                self.marks.append(len(self.stack))
            case "MEMOIZE" | "BINPUT" | "LONG_BINPUT":
                index = len(self.memo) if name == "MEMOIZE" else argument.reader(self.limited)
                if index > len(self.memo):  # `pickle` itself counts without gaps
                    raise ValueError(f"expected a memo index of at most {len(self.memo)}, got {index}")
                self.memo[index : index + 1] = [self.stack[-1]]
            case "BINGET" | "LONG_BINGET":
                push(self.memo[argument.reader(self.limited)])
            case "GLOBAL" | "STACK_GLOBAL":
                names = items or [self.file.readline().decode().removesuffix("\n") for _ in range(2)]
                if " ".join(names) not in GLOBALS:  # not a text? `join` fails quickly, while repr might never end
                    raise ValueError(f"expected only dicts, arrays and plain scalars, got {'.'.join(names)[:80]!r}")
                push(_Global(names[1]))
            case "REDUCE" | "BUILD":
                push(self.build(name, *items))
            case "PROTO" | "FRAME":
                argument.reader(self.limited)
            case "STOP":
                pass
            case _:
                raise ValueError(f"expected only dicts, arrays and plain scalars, got opcode {name}")

    def take(self, n: int | None) -> tuple[Any, ...]:
        """Removes and returns the last `n` items of the stack. None: all above the last mark."""
        start = self.marks.pop() if n is None else len(self.stack) - n
        if start < 0:
            raise ValueError(f"expected {n} items on the stack, got {len(self.stack)}")
        items = tuple(self.stack[start:])
        del self.stack[start:]
        return items

    def fill_dict(self, items: tuple[Any, ...]) -> None:
        """Puts `items`, alternately keys and values, into the dict on the stack."""
        entries = self.stack[-1]
        if type(entries) is not dict:
            raise ValueError("expected a dict to add entries to, got another type")
        for name, value in zip(items[::2], items[1::2], strict=True):
            if type(name) is not str:
                raise ValueError(f"expected keys of type str, got {describe(name)}")
            if name in entries:
                raise ValueError(f"expected each key once, got {name[:80]!r} twice")
            entries[name] = _get_value(value)

    def build(self, name: str, target: Any, args: Any) -> Any:
        """What NumPy's pickles mean by a call of one of GLOBALS (REDUCE) or by a state (BUILD). Nothing is called."""
        match name, target, tuple(map(_get_value, args)) if type(args) is tuple else None:
            case "REDUCE", _Global("bytes"), ():
                return bytearray()
            case "REDUCE", _Global("encode"), (str(text), "latin1"):
                self.spend(len(text))
                return bytearray(text, "latin1")
            case "REDUCE", _Global("dtype"), (str(code), 0, 1):
                if code not in CODES:
                    raise ValueError(f"expected bools, integers, floats or complex numbers, got dtype {code[:20]!r}")
                return _TwoStep(np.dtype(code))
            case "REDUCE", _Global("_reconstruct"), (_Global("ndarray"), (0,), b"b"):
                return _TwoStep()
            case "REDUCE", _Global("scalar"), (np.dtype() as dtype, bytearray(data)):
                return self.make_array(data, dtype, ())[()]
            case "REDUCE", _Global("_frombuffer"), (bytearray(data), np.dtype() as dtype, shape, "C" | "F" as order):
                return self.make_array(data, dtype, shape, order)
            case "REDUCE", _Global("_frombuffer"), (bytearray(data), np.dtype() as dtype, shape, "K", axes):
                return self.make_array(data, dtype, shape).transpose(check_sizes(axes))
            case "BUILD", _TwoStep(value=np.dtype()), (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0):
                target.value = np.dtype(order + target.value.str[1:])
            case "BUILD", _TwoStep(value=None), (1, shape, np.dtype() as dtype, bool(fortran), bytearray(data)):
                target.value = self.make_array(data, dtype, shape, "F" if fortran else "C")
            case _:
                raise ValueError(f"expected a {name} that creates an array of numbers, got another one")
        return target

    def make_array(self, data: bytearray, dtype: np.dtype[Any], shape: Any, order: Literal["C", "F"] = "C") -> Array:
        self.spend(len(data))
        if id(data) in self.owned:  # two arrays have the same bytes in the file
            data = data.copy()
        self.owned.add(id(data))
        return make_array(data, dtype, shape, order)

    def spend(self, n: int) -> None:
        """Counts `n` new bytes, so that a small file cannot create large arrays."""
        self.budget -= n
        if self.budget < 0:
            raise ValueError("expected arrays with bytes of their own, got shared bytes, larger than the file")


def _get_value(item: Any) -> Any:
    if not isinstance(item, _TwoStep):
        return item
    if item.value is None:
        raise ValueError("expected an array, got one without content")
    return item.value
