"""Detects nan and infinity in a training step, and finds the operator that produced the first one."""

import inspect
from collections.abc import Callable
from math import isfinite
from typing import Any, TypeAlias

import numpy as np

from fnn.inspection.rebuild import find_paths, intercept, rebuild
from fnn.losses import Loss
from fnn.mpi import spread
from fnn.op import Array, Op, OpError, Params, Vjp
from fnn.random import Key
from fnn.transforms import check_finite, shard
from fnn.tree import Tree, tree_items, tree_leaves

Apply: TypeAlias = Callable[..., tuple[Array, Vjp]]


class NotFiniteError(ValueError):
    """A loss, a gradient or a parameter is nan or infinite; the message names the step and the first cause."""


def all_finite(loss: Any, params: Tree) -> bool:
    """Whether the loss of a step and the updated parameters are finite; they are not if a gradient was not."""
    if not isfinite(loss):
        return False
    flat = [np.ravel(leaf, "K") for leaf in tree_leaves(params)]
    # A finite sum of squares proves that an array is finite, and is fast; a sum that overflows proves nothing.
    return all(isfinite(leaf.dot(leaf)) or np.isfinite(leaf).all() for leaf in flat)


def find_fault(net: Op, loss: Loss, params: Params, x: Array, y: Array, key: Key) -> str | None:
    """Repeats a failed step with checks around each operator; returns the first cause, or None if gradients are finite.

    If the net is spread over ranks, each rank checks its own part only.
    """
    if reason := describe_non_finite("the input", {"": x}) or describe_non_finite("the parameter ", params):
        return reason
    try:
        out, vjp = watch(net).apply(params, x, key)
        if out.size:
            value, loss_vjp = loss(out, y)
            if not isfinite(value):
                return f"the loss is {value} for outputs from {out.min():.3g} to {out.max():.3g}"
            vjp(loss_vjp(), False)
    except OpError as error:
        return str(error)
    return None


def watch(net: Op) -> Op:
    """`net`, but the first nan or infinity in an operator inside it raises OpError with the path of that operator.

    Params, results and names stay the same. An operator that is spread over ranks runs on this rank alone, because the
    other ranks may have stopped already.
    """
    culprits: dict[OpError, tuple[tuple[str, ...], str]] = {}
    paths: dict[int, str] = {}

    def around(op: Op, apply: Apply, params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        def record(f: Callable[..., tuple[Any, Any]], *args: Any) -> tuple[Any, Any]:
            try:
                return f(*args)
            except OpError as error:
                if id(params) in paths:
                    path = (*filter(None, paths[id(params)].split("/")), *error.path)
                    culprits.setdefault(error, (path, op.kind))
                raise

        y, vjp = record(check_finite(Op(op.init, apply, kind=op.kind, wraps=op, takes_key=True)).apply, params, x, key)
        return y, lambda dy, need_dx=True: record(vjp, dy, need_dx)

    watching = intercept(on_this_rank(net), around)

    def locate(f: Callable[..., tuple[Any, Any]], *args: Any) -> tuple[Any, Any]:
        try:
            return f(*args)
        except OpError as error:
            error.path, error.kind = culprits.pop(error, (error.path, error.kind))
            raise

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        params, found = find_paths(net, params)
        paths.update(found)
        y, vjp = locate(watching.apply, params, x, key)
        return y, lambda dy, need_dx=True: locate(vjp, dy, need_dx)

    return Op(net.init, apply, kind=net.kind, wraps=net, takes_key=True)


def on_this_rank(op: Op) -> Op:
    """`op` with `shard` in place of each `spread`, which has the same results."""
    if op.maker is inspect.unwrap(spread):
        alone = shard(on_this_rank(op.config["op"]), op.config["workers"], op.config["size"])
        alone.kind = op.kind
        return alone
    return rebuild(op, on_this_rank)


def describe_non_finite(what: str, tree: Tree) -> str | None:
    """Returns a sentence about the first leaf with nan or infinity, if there is one."""
    for path, leaf in tree_items(tree):
        if not np.isfinite(leaf).all():
            nans, infinities = np.count_nonzero(np.isnan(leaf)), np.count_nonzero(np.isinf(leaf))
            return f"{what}{path} has {nans} nan and {infinities} infinite of {leaf.size} numbers"
    return None
