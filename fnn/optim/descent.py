"""What an optimizer is, the update that all share, and stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fnn.checks.calls import named_by_call
from fnn.checks.values import check_fraction, check_non_negative
from fnn.kernels.numerics import allow_underflow
from fnn.optim.arithmetic import axpy
from fnn.optim.checks import check_gradients, check_matches, check_params, check_state
from fnn.optim.schedules import Rate, as_schedule
from fnn.tree import Tree, tree_map, widen

State: TypeAlias = dict[str, Any]
"""Nested dicts of arrays and step counts, which you can pickle, compare and map as you can parameters."""


class Optimizer(NamedTuple):
    """`init(params) -> state` and `update(params, grads, state) -> (params, state)`, unpacked by `init, update = opt`.

    Both are pure: they change none of their arguments. Parameters keep their dtype and their order in memory. For
    float16 parameters the state is float32, and an update is computed in float32 and rounded once. Gradients must have
    the structure and shapes of the parameters; otherwise `update` raises a ValueError with the path. Do not swap
    parameters and gradients: they look alike, so no error can tell you.
    """

    init: Callable[[Tree], State]
    update: Callable[[Tree, Tree, State], tuple[Tree, State]]

    def __repr__(self) -> str:
        """The call that returned the optimizer, which is the name of its `update`; see `named_by_call`."""
        name = getattr(self.update, "__name__", "update")
        return "Optimizer(init, update)" if name == "update" else name


def descent(
    learning_rate: Rate,
    direction: Callable[[Tree, State], tuple[Tree, State]],
    slots: Iterable[str] = (),
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> Optimizer:
    """Makes the optimizer with the update `params - learning_rate * direction`.

    The state has the step and the `slots`: trees like the parameters that start at zero. `direction(grads, state)`
    returns the direction and the new slots. Weight decay adds `weight_decay * params` to the gradients, or, if
    decoupled, to the direction.
    """
    rate, weight_decay = as_schedule("learning_rate", learning_rate), check_non_negative("weight_decay", weight_decay)
    slots = tuple(slots)
    names = {"step", *slots}

    def init(params: Tree) -> State:
        check_params(params)
        return {"step": 0} | {slot: tree_map(np.zeros_like, widen(params)) for slot in slots}

    def move(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        step, wide, grads = state["step"], widen(params), widen(grads)
        if weight_decay and not decoupled:
            grads = tree_map(axpy(weight_decay), grads, wide)
        down, new_slots = direction(grads, state)
        if weight_decay and decoupled:
            down = tree_map(axpy(weight_decay), down, wide)
        moved = tree_map(axpy(-rate(step)), wide, down)
        if wide is not params:
            moved = tree_map(lambda p, new: new.astype(p.dtype, copy=False), params, moved)
        return moved, {"step": step + 1, **new_slots}

    def update(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        check_state(state, names, params, grads)
        check_gradients(params, grads)
        try:
            return allow_underflow(move, params, grads, state)
        except (AttributeError, TypeError, ValueError):
            check_params(params)
            for name, tree in [("gradient", grads), *((slot, state[slot]) for slot in slots)]:
                check_matches(params, name, tree)
            raise

    return Optimizer(init, update)


@named_by_call
def sgd(learning_rate: Rate, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Optimizer:
    """Stochastic gradient descent, `p - learning_rate * g`. With momentum, `v = momentum * v + g` takes the place of g.

    With `nesterov` it is `g + momentum * v` instead. Weight decay adds `weight_decay * p` to the gradient. Raises
    ValueError for hyper-parameters out of range. Sutskever et al., "On the Importance of Initialization and Momentum
    in Deep Learning", ICML 2013, in PyTorch's form: the velocity v is not scaled by the learning rate.
    """
    momentum = check_fraction("momentum", momentum)
    if nesterov and not momentum:
        raise ValueError("momentum: expected a number above 0 for nesterov, got 0.0")
    if not momentum:
        return descent(learning_rate, lambda grads, state: (grads, {}), weight_decay=weight_decay)

    def direction(grads: Tree, state: State) -> tuple[Tree, State]:
        velocity = tree_map(axpy(momentum), grads, state["velocity"])
        return tree_map(axpy(momentum), grads, velocity) if nesterov else velocity, {"velocity": velocity}

    return descent(learning_rate, direction, ["velocity"], weight_decay)
