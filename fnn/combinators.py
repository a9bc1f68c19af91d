"""Operators made of other operators: side by side, with a shortcut, used several times, or under a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Literal, TypeAlias

import numpy as np

from fnn.chain import call_part, chain_parts, find_name, name_parts
from fnn.checks.arrays import check_part_names
from fnn.checks.errors import describe, describe_value
from fnn.checks.values import check_int
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, check_operator, operator
from fnn.random import Key
from fnn.tree import tree_sum

Split: TypeAlias = Callable[[Array], list[Array]]


@operator
def repeat(op: Op, n: int) -> Op:
    """Applies `op` n times, one after the other, each time with its own params: `dense1`, `dense2`..."""
    name, _ = find_name(op)
    return chain_parts({f"{name}{i}": op for i in range(1, check_int("n", n, 1, OpError) + 1)})


@operator
def shared(op: Op, n: int) -> Op:
    """Applies `op` n times, one after the other, with the same params; their gradients are added up.

    The number of the application is folded into the key, so all have different random numbers.
    """
    parts = name_parts(op)
    [name] = parts
    n = check_int("n", n, 1, OpError)

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        check_part_names(params, parts)
        vjps = []
        for i in range(n):
            x, vjp = call_part(name, op.apply, params[name], x, key and key.fold(name, i))
            vjps.append(vjp)

        def vjp_shared(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            def grads() -> Iterator[Params]:
                nonlocal dy
                for i in reversed(range(n)):
                    dparams, dy = call_part(name, vjps[i], dy, need_dx or i > 0)
                    yield dparams

            return {name: tree_sum(grads())}, dy if need_dx else None

        return x, vjp_shared

    return Op(_init_parts(parts), apply, parts=parts, takes_key=True)


@operator
def residual(op: Op) -> Op:
    """Adds a shortcut: x + op(x). `op` must keep shape and dtype.

    Params are a dict with those of `op`, named as in `serial`. He et al., "Deep residual learning for image
    recognition", 2016.
    """
    parts = name_parts(op)
    [name] = parts

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        check_part_names(params, parts)
        y, vjp = call_part(name, op.apply, params[name], x, key and key.fold(name))
        if y.shape != x.shape or y.dtype != x.dtype:
            raise OpError(f"expected {name} to keep {describe(x)}, got {describe(y)}")

        def vjp_residual(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dparams, dx = call_part(name, vjp, dy, need_dx)
            return {name: dparams}, dx + dy if need_dx else None

        return y + x, vjp_residual

    return Op(_init_parts(parts), apply, parts=parts, takes_key=True)


@operator
def parallel(*ops: Op, join: Literal["sum", "concat"] = "sum") -> Op:
    """Applies the operators to the same input and joins their outputs.

    `join="sum"` adds the outputs; `join="concat"` concatenates them along axis 1 (channels, or features). Params are a
    dict with those of each part, named as in `serial`.
    """
    parts = name_parts(*ops)
    if not parts:
        raise OpError("expected at least one operator, got none")
    if join not in tuple(JOINS):
        raise OpError(f"join: expected {' or '.join(map(repr, JOINS))}, got {describe_value(join)}")

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        check_part_names(params, parts)
        ys, vjps = [], []
        for name, op in parts.items():
            y, vjp = call_part(name, op.apply, params[name], x, key and key.fold(name))
            ys.append(y)
            vjps.append(vjp)
        y, split = JOINS[join](ys)

        def vjp_parallel(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            grads, dxs = {}, []
            for name, vjp, d in zip(parts, vjps, split(dy), strict=True):
                grads[name], dx = call_part(name, vjp, d, need_dx)
                dxs.append(dx)
            return grads, reduce(np.add, dxs) if need_dx else None

        return y, vjp_parallel

    return Op(_init_parts(parts), apply, parts=parts, takes_key=True)


def _sum(ys: list[Array]) -> tuple[Array, Split]:
    if any(y.shape != ys[0].shape or y.dtype != ys[0].dtype for y in ys):
        raise OpError(f"expected outputs of one shape and dtype, got {', '.join(map(describe, ys))}")
    return reduce(np.add, ys), lambda dy: [dy] * len(ys)


def _concatenate(ys: list[Array]) -> tuple[Array, Split]:
    if any(y.ndim < 2 or y[:, :0].shape != ys[0][:, :0].shape or y.dtype != ys[0].dtype for y in ys):
        got = ", ".join(map(describe, ys))
        raise OpError(f"expected outputs of one dtype and, except axis 1, one shape, got {got}")
    ends = np.cumsum([y.shape[1] for y in ys])
    return np.concatenate(ys, 1), lambda dy: np.split(dy, ends[:-1], 1)


JOINS: dict[str, Callable[[list[Array]], tuple[Array, Split]]] = {"sum": _sum, "concat": _concatenate}
"""Functions that join several outputs. Each also returns a function that splits the cotangent."""


@operator
def named(name: str, op: Op) -> Op:
    """Gives `op` this name in the params dict of the operator that contains it; only `repeat` adds ordinals to it."""
    if not (isinstance(name, str) and name and "/" not in name):
        raise OpError(f"name: expected a nonempty string without a slash, got {describe_value(name)}")
    return wrap(op, check_operator(op).apply)


@operator
def positionwise(op: Op) -> Op:
    """Applies `op` to each position of a sequence separately: (batch, time, *shape) to (batch, time, *output_shape).

    `op` gets the positions as a batch of batch * time examples. Params are those of `op`. So `positionwise(dense(n))`
    is a linear map of the last axis of (batch, time, features). Vaswani et al., "Attention is all you need", 2017.
    """

    def init(key: Key, shape: Shape) -> Params:
        if not shape:
            raise OpError("expected shape (time, ...), got ()")
        return op.init(key, shape[1:])

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        if x.ndim < 2:
            raise OpError(f"expected shape (batch, time, ...), got {x.shape}")
        flat = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
        y, vjp = op.apply(params, flat, key)

        def vjp_positions(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dparams, dx = vjp(dy.reshape(len(flat), *dy.shape[2:]), need_dx)
            return dparams, None if dx is None else dx.reshape(x.shape)

        return y.reshape(*x.shape[:2], *y.shape[1:]), vjp_positions

    return Op(init, apply, wraps=check_operator(op), takes_key=True)


def wrap(op: Op, apply: Callable[[Params, Array, Key | None], tuple[Array, Vjp]]) -> Op:
    """An operator with the params and the name of `op`, but another `apply`."""
    return Op(check_operator(op).init, apply, wraps=op, takes_key=True)


def _init_parts(parts: dict[str, Op]) -> Callable[[Key, Shape], Params]:
    """The `init` of parts that all have the same input."""
    return lambda key, shape: {name: call_part(name, op.init, key.fold(name), shape) for name, op in parts.items()}
