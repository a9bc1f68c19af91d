"""The one type of the library: an operator, which is a pair of pure functions that knows its name and arguments."""

from __future__ import annotations  # without it, Python evaluates the annotations of each vjp, which takes 0.7 µs

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from math import inf
from typing import Any, NoReturn, ParamSpec, Protocol, TypeAlias

import numpy as np
from numpy import ndarray

from fnn.checks import results
from fnn.checks.arrays import FLOATS, INTEGERS, check_batch, check_cotangent
from fnn.checks.arrays import Array as Array
from fnn.checks.calls import bind_arguments, repr_call
from fnn.checks.errors import OpError as OpError
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

    You write two functions, `init(key, shape)` and `apply(params, x)`. `Op` turns seeds into keys, checks shapes and
    inputs and cotangents, and names the operator in errors. It is described by `kind`, a docstring `doc` and, if a
    constructor with `@operator` created it, `config` (the arguments by name) and `maker` (the constructor).

    `takes_key=True`: your apply also takes a key; None means no randomness (prediction). `draws` is its old name.
    `needs_key=True`: a combinator that is random itself, so that training without a key is an error.
    `integers=True`: the input holds integers. A combinator takes what its first part takes.
    `parts`: the operators inside a combinator, by their names in its params.
    `wraps`: the operator inside a wrapper, which has the same params as the wrapper.
    `statistics`: params that `calibrate` estimates, with their initial values.
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
        self.config: Mapping[str, Any] = {}
        self.maker: Callable[..., Op] | None = None
        self.parts = {name: check_operator(part) for name, part in (parts or {}).items()}
        if "" in self.parts:
            raise OpError("parts: expected nonempty names, got ''; for a wrapper use wraps=op", kind)
        self.wraps = None if wraps is None else check_operator(wraps)
        self.is_composite = parts is not None or wraps is not None
        self.takes_key = self.draws = takes_key or needs_key or draws
        inside = [part for _, part in self.inside()]
        is_random = needs_key or (self.takes_key and not self.is_composite)
        self.needs_key: bool = is_random or any(part.needs_key for part in inside)
        self.integers: bool = integers or (inside[0].integers if inside else False)
        self._dtypes = INTEGERS if self.integers else FLOATS
        self.statistics: dict[tuple[str, ...], dict[str, float]] = {(): dict(statistics)} if statistics else {}
        for path, part in self.inside():
            self.statistics |= {(*path, *rest): values for rest, values in part.statistics.items()}
        self.depth, self.has_warned = results.check_depth(inside), False

    def inside(self) -> Iterator[tuple[tuple[str, ...], Op]]:
        """The operators directly inside this one, with their paths in the params: `("conv1",)`, or `()` if wrapped."""
        yield from (((name,), part) for name, part in self.parts.items())
        if self.wraps is not None:
            yield (), self.wraps

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.apply))

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises OpError, which says what to write instead."""
        raise results.call_error(self, [*args, *kwargs.values()])

    def __repr__(self) -> str:
        return repr_call(self.kind, self.maker, self.config, 100 if self.parts else inf)

    def init(self, rng: Rng, shape: Shape) -> Params:
        """Returns the initial parameters, float32, for inputs of `shape` (one example, without the batch axis).

        Raises OpError if the operator cannot take that shape.
        """
        try:
            if isinstance(rng, tuple) and not isinstance(rng, Key):
                raise OpError("expected init(rng, shape), got init(shape, rng); swap the arguments")
            key, shape = as_key(rng), check_shape(shape)
            params = results.check_initial(self._init(key, shape))
            self.output_shape(params, shape)
        except (TypeError, ValueError) as error:
            results.explain(error, self.kind, "init(key, shape)", self._init, rng, shape)
            raise
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
            applied: tuple[Array, Vjp] = allow_underflow(self.apply, params, x, key)
            if self.statistics and key is None:
                results.warn_uncalibrated(self, params, x)
            return applied
        try:
            if self.parts and type(params) is dict and len(params) < len(self.parts):
                return results.apply_completed(self, params, x, key)
            if type(x) is not ndarray or x.dtype not in self._dtypes or not x.ndim:
                x = check_batch(x, self.integers, params)
            key = None if key is None else as_key(key, "key")
            arguments = (params, x, key) if self.takes_key else (params, x)
            if self.is_composite or (x.dtype.itemsize > 2 and not self.integers):
                result = self._apply(*arguments)
            else:
                result = apply_in_float32(self._apply, *arguments)
            y, vjp = result if type(result) is tuple and len(result) == 2 else (None, None)
            if type(y) is not ndarray or not callable(vjp):
                y, vjp = results.check_result(result)
        except (OpError, KeyError, TypeError, IndexError) as error:
            results.explain_apply(error, self, params, x, key)
            raise
        shape, dtype = y.shape, y.dtype  # `y` itself would stay in memory until the vjp is dropped

        def checked_vjp(dy: Array, need_dx: bool) -> tuple[Params, Any]:
            try:
                if type(dy) is not ndarray or dy.shape != shape or dy.dtype != dtype:
                    dy = check_cotangent(dy, shape, dtype)
                return results.check_gradients(vjp(dy, need_dx))
            except (OpError, TypeError) as error:
                results.explain(error, self.kind, "vjp(dy, need_dx=True)", vjp, dy, need_dx)
                raise

        return y, lambda dy, need_dx=True: allow_underflow(checked_vjp, dy, need_dx)


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
        op.kind, op.maker, op.__doc__, op.has_warned = make.__name__, make, make.__doc__, False
        op.config = bind_arguments(signature, *args, **kwargs)
        return op

    return construct


def check_operator(value: Any, where: str = "") -> Op:
    """Returns `value` if it is an operator. Otherwise raises an OpError that starts with `where` and says the fix."""
    if isinstance(value, Op):
        return value
    raise results.operator_error(value, where, Op)
