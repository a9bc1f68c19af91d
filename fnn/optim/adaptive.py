"""Optimizers that scale each number's step by the size of its past gradients."""

from collections.abc import Callable
from math import sqrt

import numpy as np

from fnn.checks.calls import named_by_call
from fnn.checks.values import check_fraction, check_positive
from fnn.optim.arithmetic import Array, axpy, lerp
from fnn.optim.descent import Optimizer, State, descent
from fnn.optim.schedules import Rate
from fnn.tree import Tree, tree_map

TINY = float(np.finfo(np.float32).tiny)
"""Smallest eps: less would round to 0 in float32, and a zero gradient would give nan."""


@named_by_call
def rmsprop(
    learning_rate: Rate = 1e-2, decay: float = 0.99, eps: float = 1e-8, momentum: float = 0.0, weight_decay: float = 0.0
) -> Optimizer:
    """Divides gradients by the root of a moving average v of their squares: `g / (sqrt(v) + eps)`.

    `v = decay * v + (1 - decay) * g**2`. Momentum and weight decay act as in `sgd`. Raises ValueError for
    hyper-parameters out of range. Tieleman & Hinton, "Lecture 6.5: rmsprop", Coursera: Neural Networks for Machine
    Learning, 2012.
    """
    decay, momentum = check_fraction("decay", decay), check_fraction("momentum", momentum)
    update_v, scale = _average_squares(decay), _divide_by_root(check_positive("eps", eps))

    def direction(grads: Tree, state: State) -> tuple[Tree, State]:
        v = tree_map(update_v, state["v"], grads)
        down = tree_map(scale, grads, v)
        if not momentum:
            return down, {"v": v}
        velocity = tree_map(axpy(momentum), down, state["velocity"])
        return velocity, {"v": v, "velocity": velocity}

    return descent(learning_rate, direction, ["v", "velocity"] if momentum else ["v"], weight_decay)


@named_by_call
def adagrad(learning_rate: Rate = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0) -> Optimizer:
    """Divides gradients by the root of the sum of all their squares so far: `g / (sqrt(sum) + eps)`.

    Weight decay acts as in `sgd`. Raises ValueError for hyper-parameters out of range. Duchi, Hazan & Singer,
    "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 12, 2011.
    """
    add, scale = axpy(1.0), _divide_by_root(check_positive("eps", eps))

    def direction(grads: Tree, state: State) -> tuple[Tree, State]:
        total = tree_map(lambda total, g: add(total, np.square(g)), state["sum"], grads)
        return tree_map(scale, grads, total), {"sum": total}

    return descent(learning_rate, direction, ["sum"], weight_decay)


@named_by_call
def adam(
    learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizer:
    """Divides a moving average m of the gradients by the root of one of their squares, v: `m / (sqrt(v) + eps)`.

    `b1` and `b2` are the decays of m and v, which start at zero; the bias that this causes is corrected. Weight decay
    acts as in `sgd`. Raises ValueError for hyper-parameters out of range. Kingma & Ba, "Adam: A Method for Stochastic
    Optimization", ICLR 2015.
    """
    return _adam(learning_rate, b1, b2, eps, weight_decay, decoupled=False)


@named_by_call
def adamw(
    learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-2
) -> Optimizer:
    """`adam` with decoupled weight decay: each step also subtracts `learning_rate * weight_decay * p`.

    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, in PyTorch's form, which scales the decay
    by the learning rate.
    """
    return _adam(learning_rate, b1, b2, eps, weight_decay, decoupled=True)


def _adam(learning_rate: Rate, b1: float, b2: float, eps: float, weight_decay: float, decoupled: bool) -> Optimizer:
    b1, b2, eps = check_fraction("b1", b1), check_fraction("b2", b2), check_positive("eps", eps)
    update_m, update_v = lerp(1 - b1), _average_squares(b2)

    def direction(grads: Tree, state: State) -> tuple[Tree, State]:
        m, v = tree_map(update_m, state["m"], grads), tree_map(update_v, state["v"], grads)
        count = state["step"] + 1
        unbias_m, unbias_v = 1 - b1**count, 1 - b2**count
        scale = _divide_by_root(eps * unbias_m, unbias_m / sqrt(unbias_v))
        return tree_map(scale, m, v), {"m": m, "v": v}

    return descent(learning_rate, direction, ["m", "v"], weight_decay, decoupled)


def _average_squares(decay: float) -> Callable[[Array, Array], Array]:
    """Returns the function `decay * v + (1 - decay) * g**2`; its result has the dtype and memory order of v."""
    mix = lerp(1 - decay)
    return lambda v, g: mix(v, np.square(g))


def _divide_by_root(eps: float, scale: float = 1.0) -> Callable[[Array, Array], Array]:
    """Returns the function `x / (scale * sqrt(v) + eps)`; its result has the dtype and memory order of v."""
    eps = max(eps, TINY)

    def divide(x: Array, v: Array) -> Array:
        out = np.sqrt(v, np.empty_like(v))
        out *= scale
        out += eps
        return np.divide(x, out, out)

    return divide
