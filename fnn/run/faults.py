"""Numbers that are not finite: seen at the step that makes them, and traced to where they first came up."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np

from fnn.combine import named, parallel, repeat, residual, serial, shared
from fnn.losses import Loss
from fnn.op import Array, Op, OpError, Params
from fnn.random import Key
from fnn.shard import shard
from fnn.transform import finite, freeze, microbatch, remat
from fnn.tree import Tree, tree_items, tree_leaves

MADE_OF_OPS: dict[str, Callable[..., Op]] = {
    make.__name__: make
    for make in (freeze, microbatch, named, parallel, remat, repeat, residual, serial, shard, shared)
}
"""What makes operators of operators, by their kind."""


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


def watched(op: Op) -> Op:
    """`op`, with `finite` around each operator that it is made of; its params are the same."""
    config = dict(op.config)
    if op.kind == "spread":
        return shard(watched(config["op"]), config["workers"], config["size"])
    if op.kind not in MADE_OF_OPS:
        return finite(op)
    if "op" in config:
        return MADE_OF_OPS[op.kind](**config | {"op": watched(config["op"])})
    return MADE_OF_OPS[op.kind](*map(watched, config.pop("ops")), **config)


def not_finite(what: str, tree: Tree) -> str | None:
    """What there is to say of the first leaf that is not finite all over, if there is one."""
    for path, leaf in tree_items(tree):
        if not np.isfinite(leaf).all():
            nans, infinities = np.count_nonzero(np.isnan(leaf)), np.count_nonzero(np.isinf(leaf))
            return f"{what}{path} has {nans} nan and {infinities} infinite of {leaf.size} numbers"
    return None
