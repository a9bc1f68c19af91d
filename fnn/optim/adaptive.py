"""Optimizers that give each number its own rate, by the squares of the gradients that it has seen."""

from collections.abc import Callable
from math import sqrt

import numpy as np

from fnn.checks.values import check_fraction, check_positive
from fnn.optim.base import Array, Optimizer, State, axpy, descent, lerp
from fnn.optim.schedules import Schedule
from fnn.tree import Tree, tree_map

TINY = float(np.finfo(np.float32).tiny)
"""Smallest eps: less would round to 0 in float32, and a zero gradient would give nan."""


def rmsprop(
    learning_rate: float | Schedule = 1e-2,
    decay: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Gradients over the root of a moving average of their squares: `g / (sqrt(v) + eps)`, `decay` being v's.

    Momentum and weight decay act as in `sgd`. Raises ValueError for hyper-parameters out of range. Tieleman & Hinton,
    "Lecture 6.5: rmsprop", Coursera: Neural Networks for Machine Learning, 2012.
    """
    decay, momentum = check_fraction("decay", decay), check_fraction("momentum", momentum)
    eps = check_positive("eps", eps)
    average, scaled = _blend_squares(1 - decay), _over_root(eps)

    def direction(grads: Tree, state: State) -> tuple[Tree, State]:
        v = tree_map(average, state["v"], grads)
        down = tree_map(scaled, grads, v)
        if not momentum:
            return down, {"v": v}
        velocity = tree_map(axpy(momentum), down, state["velocity"])
        return velocity, {"v": v, "velocity": velocity}

    return descent(learning_rate, direction, ["v", "velocity"] if momentum else ["v"], weight_decay)


def adagrad(learning_rate: float | Schedule = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0) -> Optimizer:
    """Gradients over the root of the sum of all their squares so far: `g / (sqrt(sum) + eps)`.

    Weight decay acts as in `sgd`. Raises ValueError for hyper-parameters out of range. Duchi, Hazan & Singer,
    "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 12, 2011.
    """
    add, scaled = axpy(1.0), _over_root(check_positive("eps", eps))

    def direction(grads: Tree, state: State) -> tuple[Tree, State]:
        total = tree_map(lambda total, g: add(total, np.square(g)), state["sum"], grads)
        return tree_map(scaled, grads, total), {"sum": total}

    return descent(learning_rate, direction, ["sum"], weight_decay)


def adam(
    learning_rate: float | Schedule = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Optimizer:
    """A moving average m of the gradients over the root of one of their squares, v: `m / (sqrt(v) + eps)`.

    `b1` and `b2` are the averages' decays; both begin at zero, and their bias towards it is taken out. Weight decay
    acts as in `sgd`. Raises ValueError for hyper-parameters out of range. Kingma & Ba, "Adam: A Method for Stochastic
    Optimization", ICLR 2015.
    """
    return _adam(learning_rate, b1, b2, eps, weight_decay, decoupled=False)


def adamw(
    learning_rate: float | Schedule = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Optimizer:
    """`adam` with decoupled weight decay: the step takes off `learning_rate * weight_decay * p` as well.

    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, in PyTorch's form, which scales the decay
    by the learning rate itself.
    """
    return _adam(learning_rate, b1, b2, eps, weight_decay, decoupled=True)


def _adam(
    learning_rate: float | Schedule, b1: float, b2: float, eps: float, weight_decay: float, decoupled: bool
) -> Optimizer:
    b1, b2, eps = check_fraction("b1", b1), check_fraction("b2", b2), check_positive("eps", eps)
    average, average_squares = lerp(1 - b1), _blend_squares(1 - b2)

    def direction(grads: Tree, state: State) -> tuple[Tree, State]:
        m = tree_map(average, state["m"], grads)
        v = tree_map(average_squares, state["v"], grads)
        count = state["step"] + 1
        unbias_m, unbias_v = 1 - b1**count, 1 - b2**count
        scaled = _over_root(eps * unbias_m, unbias_m / sqrt(unbias_v))
        return tree_map(scaled, m, v), {"m": m, "v": v}

    return descent(learning_rate, direction, ["m", "v"], weight_decay, decoupled)


def _blend_squares(weight: float) -> Callable[[Array, Array], Array]:
    """The function `(1 - weight) * v + weight * g * g`, in the dtype and memory order of v."""
    mix = lerp(weight)
    return lambda v, g: mix(v, np.square(g))


def _over_root(eps: float, scale: float = 1.0) -> Callable[[Array, Array], Array]:
    """The function `x / (scale * sqrt(v) + eps)`, in the dtype and memory order of v."""
    eps = max(eps, TINY)

    def divide(x: Array, v: Array) -> Array:
        out = np.sqrt(v, np.empty_like(v))
        out *= scale
        out += eps
        return np.divide(x, out, out)

    return divide
