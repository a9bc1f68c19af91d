"""Operators made of operators. The params of what they make are a dict of their parts', under the parts' names.

A part's name is its kind and ordinal, or the one that `named` gives it. An operator that wraps another and has its very
params, as `named`, `shard` and all of `fnn.transform` do, is called what that one is: wrapping renames nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import ParamSpec, TypeAlias, TypeVar

import numpy as np

from fnn.checks import check_int, params_error, shown
from fnn.op import Array, Op, OpError, Params, Pull, Shape, Vjp, check_operator, locate, operator, told
from fnn.random import Key
from fnn.threads import spare
from fnn.tree import tree_sum

P = ParamSpec("P")
T = TypeVar("T")

Split: TypeAlias = Callable[[Array], list[Array]]


@operator
def serial(*ops: Op) -> Op:
    """The operators one after the other; params are a dict of theirs, by kind and ordinal: `conv1`, `tanh1`, `conv2`…

    What a part draws, its initial values among it, depends on its name and not on its position.
    """
    return _chain(_by_name(*ops))


@operator
def repeat(op: Op, n: int) -> Op:
    """`op` n times, one after the other, each with params of its own: `dense1`, `dense2`…, as in `serial`."""
    name, _ = _label(op)
    return _chain({f"{name}{i}": op for i in range(1, check_int("n", n, 1, OpError) + 1)})


@operator
def shared(op: Op, n: int) -> Op:
    """`op` n times, one after the other, with the same params each time, whose gradients add up in pairs.

    The number of the time is folded into the key, so that no two times draw the same.
    """
    parts = _by_name(op)
    [name] = parts
    n = check_int("n", n, 1, OpError)

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        _check_names(params, parts)
        vjps = []
        for i in range(n):
            x, vjp = _within(name, op.apply, params[name], x, key and key.fold(name, i))
            vjps.append(vjp)

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            def grads() -> Iterator[Params]:
                nonlocal dy
                for i in reversed(range(n)):
                    dparams, dy = _within(name, vjps[i], dy, need_dx or i > 0)
                    yield dparams

            return {name: tree_sum(grads())}, dy if need_dx else None

        return x, pull

    return Op(_inits(parts), apply, parts=parts, draws=True)


@operator
def residual(op: Op) -> Op:
    """The sum x + op(x), where `op` keeps shape and dtype; params are a dict of its, named as in `serial`.

    He et al., "Deep residual learning for image recognition", 2016.
    """
    parts = _by_name(op)
    [name] = parts

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        _check_names(params, parts)
        y, vjp = _within(name, op.apply, params[name], x, key and key.fold(name))
        if y.shape != x.shape or y.dtype != x.dtype:
            raise OpError(f"expected {name} to keep its input's {told(x)}, got {told(y)}")

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dparams, dx = _within(name, vjp, dy, need_dx)
            return {name: dparams}, dx + dy if need_dx else None

        return y + x, pull

    return Op(_inits(parts), apply, parts=parts, draws=True)


@operator
def parallel(*ops: Op, join: str = "sum") -> Op:
    """The operators side by side on the same input; params are a dict of theirs, named as in `serial`.

    `join` says what becomes of their outputs: "sum" adds them up, in their order, and "concat" puts them one after the
    other along axis 1, where images have channels and a batch of features has these.
    """
    parts = _by_name(*ops)
    if not parts:
        raise OpError("expected at least one operator, got none")
    if join not in tuple(JOINS):
        raise OpError(f"join: expected {' or '.join(map(repr, JOINS))}, got {shown(join)}")

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        _check_names(params, parts)
        ys, vjps = [], []
        for name, op in parts.items():
            y, vjp = _within(name, op.apply, params[name], x, key and key.fold(name))
            ys.append(y)
            vjps.append(vjp)
        y, split = JOINS[join](ys)

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            grads, dxs = {}, []
            for name, vjp, d in zip(parts, vjps, split(dy), strict=True):
                grads[name], dx = _within(name, vjp, d, need_dx)
                dxs.append(dx)
            return grads, reduce(np.add, dxs) if need_dx else None

        return y, pull

    return Op(_inits(parts), apply, parts=parts, draws=True)


def _added(ys: list[Array]) -> tuple[Array, Split]:
    if any(y.shape != ys[0].shape or y.dtype != ys[0].dtype for y in ys):
        raise OpError(f"expected outputs of one shape and dtype, got {', '.join(map(told, ys))}")
    return reduce(np.add, ys), lambda dy: [dy] * len(ys)


def _concatenated(ys: list[Array]) -> tuple[Array, Split]:
    if any(y.ndim < 2 or y[:, :0].shape != ys[0][:, :0].shape or y.dtype != ys[0].dtype for y in ys):
        raise OpError(f"expected outputs of one dtype and, but for axis 1, one shape, got {', '.join(map(told, ys))}")
    ends = np.cumsum([y.shape[1] for y in ys])
    return np.concatenate(ys, 1), lambda dy: np.split(dy, ends[:-1], 1)


JOINS: dict[str, Callable[[list[Array]], tuple[Array, Split]]] = {"sum": _added, "concat": _concatenated}
"""The ways to make one array of several; beside it comes what splits its cotangent into theirs."""


@operator
def named(name: str, op: Op) -> Op:
    """`op`, which as a part of another has that very name; only `repeat` adds its ordinals to it. Params are `op`'s."""
    if not (isinstance(name, str) and name and "/" not in name):
        raise OpError(f"name is {name!r}, wanted a string that is not empty and has no slash")
    return wrap(op, check_operator(op).apply)


def wrap(op: Op, apply: Callable[[Params, Array, Key | None], tuple[Array, Pull]]) -> Op:
    """An operator with the params of `op` and the name that it would have as a part, but another way to apply it."""
    return Op(check_operator(op).init, apply, parts={"": op}, draws=True)


def _chain(parts: dict[str, Op]) -> Op:
    """The parts one after the other."""

    def init(key: Key, shape: Shape) -> Params:
        params = {}
        for name, op in parts.items():
            params[name] = _within(name, op.init, key.fold(name), shape)
            shape = op.output_shape(params[name], shape)
        return params

    # The loops make no call to `_within`, but have its `try`: a small net's step is little more than these loops.
    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        if len(params) != len(parts) or not parts:
            _check_names(params, parts)
        vjps = []
        try:
            for name, op in parts.items():
                x, vjp = op.apply(params[name], x, key and key.fold(name))
                vjps.append((name, vjp))
        except Exception as error:
            locate(error, name)
            raise

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            grads: Params = {name: {} for name in parts}
            first, wait = 0, spare() == 1
            late: list[str] = []  # the parts whose parameters' cotangents are left to a spare thread

            def settle(name: str) -> None:
                grads[name] = _within(name, grads[name])

            while not need_dx and first < len(vjps) and not params[vjps[first][0]]:
                first += 1  # nobody reads what lies before the first part that has parameters
            try:
                for i in reversed(range(first, len(vjps))):
                    name, vjp = vjps[i]
                    try:
                        grads[name], dy = vjp(dy, need_dx or i > first, wait)
                    except Exception as error:
                        locate(error, name)
                        raise
                    if not wait and callable(grads[name]):
                        late.append(name)
                        if len(late) > 2:  # each of them keeps its `dy`
                            settle(late.pop(0))
            finally:
                while late:
                    settle(late.pop())  # the one that is least likely to have been begun
            return grads, dy if need_dx else None

        return x, pull

    return Op(init, apply, parts=parts, draws=True)


def _inits(parts: dict[str, Op]) -> Callable[[Key, Shape], Params]:
    """The `init` of parts that all have the same input."""
    return lambda key, shape: {name: _within(name, op.init, key.fold(name), shape) for name, op in parts.items()}


def _within(name: str, f: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`f(...)` of the part `name`, which an error that it raises then names."""
    try:
        return f(*args, **kwargs)
    except Exception as error:
        locate(error, name)
        raise


def _by_name(*ops: Op) -> dict[str, Op]:
    """The operators under their names as parts of one."""
    counts: dict[str, int] = {}
    parts = {}
    for op in ops:
        name, given = _label(op)
        if not given:
            counts[name] = counts.get(name, 0) + 1
            name = f"{name}{counts[name]}"
        if name in parts:
            raise OpError(f"two parts have the name {name!r}, wanted another one for each")
        parts[name] = op
    return parts


def _label(op: Op) -> tuple[str, bool]:
    """The name that the operator was given and True, or its kind and False."""
    check_operator(op)
    while op.kind != "named" and "" in op.parts:
        op = op.parts[""]
    return (op.config["name"], True) if op.kind == "named" else (op.kind, False)


def _check_names(params: Params, parts: dict[str, Op]) -> None:
    """Raises OpError for params that no part has."""
    if not isinstance(params, dict) or any(name not in parts for name in params):
        raise params_error(params, parts)
