"""The one type of the library: an operator, which is a pair of pure functions that knows its name and arguments."""

# Also used in all modules whose functions create functions at each step: without it, Python evaluates the annotations
# of a vjp at each step, which takes 0.7 µs.
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

from fnn.checks.arrays import FLOATS, INTEGERS, check_batch, check_cotangent, params_error
from fnn.checks.arrays import Array as Array
from fnn.checks.calls import bind_arguments, format_arguments, format_call
from fnn.checks.errors import OpError as OpError
from fnn.checks.errors import describe, describe_value, is_constructor_of
from fnn.checks.results import check_gradients, check_result, explain_call, explain_params, warn_if_uncalibrated
from fnn.checks.values import check_shape
from fnn.kernels.numerics import allow_underflow, apply_in_float32, is_inside
from fnn.random import Key, Rng, as_key

Shape: TypeAlias = tuple[int, ...]
Params: TypeAlias = dict[str, Any]


class Vjp(Protocol):
    """The second result of `apply`. It maps the cotangent of the output to those of the parameters and the input."""

    def __call__(self, dy: Array, need_dx: bool = True, /) -> tuple[Params, Any]:
        """Returns `(dparams, dx)`. With `need_dx=False` nobody reads `dx`, so it may be None."""


class Op:
    """An operator: `init(rng, shape) -> params` and `apply(params, x) -> (y, vjp)`; unpack it by `init, apply = op`.

    You write two functions, `init(key, shape)` and `apply(params, x)`. `Op` turns seeds into keys, checks shapes,
    inputs and cotangents, and names the operator in errors.

    `takes_key=True`: your apply also takes a key; None means no randomness (prediction). `draws` is its old name.
    `needs_key=True`: the operator itself is random, so training without a key is an error. Set it for a combinator that
    draws numbers; operators without parts and combinators of such operators need no flag.
    `integers=True`: the input holds integers. A combinator takes what its first part takes.
    `parts`: the operators inside a combinator, by their names in its params.
    `wraps`: the operator inside a wrapper, which has the same params as the wrapper. With one of these two, the
    attribute `is_composite` is True.
    `kind`, `config` (arguments by name) and `maker` (the constructor, set by `operator`) describe the operator for
    `repr`, `summary` and the exporter.
    `statistics`: params that `calibrate` estimates, with their initial values. The attribute has them for all operators
    inside, by path.
    """

    def __init__(
        self,
        init: Callable[[Key, Shape], Params],
        apply: Callable[..., tuple[Array, Vjp]],
        *,
        kind: str = "op",
        doc: str | None = None,
        takes_key: bool = False,
        needs_key: bool = False,
        integers: bool = False,
        parts: Mapping[str, Op] | None = None,
        wraps: Op | None = None,
        statistics: Mapping[str, float] | None = None,
        draws: bool = False,
    ) -> None:
        self._init, self._apply, self.kind, self.__doc__ = init, apply, kind, doc or type(self).__doc__
        self.parts = {name: check_operator(part) for name, part in (parts or {}).items()}
        self.wraps = None if wraps is None else check_operator(wraps)
        inside = [part for _, part in self.inside()]
        self.takes_key = takes_key or needs_key or draws
        self.needs_key: bool = needs_key or any(part.needs_key for part in inside)
        self.is_composite = parts is not None or wraps is not None
        if self.takes_key and not self.is_composite:
            self.needs_key = True
        self.integers: bool = integers or (inside[0].integers if inside else False)
        self._dtypes = INTEGERS if self.integers else FLOATS
        self.config: Mapping[str, Any] = {}
        self.maker: Callable[..., Op] | None = None
        self._has_warned = False
        self.statistics: dict[tuple[str, ...], dict[str, float]] = {(): dict(statistics)} if statistics else {}
        for path, part in self.inside():
            self.statistics |= {(*path, *rest): values for rest, values in part.statistics.items()}

    @property
    def draws(self) -> bool:
        """The old name of `takes_key`."""
        return self.takes_key

    def inside(self) -> Iterator[tuple[tuple[str, ...], Op]]:
        """The operators directly inside this one, with their paths in the params: `("conv1",)`, or `()` if wrapped."""
        yield from (((name,), part) for name, part in self.parts.items())
        if self.wraps is not None:
            yield (), self.wraps

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.apply))

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises OpError, which says what to write instead."""
        if any(isinstance(value, ndarray | dict) for value in (*args, *kwargs.values())):
            raise OpError("expected op.apply(params, x), got op(...)", self.kind)
        raise OpError(f"expected {self!r}, got a call of it; it is already an operator, remove the ()", self.kind)

    def __repr__(self) -> str:
        if self.maker is None:
            return self.kind
        arguments = format_arguments(inspect.signature(self.maker), self.config)
        return format_call(self.kind, arguments, 100 if self.parts else inf)

    def init(self, rng: Rng, shape: Shape) -> Params:
        """Returns the initial parameters, float32, for inputs of `shape` (one example, without the batch axis).

        Raises OpError if the operator cannot take that shape.
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
            explain_call(error, self.kind, "init(key, shape)", self._init, rng, shape)
            raise
        self.output_shape(params, shape)
        return params

    def output_shape(self, params: Params, shape: Shape) -> Shape:
        """Returns the shape of one output example. It applies the operator to an empty batch."""
        empty = np.empty((0, *check_shape(shape, where=self.kind)), np.int64 if self.integers else np.float32)
        y, _ = self.apply(params, empty)
        return y.shape[1:]

    def apply(self, params: Params, x: Array, key: Rng | None = None) -> tuple[Array, Vjp]:
        """Returns `(y, vjp)` for a batch `x` of shape (batch, *shape). Dtypes follow `x`; no argument is changed.

        Random operators use `key`; without one they are deterministic. `vjp(dy, need_dx=True)` returns `(dparams, dx)`.
        You may call it any number of times, from any thread. It reads `x`, `params` and `y`, so do not change these
        before the last call. `y` may be a view of `x`. The cotangent of integers is zeros with the dtype of `dy`.

        `params` may lack the empty dicts of operators without parameters, as params from a file do; `dparams` then
        lacks them too. Raises OpError if params or input do not fit. Predicting (without a key) with a batch_norm that
        was never calibrated gives an UncalibratedWarning.
        """
        if not is_inside.get():
            return self._apply_outermost(params, x, key)
        try:
            if self.parts and type(params) is dict and len(params) < len(self.parts):
                return self._apply_completed(params, x, key)
            if type(x) is not ndarray or x.dtype not in self._dtypes or not x.ndim:
                if isinstance(x, dict) and not isinstance(params, dict):
                    raise OpError("expected apply(params, x), got apply(x, params); swap the arguments")
                x = check_batch(x, self.integers)
            if not self.takes_key:
                arguments: tuple[Any, ...] = (params, x)
            else:
                arguments = (params, x, None if key is None else as_key(key, "key"))
            if x.dtype.itemsize > 2 or self.integers or self.is_composite:
                result = self._apply(*arguments)
            else:
                result = apply_in_float32(self._apply, *arguments)
            if (
                type(result) is not tuple
                or len(result) != 2
                or type(result[0]) is not ndarray
                or not callable(result[1])
            ):
                result = check_result(result)
        except OpError as error:
            error.kind = error.kind or self.kind
            raise
        except (KeyError, TypeError, IndexError) as error:
            explain_params(error, self.kind, params, self.parts)
            explain_call(
                error,
                self.kind,
                "apply(params, x, key)" if self.takes_key else "apply(params, x)",
                self._apply,
                params,
                x,
                *[key] * self.takes_key,
            )
            raise
        y, vjp = result
        shape, dtype = y.shape, y.dtype  # `y` itself would stay in memory until the vjp is dropped

        def checked_vjp(dy: Array, need_dx: bool) -> tuple[Params, Any]:
            try:
                if type(dy) is not ndarray or dy.shape != shape or dy.dtype != dtype:
                    dy = check_cotangent(dy, shape, dtype)
                return check_gradients(vjp(dy, need_dx))
            except OpError as error:
                error.kind = error.kind or self.kind
                raise
            except TypeError as error:
                explain_call(error, self.kind, "vjp(dy, need_dx=True)", vjp, dy, need_dx)
                raise

        return y, lambda dy, need_dx=True: allow_underflow(checked_vjp, dy, need_dx)

    def _apply_outermost(self, params: Params, x: Array, key: Rng | None) -> tuple[Array, Vjp]:
        """`apply` of a whole net, not of an operator inside another."""
        result = allow_underflow(self.apply, params, x, key)
        if key is None and len(x):
            self.warn_if_uncalibrated(params)
        return result

    def warn_if_uncalibrated(self, params: Params) -> None:
        """Warns, once, if `params` have the initial statistics of a batch_norm inside this operator."""
        if self.statistics and not self._has_warned:
            self._has_warned = warn_if_uncalibrated(self.statistics, self.kind, params)

    def _apply_completed(self, params: Params, x: Array, key: Rng | None) -> tuple[Array, Vjp]:
        """`apply` with an empty dict for each part that `params` lack."""
        absent = [name for name in self.parts if name not in params]
        try:
            y, vjp = self.apply(params | {name: {} for name in absent}, x, key)
        except OpError as error:
            if error.missing and error.path and error.path[0] in absent:  # this part has parameters
                raise params_error(params, self.parts, self.kind) from None
            raise

        def shortened(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            dparams, dx = vjp(dy, need_dx)
            return {name: grads for name, grads in dparams.items() if name not in absent}, dx

        return y, shortened


P = ParamSpec("P")


def operator(make: Callable[P, Op]) -> Callable[P, Op]:
    """Decorates a constructor: its operators get its name, its docstring and the arguments of the call.

    `config` has all arguments by name, defaults included. `repr` shows the call as you would write it.
    """
    signature = inspect.signature(make)

    @functools.wraps(make)
    def construct(*args: P.args, **kwargs: P.kwargs) -> Op:
        try:
            op = copy(check_operator(make(*args, **kwargs)))  # a copy, because others may have the same operator
        except OpError as error:
            error.kind = error.kind or make.__name__
            raise
        op.kind, op.maker, op.__doc__ = make.__name__, make, make.__doc__
        op.config, op._has_warned = bind_arguments(signature, *args, **kwargs), False
        return op

    return construct


def rebuild(op: Op, change: Callable[[Op], Op]) -> Op:
    """Returns `op`, constructed again with `change(part)` in place of each operator among its arguments.

    It finds operators in tuples, lists and dicts of arguments too. If the constructor returns the operator of another
    constructor, as a block of layers does, `change` gets that whole operator. Returns `op` itself if it has no
    constructor or no operators among its arguments.
    """
    if op.maker is None:
        return op
    if (inner := construct_again(op)).maker is not None:
        block = copy(change(inner))
        block.kind, block.config, block.maker = op.kind, op.config, op.maker
        return block
    if next(operators_in(op.config), None) is None:
        return op
    return _construct(operator(op.maker), _map_operators(change, op.config))


def intercept(op: Op, around: Callable[..., tuple[Array, Vjp]]) -> Op:
    """Rebuilds `op` so that `around(part, apply, params, x, key)` replaces the apply of `op` and of each part.

    `apply` applies the part. Operators inside one that was not created by a constructor stay as they are.
    """
    rebuilt = rebuild(op, lambda part: intercept(part, around))

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        return around(op, rebuilt.apply, params, x, key)

    new = copy(op)
    new._init, new._apply, new.takes_key, new.is_composite = rebuilt.init, apply, True, True
    return new


def construct_again(op: Op) -> Op:
    """Calls the constructor of `op` again. The result has a `maker` itself if `op` is a block of other operators."""
    assert op.maker is not None
    return _construct(op.maker, op.config)


def _construct(maker: Callable[..., Op], config: Mapping[str, Any]) -> Op:
    bound = inspect.BoundArguments(inspect.signature(maker), OrderedDict(config))
    return maker(*bound.args, **bound.kwargs)


def operators_in(value: Any) -> Iterator[Op]:
    """The operators in an argument: itself, or those in its tuples, lists and dicts."""
    if isinstance(value, Op):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from operators_in(item)


def _map_operators(change: Callable[[Op], Op], value: Any) -> Any:
    """The argument with `change(part)` in place of each operator in it."""
    if isinstance(value, Op):
        return change(value)
    if isinstance(value, dict):
        return {name: _map_operators(change, item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        kind = type(value)
        return getattr(kind, "_make", kind)(_map_operators(change, item) for item in value)
    return value


def check_operator(value: Any, where: str = "") -> Op:
    """Returns `value` if it is an operator. Otherwise raises an OpError that starts with `where` and says the fix."""
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
