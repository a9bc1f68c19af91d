"""Checks of what a user passes, shared by all modules. Messages say `expected …, got …` and, where short, the fix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf, isfinite, prod
from numbers import Real
from operator import index
from typing import Any, TypeAlias

import numpy as np
from numpy import ndarray  # looked up in a third of the time of `np.ndarray`, which every operator would pay
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Sizes: TypeAlias = tuple[int | str | None, ...]
"""A shape to expect: None is any size, and a name is any size as long as it is the same at each place of the name."""

ANY: Sizes = (None,)

FLOATS = frozenset(map(np.dtype, ("float16", "float32", "float64")))
"""The dtypes that operators compute in, in native byte order."""

INTEGERS = frozenset(map(np.dtype, ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")))


class _Missing:
    def __repr__(self) -> str:
        return "<missing>"


MISSING: Any = _Missing()
"""The default of an argument for which every other value, None included, has a meaning."""


class OpError(ValueError):
    """Bad input to an operator: says where in the network, what was expected and what it got.

    `missing` means that the params lack an entry.
    """

    def __init__(self, message: str, kind: str = "", missing: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.missing = missing
        self.path: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = "/".join(self.path) or self.kind
        return f"{where}: {self.message}" if where else self.message


def told(value: Any) -> str:
    """How an error names a value: an array by its dtype and shape, anything else by its type."""
    kind = type(value)
    if kind is ndarray or kind is np.memmap:
        return f"{value.dtype} {value.shape}"
    name = kind.__name__
    if isinstance(value, ndarray):
        name = f"{kind.__module__}.{name}"
    elif kind.__module__.startswith("numpy.random"):
        name = f"NumPy {name}"
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def shown(value: Any) -> str:
    """A short value as Python writes it, any other as `told` names it."""
    scalars = int | float | str | bytes | np.generic | None
    several = isinstance(value, tuple | list) and len(value) <= 8 and all(isinstance(n, scalars) for n in value)
    if several or isinstance(value, scalars):
        text = repr(value)
        return text if len(text) <= 60 else told(value)
    return told(value)


def makes(function: Any, *types: Any) -> bool:
    """Whether the function is annotated to return one of the types: a constructor in the place of what it makes."""
    return getattr(function, "__annotations__", {}).get("return") in types


def as_int(value: Any) -> int | None:
    """The int of Python's for an int, NumPy's included; None for anything else, bools and floats included."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def check_int(name: str, value: Any, minimum: int = 0, error: type[ValueError] = ValueError) -> int:
    """`value` as an int of Python's. Raises `error` unless it is an int, NumPy's included, of at least `minimum`."""
    number = as_int(value)
    if number is None or number < minimum:
        raise error(f"{name}: expected an int of at least {minimum}, got {shown(value)}")
    return number


def check_real(
    name: str,
    value: Any,
    *,
    at_least: float = -inf,
    above: float = -inf,
    at_most: float = inf,
    below: float = inf,
    error: type[ValueError] = ValueError,
) -> float:
    """`value` as a float of Python's, which keeps float32 arrays float32. Raises `error` unless it is in the range."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an int too large for a float
            number = inf
        if isfinite(number) and at_least <= number <= at_most and above < number < below:
            return number
    if -inf < at_least and at_most < inf:
        wanted = f"number from {at_least:g} to {at_most:g}"
    else:
        limits = {"of at least": at_least, "above": above, "of at most": at_most, "below": below}
        wanted = "finite number " + " and ".join(f"{words} {n:g}" for words, n in limits.items() if abs(n) < inf)
    raise error(f"{name}: expected a {wanted.strip()}, got {shown(value)}")


def check_positive(name: str, value: Any, error: type[ValueError] = ValueError) -> float:
    """`check_real` for numbers above 0."""
    return check_real(name, value, above=0, error=error)


def check_non_negative(name: str, value: Any, error: type[ValueError] = ValueError) -> float:
    """`check_real` for numbers of at least 0."""
    return check_real(name, value, at_least=0, error=error)


def check_fraction(name: str, value: Any, error: type[ValueError] = ValueError) -> float:
    """`check_real` for numbers of at least 0 and below 1."""
    return check_real(name, value, at_least=0, below=1, error=error)


def check_shape(shape: Any, minimum: int = 0, where: str = "") -> tuple[int, ...]:
    """The shape with ints of Python's. Raises OpError, which names `where`, unless it is a tuple of such ints."""
    if isinstance(shape, tuple) and (sizes := _sizes(shape, minimum)) is not None:
        return sizes
    several = isinstance(shape, list) or (isinstance(shape, ndarray) and shape.ndim > 0)
    meant = _sizes(shape if several else [shape], minimum)
    fix = "" if meant is None else f"; write {meant}"
    least = f" of at least {minimum}" if minimum else ""
    wanted = f"expected the shape of one example, a tuple of ints{least} without the batch axis"
    raise OpError(f"{wanted}, got {shown(shape)}{fix}", where)


def _sizes(values: Iterable[Any], minimum: int) -> tuple[int, ...] | None:
    """The values as ints of Python's; None if one is not an int of at least `minimum`."""
    sizes = [as_int(value) for value in values]
    return tuple(n for n in sizes if n is not None) if all(n is not None and n >= minimum for n in sizes) else None


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
        return f"expected an array of {wanted}, got {told(value)}{fix}"
    if type(value) is not ndarray and type(value) is not np.memmap:
        masked = isinstance(value, np.ma.MaskedArray)
        fix = f"fill the masked values first: {name}.filled(0)" if masked else f"use np.asarray({name})"
        return f"expected a plain array, got {told(value)}; {fix}"
    if value.dtype.kind in "iu" if integers else value.dtype in FLOATS:
        return None
    if value.dtype.kind == "f" and not integers:
        dtype = f"float{8 * min(value.itemsize, 8)}"
        wanted = "float16, float32 or float64 in native byte order"
    fix = f"; use {name}.astype(np.{dtype})" if value.dtype.kind in "fiub" else ""
    return f"expected an array of {wanted}, got {told(value)}{fix}"


def check_batch(x: Any, integers: bool) -> Array:
    """`x` as a plain ndarray. Raises OpError unless it is an array of floats, or of integers, with a batch axis."""
    fault = array_fault("x", x, integers)
    if fault or not x.ndim:
        raise OpError(fault or f"expected an array with a batch axis, got {told(x)}")
    return np.asarray(x)


def check_cotangent(dy: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """`dy` as a plain ndarray. Raises OpError unless it has the output's shape and dtype."""
    fault = array_fault("dy", dy, dtype.kind in "iu")
    if fault or dy.shape != shape or dy.dtype != dtype:
        raise OpError(f"cotangent: {fault or f'expected the {dtype} {shape} of the output, got {told(dy)}'}")
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
                raise OpError(f"{name}: expected {dtype} as {next(iter(shapes))!r} is, got {told(array)}")
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
    return OpError(f"{name}: expected shape ({', '.join(sizes)}{',' if len(sizes) == 1 else ''}), got {told(array)}")


def check_no_params(params: Any) -> None:
    """Raises OpError unless `params` are an empty dict."""
    if type(params) is not dict or params:
        get_params(params, {})


def params_error(params: Any, names: Mapping[str, Any], kind: str = "") -> OpError:
    """The error that says why `params` are not a dict of exactly these names, those with None left out."""
    wanted = [name for name, what in names.items() if what is not None]
    if not isinstance(params, dict):
        return OpError(f"expected params as a dict{' of ' * bool(wanted)}{_listed(wanted)}, got {told(params)}", kind)
    extra, lacking = [n for n in params if n not in wanted], [n for n in wanted if n not in params]
    fixes = [f"{_listed(lacking)} {'is' if len(lacking) == 1 else 'are'} missing"] if lacking else []
    fixes += [f"remove {_listed(extra)}"] if extra else []
    came = _listed(list(params)) or "none"
    expected = f"params {_listed(wanted)}" if wanted else "no params"
    return OpError(f"expected {expected}, got {came}; {'; '.join(fixes)}", kind, bool(lacking))


def _listed(names: list[Any], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more
