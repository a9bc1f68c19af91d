"""The one type of the library: an operator, which is a pair of pure functions that knows what it is called."""

# Here and in all modules whose functions make functions at each step: a vjp's annotations took 0.7 µs to evaluate.
from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any, ParamSpec, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fnn.calibration import uncalibrated, warning_once
from fnn.kernels.underflow import allow_underflow, allowed
from fnn.random import Key, Rng, as_key
from fnn.tree import tree_leaves, tree_map

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Params: TypeAlias = dict[str, Any]
Grads: TypeAlias = Params | Callable[[], Params]
"""Cotangents of parameters, or a function that waits for them."""


class Vjp(Protocol):
    """What `apply` returns beside its output: takes the output's cotangent to those of the parameters and the input."""

    def __call__(self, dy: Array, need_dx: bool = True, /) -> tuple[Params, Any]:
        """`(dparams, dx)`; with `need_dx` False nobody reads `dx`: it may be None, and its work is skipped."""


class Pull(Protocol):
    """What an operator is built from: a `Vjp` that may give, in the place of `dparams`, a function to wait for them."""

    def __call__(self, dy: Array, need_dx: bool = True, /) -> tuple[Grads, Any]:
        """`(dparams, dx)`, or `(wait, dx)` where `wait()` is `dparams`."""


class OpVjp(Vjp, Protocol):
    """The `Vjp` of an `Op`, which operators made of it may call as the `Pull` that it was built from."""

    def __call__(self, dy: Array, need_dx: bool = True, wait: bool = True, /) -> tuple[Any, Any]:
        """As a `Vjp`, or, with `wait` False, as a `Pull`."""


class OpError(ValueError):
    """Bad input to an operator: says where in the network, what came and what was wanted.

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


def locate(error: Exception, name: str) -> None:
    """Puts `name`, the part of a larger operator that `error` came from, in front of its path."""
    if isinstance(error, OpError):
        error.path = (name, *error.path)
    else:
        error.add_note(f"in {name}")


class Op:
    """An operator: `init(rng, shape) -> params` and `apply(params, x) -> (y, vjp)`, unpacked by `init, apply = op`.

    It is built from two such functions, and adds to them what holds for every operator: seeds become keys, what is no
    shape or no batch is refused at the door, and errors say whose they are. `draws` says that the given `apply` takes
    a third argument, the key that it draws from or None to draw nothing; any other never sees the key. `integers`
    says that its input holds integers and no floats; what is made of parts takes what the first of them takes. `kind`
    and `config` (its hyper-parameters by name) say what it is, `maker` which function made it, by `operator`, and
    `parts` what it is made of: enough for `repr`, a table of the network and an exporter.

    `statistics` names the params that `calibrate` estimates, with their initial values. Without a key, `apply` warns if
    they still have these. As an attribute it holds them for all operators in this one, by their paths.
    """

    __slots__ = (
        *("_apply", "_arguments", "_init", "_names", "config", "draws", "integers", "kind", "maker", "parts"),
        *("statistics", "warned"),
    )

    def __init__(
        self,
        init: Callable[[Key, Shape], Params],
        apply: Callable[..., tuple[Array, Pull]],
        *,
        kind: str = "op",
        parts: Mapping[str, Op] | None = None,
        draws: bool = False,
        integers: bool = False,
        statistics: Mapping[str, float] | None = None,
    ) -> None:
        self._init, self._apply, self.kind, self.draws = init, apply, kind, draws
        self.parts: Mapping[str, Op] = dict(parts or {})
        self._names = [name for name in self.parts if name]
        self.integers: bool = integers or next((part.integers for part in self.parts.values()), False)
        self.config: Mapping[str, Any] = {}
        self.maker: Callable[..., Op] | None = None
        self._arguments: tuple[str, ...] | None = None
        self.statistics: dict[tuple[str, ...], dict[str, float]] = {(): dict(statistics)} if statistics else {}
        for name, part in self.parts.items():
            self.statistics |= {((name, *path) if name else path): own for path, own in part.statistics.items()}
        self.warned = False

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.apply))

    def __repr__(self) -> str:
        if self._arguments is None:
            return self.kind
        line = f"{self.kind}({', '.join(self._arguments)})"
        if len(line) <= 100 or not self.parts:
            return line
        inner = ",\n".join(self._arguments).replace("\n", "\n    ")
        return f"{self.kind}(\n    {inner},\n)"

    def init(self, rng: Rng, shape: Shape) -> Params:
        """The initial parameters, float32, for inputs of `shape` (one example's, without the batch axis).

        A shape that the operator cannot take is an OpError already here: its output's shape is found on the way.
        """
        key = as_key(rng)
        try:
            if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)):
                raise OpError(f"shape is {shape!r}, wanted one example's: a tuple of ints, without the batch axis")
            params = self._init(key, shape)
        except OpError as error:
            error.kind = error.kind or self.kind
            raise
        self.output_shape(params, shape)
        return params

    def output_shape(self, params: Params, shape: Shape) -> Shape:
        """The shape of one example's output, found by applying the operator to an empty batch."""
        y, _ = self.apply(params, np.empty((0, *shape), np.int64 if self.integers else np.float32))
        return y.shape[1:]

    def apply(self, params: Params, x: Array, key: Rng | None = None) -> tuple[Array, OpVjp]:
        """`(y, vjp)` for a batch `x` of shape (batch, *shape); dtypes follow `x`, and nothing given is changed.

        What draws in it draws from `key`, or not at all. `vjp(dy, need_dx=True)` is `(dparams, dx)`, and may be called
        any number of times, from any thread. It reads `x`, `params` and `y`, which must keep their values as long as
        it is wanted; `y` may be a view of `x`, as that of `flatten` is. The cotangent of integers is zeros, of `dy`'s
        dtype.

        `params` may lack the empty dicts of operators without parameters, as params from a file do; `dparams` then
        lacks them as well. Without a key and with a batch that is not empty, an UncalibratedWarning lists, once, the
        batch_norms whose statistics still have their initial values.
        """
        if self.statistics and key is None and (paths := uncalibrated(self, params, x)):
            with warning_once(self, paths):
                return self.apply(params, x, key)
        if not allowed.get():
            return allow_underflow(self.apply, params, x, key)
        try:
            if self._names and len(params) < len(self._names):
                return self._apply_completed(params, x, key)
            if not (isinstance(x, np.ndarray) and x.ndim and x.dtype.kind in ("iu" if self.integers else "f")):
                wanted = "integers" if self.integers else "floats"
                raise OpError(f"input is {told(x)}, wanted an array of {wanted} with a batch axis")
            arguments = (params, x, key if key is None else as_key(key)) if self.draws else (params, x)
            if x.dtype.itemsize > 2 and not self.integers:
                y, pull = self._apply(*arguments)
            else:
                y, pull = apply_in_float32(self._apply, *arguments) if not self.parts else self._apply(*arguments)
        except OpError as error:
            error.kind = error.kind or self.kind
            raise
        except (KeyError, TypeError, IndexError) as error:
            self._explain(error, params)
            raise

        shape, dtype = y.shape, y.dtype  # and not `y` itself, which an operator that needs it keeps, and only that

        def vjp(dy: Array, need_dx: bool = True, wait: bool = True, /) -> tuple[Any, Any]:
            if not allowed.get():
                return allow_underflow(vjp, dy, need_dx, wait)
            if not (isinstance(dy, np.ndarray) and dy.shape == shape and dy.dtype == dtype):
                raise OpError(f"cotangent is {told(dy)}, wanted the output's {dtype} {shape}", self.kind)
            try:
                pulled = pull(dy, need_dx)
                return (pulled[0](), pulled[1]) if wait and callable(pulled[0]) else pulled
            except OpError as error:
                error.kind = error.kind or self.kind
                raise

        return y, vjp

    def _apply_completed(self, params: Params, x: Array, key: Rng | None) -> tuple[Array, OpVjp]:
        """`apply` with an empty dict for each part that `params` lacks."""
        absent = [name for name in self._names if name not in params]
        try:
            y, vjp = self.apply(params | {name: {} for name in absent}, x, key)
        except OpError as error:
            if error.missing and error.path and error.path[0] in absent:  # the part is one with parameters
                self._explain(KeyError(error.path[0]), params)
            raise

        def restricted(dy: Array, need_dx: bool = True, wait: bool = True, /) -> tuple[Any, Any]:
            dparams, dx = vjp(dy, need_dx)
            return {name: grads for name, grads in dparams.items() if name not in absent}, dx

        return y, restricted

    def _explain(self, error: KeyError | TypeError | IndexError, params: Params) -> None:
        """Raises an OpError in the place of an error whose cause is that `params` are not this operator's."""
        missing = isinstance(params, dict) and isinstance(error, KeyError) and error.args[0] not in params
        if missing or not isinstance(params, dict):
            came = f"hold {sorted(params)}" if isinstance(params, dict) else f"are {told(params)}"
            wanted = f"{error.args[0]!r} among them" if missing else "a dict"
            raise OpError(f"params {came}, wanted {wanted}", self.kind, missing) from None


def apply_in_float32(
    apply: Callable[..., tuple[Array, Pull]], params: Params, x: Array, *key: Any
) -> tuple[Array, Pull]:
    """`apply(params, x, *key)`, computed in float32 and rounded once if all floats among `params` and `x` are float16.

    float16 holds numbers up to 65504 only: sums, counts and eps would overflow in it or round to zero.
    """
    floats = {a.dtype for a in (*tree_leaves(params), x) if isinstance(a, np.ndarray) and a.dtype.kind == "f"}
    if floats != {np.dtype(np.float16)}:
        return apply(params, x, *key)
    y, pull = apply(tree_map(_widen, params), _widen(x), *key)

    def rounded(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
        dparams, dx = pull(_widen(dy), need_dx)
        dparams = dparams() if callable(dparams) else dparams
        return tree_map(_round_to_half, dparams), None if dx is None else _round_to_half(dx)

    return _round_to_half(y), rounded


def _widen(a: Any) -> Any:
    return a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == np.float16 else a


def _round_to_half(a: Array) -> Array:
    return a.astype(np.float16) if a.dtype.kind == "f" else a


P = ParamSpec("P")


def operator(make: Callable[P, Op]) -> Callable[P, Op]:
    """Decorates a constructor of operators: what it makes bears its name and the arguments that it was called with.

    `config` holds all arguments by name, the defaults among them; `repr` shows the call as one would write it.
    """
    signature = inspect.signature(make)

    @functools.wraps(make)
    def construct(*args: P.args, **kwargs: P.kwargs) -> Op:
        try:
            op = copy(make(*args, **kwargs))  # whatever it gives may be another's as well, with a name of its own
        except OpError as error:
            error.kind = error.kind or make.__name__
            raise
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        op.kind, op.config, op.maker = make.__name__, dict(bound.arguments), make
        op.warned = False
        op._arguments = tuple(_arguments(signature, op.config))
        return op

    return construct


def _arguments(signature: inspect.Signature, config: Mapping[str, Any]) -> Iterator[str]:
    """The arguments as one would write them: those at their defaults left out, the optional ones by name."""
    for name, parameter in signature.parameters.items():
        value = config[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            yield from map(repr, value)
        elif value is not parameter.default:
            shown = value.__name__ if inspect.isfunction(value) else repr(value)
            yield shown if parameter.default is parameter.empty else f"{name}={shown}"


def rebuild(op: Op, change: Callable[[Op], Op]) -> Op:
    """Makes `op` again, with `change(part)` in the place of each operator among the arguments that it was made with.

    Finds operators in tuples, lists and dicts of arguments as well. A constructor may return what another one made, for
    example a block of layers: then `change` gets this operator as a whole. Returns `op` itself if it has no maker, or
    no operators among its arguments.
    """
    if op.maker is None:
        return op
    found = False

    def changed(value: Any) -> Any:
        nonlocal found
        if isinstance(value, Op):
            found = True
            return change(value)
        if isinstance(value, dict):
            return {key: changed(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            kind = type(value)
            return getattr(kind, "_make", kind)(map(changed, value))
        return value

    def make(maker: Callable[..., Op], config: Mapping[str, Any]) -> Op:
        bound = inspect.BoundArguments(inspect.signature(maker), OrderedDict(config))
        return maker(*bound.args, **bound.kwargs)

    made = make(op.maker, op.config)
    if made.maker is None:
        config = {name: changed(value) for name, value in op.config.items()}
        return make(operator(op.maker), config) if found else op
    again = copy(change(made))
    again.kind, again.config, again.maker, again._arguments = op.kind, op.config, op.maker, op._arguments
    return again


def fitting(params: Params, name: str, shape: tuple[int | None, ...], dtype: Any = None) -> Array:
    """`params[name]`; an OpError unless it is an array of that shape (None: of any length) and, where given, dtype."""
    value: Array = params[name]
    if isinstance(value, np.ndarray) and len(value.shape) == len(shape) and (dtype is None or value.dtype == dtype):
        if value.shape == shape:
            return value
        for came, n in zip(value.shape, shape, strict=True):  # in half the time of all(...)
            if n is not None and n != came:
                break
        else:
            return value
    wanted = str(tuple("any" if n is None else n for n in shape)).replace("'any'", "any")
    raise OpError(f"params hold {told(value)} as {name!r}, wanted {dtype or 'floats'} {wanted}")


def told(value: Any) -> str:
    """How an error names a value: an array by its dtype and shape, anything else by its type."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
