"""What every optimizer is, and the one update that they share: decay the weights, find a direction, go down it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fnn.kernels.underflow import allow_underflow
from fnn.op import told
from fnn.schedules import Schedule, as_schedule, non_negative
from fnn.tree import Tree, tree_items, tree_leaves, tree_map

Array: TypeAlias = NDArray[Any]

State: TypeAlias = dict[str, Any]
"""Nested dicts of arrays beside a step count: pickles, compares and maps as parameters do."""


class Optimizer(NamedTuple):
    """`init(params) -> state` and `update(params, grads, state) -> (params, state)`, unpacked by `init, update = opt`.

    Both are pure: they change none of their arguments. Parameters keep their dtype and their order in memory. The state
    of float16 parameters is float32, and so are all steps of the update but the last one. Gradients have the structure
    and shapes of the parameters; anything else raises a ValueError that names the path.
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
    rate, weight_decay = as_schedule("learning_rate", learning_rate), non_negative("weight_decay", weight_decay)
    names = ("step", *slots)

    def init(params: Tree) -> State:
        check_params(params)
        return {"step": 0} | {slot: tree_map(np.zeros_like, widen(params)) for slot in names[1:]}

    def move(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        step, given, params, grads = state["step"], params, widen(params), widen(grads)
        if weight_decay and not decoupled:
            grads = tree_map(plus(weight_decay), grads, params)
        down, memory = direction(grads, state)
        if weight_decay and decoupled:
            down = tree_map(plus(weight_decay), down, params)
        moved = tree_map(plus(-rate(step)), params, down)
        return moved if params is given else round_like(given, moved), {"step": step + 1, **memory}

    def update(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        check_state(state, names)
        try:
            return allow_underflow(move, params, grads, state)
        except (AttributeError, TypeError, ValueError):
            check_params(params)
            for name, tree in [("gradient", grads), *((slot, state[slot]) for slot in names[1:])]:
                check_fit(params, name, tree)
            raise

    return Optimizer(init, update)


def plus(scale: float) -> Callable[[Array, Array], Array]:
    """The function `x + scale * y` of arrays of one shape, in the dtype and memory order of x."""

    def add(x: Array, y: Array) -> Array:
        if y.shape != x.shape:
            raise ValueError(f"shapes {x.shape} and {y.shape} differ")
        out = np.empty_like(x)
        np.multiply(y, scale, out)
        return np.add(x, out, out)

    return add


def blend(weight: float) -> Callable[[Array, Array], Array]:
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
    """Raises ValueError for the first leaf that no optimizer can move."""
    for path, leaf in tree_items(params):
        if not (isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"):
            raise ValueError(f"{path or 'params'}: parameter is {told(leaf)}, wanted an array of floats")


def check_fit(params: Tree, name: str, tree: Tree) -> None:
    """Raises ValueError for the first leaf of `tree` that is not an array of floats of its parameter's shape."""
    for path, (leaf, other) in tree_items(tree_map(lambda leaf, other: (leaf, other), params, tree)):
        if not (isinstance(other, np.ndarray | np.generic) and other.dtype.kind == "f" and other.shape == leaf.shape):
            raise ValueError(f"{path or 'params'}: {name} is {told(other)}, the parameter {told(leaf)}")


def check_state(state: State, names: Iterable[str]) -> None:
    """Raises ValueError for what another optimizer's `init` made."""
    if not isinstance(state, dict) or state.keys() != set(names):
        came = f"holds {sorted(state)}" if isinstance(state, dict) else f"is {told(state)}"
        raise ValueError(f"optimizer state {came}, wanted {sorted(names)}: whose is it?")
