"""Checks of arrays and params that a user passes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy import ndarray  # looked up in a third of the time of `np.ndarray`, which every operator would pay
from numpy.typing import NDArray

from fnn.checks.errors import OpError, describe, describe_value

Array: TypeAlias = NDArray[Any]
Sizes: TypeAlias = tuple[int | str | None, ...]
"""A shape to expect: None is any size, and a name is any size as long as it is the same at each place of the name."""

ANY: Sizes = (None,)

FLOATS = frozenset(map(np.dtype, ("float16", "float32", "float64")))
"""The dtypes that operators compute in, in native byte order."""

INTEGERS = frozenset(map(np.dtype, ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")))


def array_fault(name: str, value: Any, integers: bool = False) -> str | None:
    """What is wrong with `value` as an array of floats, or of integers, and the fix; None if nothing is.

    Floats are float16, float32 or float64 in native byte order. Subclasses of ndarray other than memmap are refused:
    `*` is another product for np.matrix, and most functions forget the mask of a masked array.
    """
    wanted, dtype = ("integers", "int64") if integers else ("floats", "float32")
    if not isinstance(value, ndarray):
        fix = ""
        if isinstance(value, list | tuple):
            fix = f"; use np.array({name}, np.{dtype})"
        elif hasattr(value, "__array__") and not isinstance(value, np.generic):
            fix = f"; use np.asarray({name})"
        return f"expected an array of {wanted}, got {describe(value)}{fix}"
    if type(value) is not ndarray and type(value) is not np.memmap:
        masked = isinstance(value, np.ma.MaskedArray)
        fix = f"fill the masked values first: {name}.filled(0)" if masked else f"use np.asarray({name})"
        return f"expected a plain array, got {describe(value)}; {fix}"
    if value.dtype.kind in "iu" if integers else value.dtype in FLOATS:
        return None
    if value.dtype.kind == "f" and not integers:
        dtype = f"float{8 * min(value.itemsize, 8)}"
        wanted = "float16, float32 or float64 in native byte order"
    fix = f"; use {name}.astype(np.{dtype})" if value.dtype.kind in "fiub" else ""
    return f"expected an array of {wanted}, got {describe(value)}{fix}"


def check_batch(x: Any, integers: bool) -> Array:
    """`x` as a plain ndarray. Raises OpError unless it is an array of floats, or of integers, with a batch axis."""
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
    """The error that says why `x` is not a batch of such examples, of that dtype (None: of any), and the fix.

    `example` has the name and size (None: any) of each axis of an example; "...", first or last, is any number of axes.
    With `flat`, all axes of an example are flattened into one.
    """
    axes = ["batch", *(name if size is None else str(size) for name, size in example.items())]
    wanted = f"expected shape ({', '.join(axes)})"
    if dtype is not None and x.dtype != dtype:
        return OpError(f"expected {dtype} input as the params are, got {x.dtype}; use x.astype(np.{dtype})")
    if _fits(x.shape, example) or (flat and prod(x.shape) in example.values()):
        return OpError(f"{wanted}, got {x.shape}; for one example use x[None]")
    sizes = {"features": prod(x.shape[1:])} if flat else dict(zip(example, x.shape[1:], strict=False))
    wrong = [name for name, n in sizes.items() if example[name] not in (None, n)]
    if len(wrong) == 1 and x.ndim > 1 and (flat or x.ndim == 1 + len(example)) and "..." not in example:
        of = f" ({' * '.join(map(str, x.shape[1:]))})" if flat and x.ndim > 2 else ""
        return OpError(f"expected {example[wrong[0]]} input {wrong[0]}, got {sizes[wrong[0]]}{of}")
    no_channel = x.ndim == len(example) and next(iter(example.values())) == 1
    return OpError(f"{wanted}, got {x.shape}" + ("; use x[:, None]" if no_channel else ""))


def _fits(shape: tuple[int, ...], example: Mapping[str, int | None]) -> bool:
    """Whether an array of that shape is one example."""
    sizes = [size for name, size in example.items() if name != "..."]
    if len(shape) < len(sizes) or ("..." not in example and len(shape) > len(sizes)):
        return False
    part = shape[: len(sizes)] if [*example][-1] == "..." else shape[len(shape) - len(sizes) :]
    return all(size in (None, n) for size, n in zip(sizes, part, strict=True))


def get_params(params: Any, shapes: Mapping[str, Sizes | None]) -> list[Any]:
    """The arrays in `params`, in the order of `shapes`, which says the name and shape of each; None for no such array.

    Raises OpError unless params are a dict of exactly these names, and the arrays of one float dtype and such shapes.
    """
    if not isinstance(params, dict):
        raise params_error(params, shapes)
    arrays: list[Any] = []
    named: dict[Any, int] = {}
    dtype, absent = None, 0
    try:
        for name, wanted in shapes.items():
            if wanted is None:
                arrays.append(None)
                absent += 1
                continue
            array = params.get(name)
            if type(array) is not ndarray or (array.dtype is not dtype and array.dtype not in FLOATS):
                array = _check_floats(name, array)
            if dtype is None:
                dtype = array.dtype
            elif array.dtype is not dtype and array.dtype != dtype:
                raise OpError(f"{name}: expected {dtype} as {next(iter(shapes))!r} is, got {describe(array)}")
            shape = array.shape
            # The second test is for speed: most weights are of any size along their first axis alone.
            if shape != wanted and (wanted[:1] != ANY or not shape or shape[1:] != wanted[1:]):
                if len(shape) != len(wanted):
                    raise _shape_error(name, array, wanted, named)
                for n, size in zip(shape, wanted):  # noqa: B905 `strict` takes time
                    if n == size or size is None:
                        continue
                    if type(size) is int or named.setdefault(size, n) != n:
                        raise _shape_error(name, array, wanted, named)
            arrays.append(array)
    except OpError as error:  # other names explain more than that an array does not fit
        known = {name for name, wanted in shapes.items() if wanted is not None}
        raise (error if params.keys() == known else params_error(params, shapes)) from None
    if len(params) != len(arrays) - absent:
        raise params_error(params, shapes)
    return arrays


def _check_floats(name: str, value: Any) -> Array:
    if fault := array_fault(name, value):
        raise OpError(f"{name}: {fault}")
    return np.asarray(value)


def _shape_error(name: str, array: Array, wanted: Sizes, named: Mapping[Any, int]) -> OpError:
    sizes = ["any" if size is None else str(named.get(size, size)) for size in wanted]
    return OpError(
        f"{name}: expected shape ({', '.join(sizes)}{',' if len(sizes) == 1 else ''}), got {describe(array)}"
    )


def check_no_params(params: Any) -> None:
    """Raises OpError unless `params` are an empty dict."""
    if type(params) is not dict or params:
        get_params(params, {})


def params_error(params: Any, names: Mapping[str, Any], kind: str = "") -> OpError:
    """The error that says why `params` are not a dict of exactly these names, those with None left out."""
    wanted = [name for name, what in names.items() if what is not None]
    if not isinstance(params, dict):
        return OpError(
            f"expected params as a dict{' of ' * bool(wanted)}{_listed(wanted)}, got {describe(params)}", kind
        )
    extra, lacking = [n for n in params if n not in wanted], [n for n in wanted if n not in params]
    fixes = [f"{_listed(lacking)} {'is' if len(lacking) == 1 else 'are'} missing"] if lacking else []
    fixes += [f"remove {_listed(extra)}"] if extra else []
    came = _listed(list(params)) or "none"
    expected = f"params {_listed(wanted)}" if wanted else "no params"
    return OpError(f"expected {expected}, got {came}; {'; '.join(fixes)}", kind, bool(lacking))


def _listed(names: list[Any], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(describe_value, names[:most])) + more
