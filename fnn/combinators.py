"""Operators made of operators side by side, repeated with the same params, or under a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import TypeAlias

import numpy as np

from fnn.chain import _by_name, _check_names, _within
from fnn.checks.errors import describe, describe_value
from fnn.checks.values import check_int
from fnn.op import Array, Op, OpError, Params, Pull, Shape, Vjp, check_operator, operator
from fnn.random import Key
from fnn.tree import tree_sum

Split: TypeAlias = Callable[[Array], list[Array]]


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
            raise OpError(f"expected {name} to keep its input's {describe(x)}, got {describe(y)}")

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
        raise OpError(f"join: expected {' or '.join(map(repr, JOINS))}, got {describe_value(join)}")

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
        raise OpError(f"expected outputs of one shape and dtype, got {', '.join(map(describe, ys))}")
    return reduce(np.add, ys), lambda dy: [dy] * len(ys)


def _concatenated(ys: list[Array]) -> tuple[Array, Split]:
    if any(y.ndim < 2 or y[:, :0].shape != ys[0][:, :0].shape or y.dtype != ys[0].dtype for y in ys):
        raise OpError(
            f"expected outputs of one dtype and, but for axis 1, one shape, got {', '.join(map(describe, ys))}"
        )
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


def _inits(parts: dict[str, Op]) -> Callable[[Key, Shape], Params]:
    """The `init` of parts that all have the same input."""
    return lambda key, shape: {name: _within(name, op.init, key.fold(name), shape) for name, op in parts.items()}


@operator
def positionwise(op: Op) -> Op:
    """`op` applied to every position of a sequence by itself: (batch, time, *shape) to (batch, time, *output_shape).

    To `op` the positions are a batch of batch * time examples. Params are those of `op`. So `positionwise(dense(n))` is
    a linear map of the last axis of (batch, time, features). The term is that of Vaswani et al., "Attention is all you
    need", 2017.
    """
    check_operator(op)

    def init(key: Key, shape: Shape) -> Params:
        if not shape:
            raise OpError("expected shape (time, ...), got ()")
        return op.init(key, shape[1:])

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        if x.ndim < 2:
            raise OpError(f"expected shape (batch, time, ...), got {x.shape}")
        positions = x.shape[:2]
        flat = x.reshape(positions[0] * positions[1], *x.shape[2:])
        y, vjp = op.apply(params, flat, key)

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dparams, dx = vjp(dy.reshape(len(flat), *dy.shape[2:]), need_dx)
            return dparams, None if dx is None else dx.reshape(x.shape)

        return y.reshape(*positions, *y.shape[1:]), pull

    return Op(init, apply, parts={"": op}, draws=True)
