"""Detects nan and infinity in a training step, and finds the operator that produced the first one."""

import inspect
from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np

from fnn.losses import Loss
from fnn.mpi import spread
from fnn.op import Array, Op, OpError, Params, Vjp, prepend_path, rebuild
from fnn.random import Key
from fnn.transforms import check_finite, shard
from fnn.tree import Tree, tree_items, tree_leaves


class NotFiniteError(ValueError):
    """A loss, a gradient or a parameter is nan or infinite; the message names the step and the first cause."""


def all_finite(loss: Any, params: Tree) -> bool:
    """Whether the loss of a step and the updated parameters are finite.

    This also detects gradients that are not finite, unless their parameters are frozen. A finite sum of squares proves
    that an array is finite; if the sum overflows, its elements are checked.
    """
    if not isfinite(loss):
        return False
    flat = [np.ravel(leaf, "K") for leaf in tree_leaves(params)]
    return all(isfinite(leaf.dot(leaf)) for leaf in flat) or all(np.isfinite(leaf).all() for leaf in flat)


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


def watch(op: Op, report: Callable[[OpError], None] = lambda error: None) -> Op:
    """Puts `check_finite` around `op` and each operator inside it; params, results and names stay the same.

    The OpError of the first number that is not finite has the full path, also inside a combinator that does not add the
    names of its parts to errors. `report` is called with each error.

    An operator that is spread over ranks runs on this rank only, because the other ranks may have stopped already.
    """
    reported: dict[OpError, tuple[str, int]] = {}

    def watch_part(part: Op) -> Op:
        name = " or ".join(name for name, other in op.parts.items() if other is part)
        return watch(part, lambda error: reported.update({error: (name, len(error.path))}))

    def complete(error: OpError) -> None:
        name, depth = reported.pop(error, ("", 0))
        if name and len(error.path) == depth:
            prepend_path(error, name)
        error.kind = op.kind if error.kind == check_finite.__name__ else error.kind
        report(error)

    local = op
    if op.maker is inspect.unwrap(spread):
        local = shard(op.config["op"], op.config["workers"], op.config["size"])
    checked = check_finite(rebuild(local, watch_part))

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        try:
            y, vjp = checked.apply(params, x, key)
        except OpError as error:
            complete(error)
            raise

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            try:
                return vjp(dy, need_dx)
            except OpError as error:
                complete(error)
                raise

        return y, pull

    watching = Op(op.init, apply, kind=op.kind, parts=op.parts, draws=True, integers=op.integers)
    watching.config, watching.maker = op.config, op.maker
    return watching


def describe_non_finite(what: str, tree: Tree) -> str | None:
    """Returns a sentence about the first leaf with nan or infinity, if there is one."""
    for path, leaf in tree_items(tree):
        if not np.isfinite(leaf).all():
            nans, infinities = np.count_nonzero(np.isnan(leaf)), np.count_nonzero(np.isinf(leaf))
            return f"{what}{path} has {nans} nan and {infinities} infinite of {leaf.size} numbers"
    return None
