"""Numbers that are not finite: seen at the step that makes them, and traced to where they first came up."""

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
    """A loss, a gradient or a parameter that is nan or infinite; says at which step, and where it first came up."""


def sound(loss: Any, params: Tree) -> bool:
    """Whether a step's loss is finite, and all of the parameters that it comes to.

    An update by a gradient that is not finite gives such parameters, unless they are frozen. A sum of squares is finite
    only if the numbers are; where it overflows although they are, each is looked at.
    """
    if not isfinite(loss):
        return False
    flat = [np.ravel(leaf, "K") for leaf in tree_leaves(params)]
    return all(isfinite(leaf.dot(leaf)) for leaf in flat) or all(np.isfinite(leaf).all() for leaf in flat)


def fault(net: Op, loss: Loss, params: Params, x: Array, y: Array, key: Key) -> str | None:
    """What went wrong first in a step that is not sound, by its path: it is done again, and each operator watched.

    None where nothing did up to the gradients; of a net that is spread over ranks, each looks at its own part alone.
    """
    if reason := not_finite("the input", {"": x}) or not_finite("the parameter ", params):
        return reason
    try:
        out, vjp = watched(net).apply(params, x, key)
        if out.size:
            value, loss_vjp = loss(out, y)
            if not isfinite(value):
                return f"the loss is {value}, of outputs from {out.min():.3g} to {out.max():.3g}"
            vjp(loss_vjp(), False)
    except OpError as error:
        return str(error)
    return None


def watched(op: Op, report: Callable[[OpError], None] = lambda error: None) -> Op:
    """`op` with `finite` around it and around each operator inside it; params, results and names stay the same.

    The OpError of the first number that is not finite has the full path, also inside a combinator that does not add the
    name of its part to errors. `report` is called with each error.

    An operator that is spread over ranks runs on this rank alone, because the other ranks may have stopped already.
    """
    came: dict[OpError, tuple[str, int]] = {}

    def watched_part(part: Op) -> Op:
        name = " or ".join(name for name, other in op.parts.items() if other is part)
        return watched(part, lambda error: came.update({error: (name, len(error.path))}))

    def complete(error: OpError) -> None:
        name, depth = came.pop(error, ("", 0))
        if name and len(error.path) == depth:
            prepend_path(error, name)
        error.kind = op.kind if error.kind == check_finite.__name__ else error.kind
        report(error)

    alone = op
    if op.maker is inspect.unwrap(spread):
        alone = shard(op.config["op"], op.config["workers"], op.config["size"])
    checked = check_finite(rebuild(alone, watched_part))

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

    whole = Op(op.init, apply, kind=op.kind, parts=op.parts, draws=True, integers=op.integers)
    whole.config, whole.maker = op.config, op.maker
    return whole


def not_finite(what: str, tree: Tree) -> str | None:
    """What there is to say of the first leaf that is not finite all over, if there is one."""
    for path, leaf in tree_items(tree):
        if not np.isfinite(leaf).all():
            nans, infinities = np.count_nonzero(np.isnan(leaf)), np.count_nonzero(np.isinf(leaf))
            return f"{what}{path} has {nans} nan and {infinities} infinite of {leaf.size} numbers"
    return None
