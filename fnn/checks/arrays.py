"""Checks of arrays and params that a user passes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy import ndarray  # a lookup of `np.ndarray` in each check takes three times as long
from numpy.typing import NDArray

from fnn.checks.errors import OpError, describe, describe_value, join_first

Array: TypeAlias = NDArray[Any]
# An expected shape: None is any size, and a name is any size that is the same wherever the name appears.
Sizes: TypeAlias = tuple[int | str | None, ...]
ANY: Sizes = (None,)

FLOATS = frozenset(map(np.dtype, ("float16", "float32", "float64")))  # in native byte order
INTEGERS = frozenset(map(np.dtype, ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")))


def array_fault(name: str, value: Any, integers: bool = False) -> str | None:
    """Explains why `value` is not an array of floats, or of integers, and how to fix it. None if it is one.

    Floats are float16, float32 or float64 in native byte order. Subclasses of ndarray other than memmap are errors:
    `*` is a matrix product for np.matrix, and most functions ignore the mask of a masked array.
    """
    expected, dtype, fix = ("integers", "int64", "") if integers else ("floats", "float32", "")
    if not isinstance(value, ndarray):
        if isinstance(value, list | tuple):
            fix = f"; use np.array({name}, np.{dtype})"
        elif hasattr(value, "__array__") and not isinstance(value, np.generic):
            fix = f"; use np.asarray({name})"
        return f"expected an array of {expected}, got {describe(value)}{fix}"
    if type(value) is not ndarray and type(value) is not np.memmap:
        masked = isinstance(value, np.ma.MaskedArray)
        fix = f"fill the masked values first: {name}.filled(0)" if masked else f"use np.asarray({name})"
        return f"expected a plain array, got {describe(value)}; {fix}"
    if value.dtype.kind in "iu" if integers else value.dtype in FLOATS:
        return None
    if value.dtype.kind == "f" and not integers:
        dtype = f"float{8 * min(value.itemsize, 8)}"
        expected = "float16, float32 or float64 in native byte order"
    if value.dtype.kind in "fiub":
        fix = f"; use {name}.astype(np.{dtype})"
    return f"expected an array of {expected}, got {describe(value)}{fix}"


def check_batch(x: Any, integers: bool, params: Any) -> Array:
    """`x` as a plain ndarray. Raises OpError unless it is an array of floats, or of integers, with a batch axis."""
    if isinstance(x, dict) and not isinstance(params, dict):
        raise OpError("expected apply(params, x), got apply(x, params); swap the arguments")
    fault = array_fault("x", x, integers)
    if fault or not x.ndim:
        raise OpError(fault or f"expected an array with a batch axis, got {describe(x)}")
    return np.asarray(x)


def check_cotangent(dy: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """`dy` as a plain ndarray. Raises OpError unless it has the output's shape and dtype."""
    fault = array_fault("dy", dy, dtype.kind in "iu")
    if fault or dy.shape != shape or dy.dtype != dtype:
        raise OpError(f"cotangent: {fault or f'expected the {dtype} {shape} of the output, got {describe(dy)}'}")
    return np.asarray(dy)


def input_error(x: Array, dtype: Any, example: Mapping[str, int | None], flat: bool = False) -> OpError:
    """The error that explains why `x` is not a batch of such examples of that dtype (None: any), and how to fix it.

    `example` has the name and size (None: any) of each axis of an example; "...", first or last, is any number of axes.
    With `flat`, all axes of an example are flattened into one.
    """
    if dtype is not None and x.dtype != dtype:
        return OpError(f"expected {dtype} input as the params are, got {x.dtype}; use x.astype(np.{dtype})")
    axes = ["batch", *(name if size is None else str(size) for name, size in example.items())]
    expected = f"expected shape ({', '.join(axes)}), got {x.shape}"
    if _is_example(x.shape, example) or (flat and prod(x.shape) in example.values()):
        return OpError(f"{expected}; for one example use x[None]")
    sizes = {"features": prod(x.shape[1:])} if flat else dict(zip(example, x.shape[1:], strict=False))
    wrong = [name for name, n in sizes.items() if example[name] not in (None, n)]
    if len(wrong) == 1 and x.ndim > 1 and (flat or x.ndim == 1 + len(example)) and "..." not in example:
        product = f" ({' * '.join(map(str, x.shape[1:]))})" if flat and x.ndim > 2 else ""
        return OpError(f"expected {example[wrong[0]]} input {wrong[0]}, got {sizes[wrong[0]]}{product}")
    lacks_channel = x.ndim == len(example) and next(iter(example.values())) == 1
    return OpError(f"{expected}; use x[:, None]" if lacks_channel else expected)


def _is_example(shape: tuple[int, ...], example: Mapping[str, int | None]) -> bool:
    """Whether an array of that shape is one example."""
    sizes = [size for name, size in example.items() if name != "..."]
    if len(shape) < len(sizes) or ("..." not in example and len(shape) > len(sizes)):
        return False
    part = shape[: len(sizes)] if [*example][-1] == "..." else shape[len(shape) - len(sizes) :]
    return all(size in (None, n) for size, n in zip(sizes, part, strict=True))


def get_params(params: Any, shapes: Mapping[str, Sizes | None]) -> list[Any]:
    """Returns the arrays in `params` in the order of `shapes`, which has each one's name and shape; None for no array.

    Raises OpError unless params are a dict of exactly these names, with arrays of these shapes and of one float dtype.
    """
    if type(params) is not dict or len(params) != len(shapes):  # a quick test for operators with all their arrays
        _check_count(params, shapes)
    arrays: list[Any] = []
    sizes_by_name: dict[Any, int] = {}
    dtype = None
    for name, expected in shapes.items():
        if expected is None:
            if len(params) == len(shapes):
                raise params_error(params, shapes)
            arrays.append(None)
            continue
        if name not in params:
            raise params_error(params, shapes)
        array = params[name]
        if type(array) is not ndarray or (array.dtype is not dtype and array.dtype not in FLOATS):
            if fault := array_fault(name, array):
                raise OpError(f"{name}: {fault}")
            array = np.asarray(array)
        if dtype is None:
            dtype = array.dtype
        elif array.dtype is not dtype and array.dtype != dtype:
            raise OpError(f"{name}: expected {dtype} as {next(iter(shapes))!r} is, got {describe(array)}")
        shape = array.shape
        # The second test is for speed: most weights may have any size along their first axis only.
        if shape != expected and (expected[:1] != ANY or not shape or shape[1:] != expected[1:]):
            if len(shape) != len(expected):
                raise _shape_error(name, array, expected, sizes_by_name)
            for n, size in zip(shape, expected):  # noqa: B905 `strict` takes time
                if n != size and size is not None and (type(size) is int or sizes_by_name.setdefault(size, n) != n):
                    raise _shape_error(name, array, expected, sizes_by_name)
        arrays.append(array)
    return arrays


def _check_count(params: Any, shapes: Mapping[str, Sizes | None]) -> None:
    if not isinstance(params, dict) or len(params) + [*shapes.values()].count(None) != len(shapes):
        raise params_error(params, shapes)


def _shape_error(name: str, array: Array, expected: Sizes, sizes_by_name: Mapping[Any, int]) -> OpError:
    sizes = ["any" if size is None else str(sizes_by_name.get(size, size)) for size in expected]
    comma = "," if len(sizes) == 1 else ""
    return OpError(f"{name}: expected shape ({', '.join(sizes)}{comma}), got {describe(array)}")


def check_no_params(params: Any) -> None:
    """Raises OpError unless `params` are an empty dict."""
    if type(params) is not dict or params:
        get_params(params, {})


def check_part_names(params: Any, parts: Mapping[str, Any]) -> None:
    """Raises OpError unless `params` are a dict of the params of these parts."""
    if type(params) is dict and len(params) == len(parts) > 0:
        return  # a wrong name is a KeyError in the caller, which `Op` explains
    if not isinstance(params, dict) or any(name not in parts for name in params):
        raise params_error(params, parts)


def params_error(params: Any, shapes: Mapping[str, Any], kind: str = "") -> OpError:
    """The error that explains why `params` are not a dict of the names in `shapes`, apart from those with None."""
    expected = [name for name, shape in shapes.items() if shape is not None]
    if not isinstance(params, dict):
        names = f" of {_join(expected)}" if expected else ""
        return OpError(f"expected params as a dict{names}, got {describe(params)}", kind)
    extra, missing = [n for n in params if n not in expected], [n for n in expected if n not in params]
    fixes = [f"{_join(missing)} {'is' if len(missing) == 1 else 'are'} missing"] if missing else []
    fixes += [f"remove {_join(extra)}"] if extra else []
    wanted = f"params {_join(expected)}" if expected else "no params"
    got = _join(list(params)) or "none"
    return OpError(f"expected {wanted}, got {got}; {'; '.join(fixes)}", kind, bool(missing))


def _join(names: list[Any]) -> str:
    return join_first([*map(describe_value, names)], 8)
