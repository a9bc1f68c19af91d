"""The one type of the library: an operator, which is a pair of pure functions that knows what it is called."""

# Here and in all modules whose functions make functions at each step: a vjp's annotations took 0.7 µs to evaluate.
from __future__ import annotations

import functools
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from math import inf
from typing import Any, NoReturn, ParamSpec, Protocol, TypeAlias

import numpy as np
from numpy import ndarray

from fnn.calibration import uncalibrated, warning_once
from fnn.checks.arrays import FLOATS, INTEGERS, check_batch, check_cotangent, params_error
from fnn.checks.arrays import Array as Array
from fnn.checks.calls import bind_arguments, format_arguments, format_call
from fnn.checks.errors import OpError as OpError
from fnn.checks.errors import describe as describe
from fnn.checks.errors import describe_value, is_constructor_of
from fnn.checks.values import check_shape
from fnn.kernels.underflow import allow_underflow, allowed
from fnn.random import Key, Rng, as_key
from fnn.tree import tree_leaves, tree_map

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


def prepend_path(error: Exception, name: str) -> None:
    """Puts `name`, the part of a larger operator that `error` came from, in front of its path."""
    if isinstance(error, OpError):
        error.path = (name, *error.path)
    else:
        error.add_note(f"in {name}")


class Op:
    """An operator: `init(rng, shape) -> params` and `apply(params, x) -> (y, vjp)`, unpacked by `init, apply = op`.

    It is built from two such functions, `init(key, shape)` and `apply(params, x)`. Seeds become keys, shapes, inputs
    and cotangents are checked, and errors name the operator.

    `draws=True`: the given `apply` takes a third argument, a key; None means no randomness (prediction).
    `parts`: the operators that it is made of, by their names in its params; "" for the one whose params are its own.
    `needs_key=True`: it draws random numbers itself, beside its parts. Training without a key is then an error, as it
    is for an operator without `parts` that takes a key, and for an operator with such a part.
    `integers=True`: the input holds integers, not floats; an operator with parts takes what its first part takes.
    `kind`, `config` (hyper-parameters by name) and `maker` (the constructor, set by `operator`) describe it: enough for
    `repr`, a table of the network and an exporter.
    `statistics`: the params that `calibrate` estimates, with their initial values. Without a key, `apply` warns if they
    still have these. As an attribute it holds them for all operators in this one, by their paths.
    """

    __slots__ = (
        "_apply",
        "_arguments",
        "_dtypes",
        "_init",
        "_names",
        "config",
        "draws",
        "integers",
        "kind",
        "maker",
        "needs_key",
        "parts",
        "statistics",
        "warned",
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
        needs_key: bool = False,
        statistics: Mapping[str, float] | None = None,
    ) -> None:
        self._init, self._apply, self.kind, self.draws = init, apply, kind, draws or needs_key
        self.parts: Mapping[str, Op] = {name: check_operator(part) for name, part in (parts or {}).items()}
        self._names = [name for name in self.parts if name]
        own = needs_key or (draws and parts is None)
        self.needs_key: bool = own or any(part.needs_key for part in self.parts.values())
        self.integers: bool = integers or next((part.integers for part in self.parts.values()), False)
        self._dtypes = INTEGERS if self.integers else FLOATS
        self.config: Mapping[str, Any] = {}
        self.maker: Callable[..., Op] | None = None
        self._arguments: tuple[str, ...] | None = None
        self.statistics: dict[tuple[str, ...], dict[str, float]] = {(): dict(statistics)} if statistics else {}
        for name, part in self.parts.items():
            self.statistics |= {((name, *path) if name else path): own for path, own in part.statistics.items()}
        self.warned = False

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.apply))

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises OpError, which says what to write: an operator is not a function."""
        applied = any(isinstance(value, ndarray | dict) for value in (*args, *kwargs.values()))
        raise OpError(
            "expected op.apply(params, x), got op(...)"
            if applied
            else f"expected {self!r} itself, got a call of it; it is an operator already, leave out the parentheses",
            self.kind,
        )

    def __repr__(self) -> str:
        if self._arguments is None:
            return self.kind
        return format_call(self.kind, self._arguments, 100 if self.parts else inf)

    def init(self, rng: Rng, shape: Shape) -> Params:
        """The initial parameters, float32, for inputs of `shape` (one example's, without the batch axis).

        Raises OpError for a shape that the operator cannot take.
        """
        try:
            if isinstance(rng, tuple) and not isinstance(rng, Key):
                raise OpError("expected init(rng, shape), got init(shape, rng); swap the arguments")
            key, shape = as_key(rng), check_shape(shape)
            params = self._init(key, shape)
            if not isinstance(params, dict):
                raise OpError(f"expected init to return a dict of arrays, got {describe(params)}")
        except OpError as error:
            error.kind = error.kind or self.kind
            raise
        except TypeError as error:
            self._explain_call(error, "init(key, shape)", self._init, rng, shape)
            raise
        self.output_shape(params, shape)
        return params

    def output_shape(self, params: Params, shape: Shape) -> Shape:
        """The shape of one example's output, found by applying the operator to an empty batch."""
        empty = np.empty((0, *check_shape(shape, where=self.kind)), np.int64 if self.integers else np.float32)
        y, _ = self.apply(params, empty)
        return y.shape[1:]

    def apply(self, params: Params, x: Array, key: Rng | None = None) -> tuple[Array, OpVjp]:
        """`(y, vjp)` for a batch `x` of shape (batch, *shape); dtypes follow `x`, and nothing given is changed.

        Random operators use `key`; without one they are deterministic. `vjp(dy, need_dx=True)` is `(dparams, dx)`, and
        may be called any number of times, from any thread. It reads `x`, `params` and `y`, so do not change them before
        the last call; `y` may be a view of `x`, as that of `flatten` is. The cotangent of integers is zeros, of `dy`'s
        dtype. Raises OpError for params and inputs that do not fit.

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
            if self._names and type(params) is dict and len(params) < len(self._names):
                return self._apply_completed(params, x, key)
            if type(x) is not ndarray or x.dtype not in self._dtypes or not x.ndim:
                if isinstance(x, dict) and not isinstance(params, dict):
                    raise OpError("expected apply(params, x), got apply(x, params); swap the arguments")
                x = check_batch(x, self.integers)
            if key is not None:
                key = as_key(key, "key")
            arguments = (params, x, key) if self.draws else (params, x)
            if self.parts or (x.dtype.itemsize > 2 and not self.integers):
                result = self._apply(*arguments)
            else:
                result = apply_in_float32(self._apply, *arguments)
            try:
                y, pull = result
            except (TypeError, ValueError):
                raise OpError(f"expected apply to return (y, vjp), got {describe(result)}") from None
            if type(y) is not ndarray or not callable(pull):
                y = _check_result(y, pull, result)
        except OpError as error:
            error.kind = error.kind or self.kind
            raise
        except (KeyError, TypeError, IndexError) as error:
            self._explain_params(error, params)
            wanted = "apply(params, x, key)" if self.draws else "apply(params, x)"
            self._explain_call(error, wanted, self._apply, params, x, *[key] * self.draws)
            raise

        shape, dtype = y.shape, y.dtype  # not `y` itself, which would then be kept for operators that do not need it

        def check_and_pull(dy: Array, need_dx: bool, wait: bool) -> tuple[Any, Any]:
            try:
                if type(dy) is not ndarray or dy.shape != shape or dy.dtype != dtype:
                    dy = check_cotangent(dy, shape, dtype)
                pulled = pull(dy, need_dx)
                try:
                    dparams, dx = pulled
                except (TypeError, ValueError):
                    raise OpError(f"expected vjp to return (dparams, dx), got {describe(pulled)}") from None
                if not isinstance(dparams, dict):
                    if not callable(dparams):
                        raise OpError(f"expected vjp to return (dparams, dx), got {describe(dparams)} as dparams")
                    if wait:
                        dparams = dparams()
                return dparams, dx
            except OpError as error:
                error.kind = error.kind or self.kind
                raise
            except TypeError as error:
                self._explain_call(error, "vjp(dy, need_dx=True)", pull, dy, need_dx)
                raise

        def vjp(dy: Array, need_dx: bool = True, wait: bool = True, /) -> tuple[Any, Any]:
            return allow_underflow(check_and_pull, dy, need_dx, wait)

        return y, vjp

    def _apply_completed(self, params: Params, x: Array, key: Rng | None) -> tuple[Array, OpVjp]:
        """`apply` with an empty dict for each part that `params` lacks."""
        absent = [name for name in self._names if name not in params]
        try:
            y, vjp = self.apply(params | {name: {} for name in absent}, x, key)
        except OpError as error:
            if error.missing and error.path and error.path[0] in absent:  # the part is one with parameters
                self._explain_params(KeyError(error.path[0]), params)
            raise

        def restricted(dy: Array, need_dx: bool = True, wait: bool = True, /) -> tuple[Any, Any]:
            dparams, dx = vjp(dy, need_dx)
            return {name: grads for name, grads in dparams.items() if name not in absent}, dx

        return y, restricted

    def _explain_params(self, error: KeyError | TypeError | IndexError, params: Any) -> None:
        """Raises an OpError in the place of an error whose cause is that `params` are not this operator's."""
        missing = isinstance(params, dict) and isinstance(error, KeyError) and error.args[0] not in params
        if missing or not isinstance(params, dict):
            names = [name for name in self.parts if name] or ([*params, error.args[0]] if missing else [])
            raise params_error(params, dict.fromkeys(names, True), self.kind) from None

    def _explain_call(self, error: Exception, wanted: str, f: Callable[..., Any], *args: Any) -> None:
        """Raises an OpError in the place of an error whose cause is that `f` does not take these arguments."""
        try:
            signature = inspect.signature(f)
        except ValueError:
            return
        try:
            signature.bind(*args)
        except TypeError:
            name = wanted.partition("(")[0]
            message = f"expected {wanted}, got {name}({', '.join(signature.parameters)})"
            raise OpError(message, self.kind) from error


def _check_result(y: Any, pull: Any, result: Any) -> Array:
    """`y` as a plain ndarray. Raises OpError unless `apply` returned an array and a function."""
    if not isinstance(result, tuple):
        raise OpError(f"expected apply to return (y, vjp), got {describe(result)}")
    if not callable(pull):
        raise OpError(f"expected apply to return (y, vjp) with a function, got {describe(pull)} as vjp")
    if type(y) is not np.memmap:
        raise OpError(f"expected apply to return (y, vjp) with a plain array, got {describe(y)} as y")
    return np.asarray(y)


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
            op = copy(check_operator(make(*args, **kwargs)))  # a copy, because others may have the same operator
        except OpError as error:
            error.kind = error.kind or make.__name__
            raise
        op.kind, op.config, op.maker = make.__name__, bind_arguments(signature, *args, **kwargs), make
        op.warned = False
        op._arguments = tuple(format_arguments(signature, op.config))
        return op

    return construct


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


def check_operator(value: Any, where: str = "") -> Op:
    """`value` if it is an operator; else raises the OpError, of `where`, that says what it is and the fix."""
    if isinstance(value, Op):
        return value
    name = value if isinstance(value, str) else getattr(value, "__name__", "")
    came, fix = f"the function {name}" if callable(value) and name else describe_value(value), ""
    if isinstance(getattr(sys.modules["fnn"], name or "fnn", None), Op):  # NumPy's tanh, PyTorch's relu, 'tanh'
        fix = f"; use fnn.{name}"
    elif is_constructor_of(value, Op, "Op"):
        fix = f"; call it: {name}(...)"
    elif isinstance(value, tuple) and len(value) == 2 and all(map(callable, value)):
        fix = "; write Op(init, apply)"
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes | ndarray | Mapping):
        fix = "; unpack it with *"
    elif callable(value):
        fix = "; write an Op for it"
    raise OpError(f"expected an operator, got {came}{fix}", where)
