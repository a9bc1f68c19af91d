"""What every optimizer is, and the one update that they share: decay the weights, find a direction, go down it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from fnn.checks.arrays import FLOATS, array_fault
from fnn.checks.errors import describe, describe_value, is_maker_of
from fnn.checks.values import check_non_negative
from fnn.kernels.underflow import allow_underflow
from fnn.optim.schedules import Schedule, as_schedule
from fnn.tree import Tree, tree_items, tree_leaves, tree_map

Array: TypeAlias = NDArray[Any]

State: TypeAlias = dict[str, Any]
"""Nested dicts of arrays beside a step count: pickles, compares and maps as parameters do."""


class Optimizer(NamedTuple):
    """`init(params) -> state` and `update(params, grads, state) -> (params, state)`, unpacked by `init, update = opt`.

    Both are pure: they change none of their arguments. Parameters keep their dtype and their order in memory. The state
    of float16 parameters is float32, and so are all steps of the update but the last one. Gradients have the structure
    and shapes of the parameters; anything else raises a ValueError that names the path. The two
    cannot be told apart: you get no error for parameters and gradients in the wrong order.
    """

    init: Callable[[Tree], State]
    update: Callable[[Tree, Tree, State], tuple[Tree, State]]


def descent(
    learning_rate: float | Schedule,
    direction: Callable[[Tree, State], tuple[Tree, State]],
    slots: Iterable[str] = (),
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> Optimizer:
    """The optimizer that goes from the parameters down a direction, by the learning rate.

    `direction(grads, state)` gives it with the new slots: what the state remembers beside its step, by name, each a
    tree of arrays like the parameters that begins at zero. Weight decay adds its share of the parameters to the
    gradients, or, decoupled, to the direction.
    """
    rate, weight_decay = as_schedule("learning_rate", learning_rate), check_non_negative("weight_decay", weight_decay)
    slots = tuple(slots)
    names = {"step", *slots}

    def init(params: Tree) -> State:
        check_params(params)
        return {"step": 0} | {slot: tree_map(np.zeros_like, widen(params)) for slot in slots}

    def move(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        step, given, params, grads = state["step"], params, widen(params), widen(grads)
        if weight_decay and not decoupled:
            grads = tree_map(axpy(weight_decay), grads, params)
        down, memory = direction(grads, state)
        if weight_decay and decoupled:
            down = tree_map(axpy(weight_decay), down, params)
        moved = tree_map(axpy(-rate(step)), params, down)
        return moved if params is given else round_like(given, moved), {"step": step + 1, **memory}

    def update(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        check_state(state, names, params, grads)
        if not _are_plain(params, grads):
            check_params(params)
            check_fit(params, "gradient", grads)
        try:
            return allow_underflow(move, params, grads, state)
        except (AttributeError, TypeError, ValueError):
            check_params(params)
            for name, tree in [("gradient", grads), *((slot, state[slot]) for slot in slots)]:
                check_fit(params, name, tree)
            raise

    return Optimizer(init, update)


def axpy(scale: float) -> Callable[[Array, Array], Array]:
    """The function `x + scale * y` of arrays of one shape, in the dtype and memory order of x."""

    def add(x: Array, y: Array) -> Array:
        if y.shape != x.shape:
            raise ValueError(f"shapes {x.shape} and {y.shape} differ")
        out = np.empty_like(x)
        np.multiply(y, scale, out)
        return np.add(x, out, out)

    return add


def lerp(weight: float) -> Callable[[Array, Array], Array]:
    """The function `(1 - weight) * x + weight * y` of arrays of one shape, in the dtype and memory order of x."""

    def mix(x: Array, y: Array) -> Array:
        if y.shape != x.shape:
            raise ValueError(f"shapes {x.shape} and {y.shape} differ")
        out, term = np.empty_like(x), np.empty_like(x)
        np.multiply(x, 1 - weight, out)
        np.multiply(y, weight, term)
        return np.add(out, term, out)

    return mix


def widen(tree: Tree) -> Tree:
    """The tree with float32 in place of float16, in which small steps and their squares would be lost."""
    if all(getattr(leaf, "dtype", None) != np.float16 for leaf in tree_leaves(tree)):
        return tree
    return tree_map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float16 else leaf, tree)


def round_like(like: Tree, tree: Tree) -> Tree:
    """The tree with the dtypes of `like`."""
    return tree_map(lambda a, leaf: leaf.astype(a.dtype, copy=False), like, tree)


def check_params(params: Tree) -> None:
    """Raises ValueError for the first leaf that is not a plain array of floats."""
    for path, leaf in tree_items(params):
        if fault := array_fault(path.rpartition("/")[2] or "params", leaf):
            raise ValueError(f"{path or 'params'}: {fault}")


def check_fit(params: Tree, name: str, tree: Tree) -> None:
    """Raises ValueError for the first leaf of `tree` that is not a plain array of floats of its parameter's shape."""
    for path, (leaf, other) in tree_items(tree_map(lambda leaf, other: (leaf, other), params, tree)):
        array = np.asarray(other) if isinstance(other, np.generic) else other  # NumPy's sums over all axes are scalars
        fault = array_fault(name, array)
        if fault or array.shape != leaf.shape:
            came = fault or f"expected shape {leaf.shape} as the parameter has, got {describe(array)}"
            raise ValueError(f"{path or 'params'}: {name}: {came}")


def check_state(state: State, names: Set[str], params: Tree = None, grads: Tree = None) -> None:
    """Raises ValueError for what another optimizer's `init` made, and for arguments of `update` in another order."""
    if isinstance(state, dict) and state.keys() == names:
        return
    for place, tree in (("first", params), ("second", grads)):
        if isinstance(tree, dict) and tree.keys() == names:
            raise ValueError(f"expected update(params, grads, state), got the state as the {place} argument")
    came = describe_value(sorted(state)) if isinstance(state, dict) else describe_value(state)
    raise ValueError(f"optimizer state: expected {sorted(names)}, got {came}; is it another optimizer's?")


def check_optimizer(value: Optimizer) -> Optimizer:
    """`value` if it is an optimizer; else raises the ValueError that says what it is and the fix."""
    if isinstance(value, Optimizer):
        return value
    name = getattr(value, "__name__", "")
    came, fix = (
        (f"the function {name}", f"; call it: {name}(...)")
        if is_maker_of(value, Optimizer, "Optimizer")
        else (describe_value(value), "")
    )
    raise ValueError(f"expected an optimizer such as adam(), got {came}{fix}")


def _are_plain(params: Tree, grads: Tree) -> bool:
    """Whether both are dicts of plain arrays of floats: a fast check in each step, before the one that explains."""
    if type(params) is not dict or type(grads) is not dict:
        return False
    for name, param in params.items():
        grad = grads.get(name)
        if type(param) is ndarray and type(grad) is ndarray:
            if param.dtype not in FLOATS or (grad.dtype is not param.dtype and grad.dtype not in FLOATS):
                return False
        elif not _are_plain(param, grad):
            return False
    return True
