"""Stochastic gradient descent."""

from fnn.checks.values import check_fraction
from fnn.optim.base import Optimizer, State, axpy, descent
from fnn.optim.schedules import Schedule
from fnn.tree import Tree, tree_map


def sgd(
    learning_rate: float | Schedule, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> Optimizer:
    """Stochastic gradient descent, `p - learning_rate * g`; with momentum g becomes `v = momentum * v + g`.

    Nesterov's looks ahead: g becomes `g + momentum * v`. Weight decay adds `weight_decay * p` to the gradient. Raises
    ValueError for hyper-parameters out of range. Sutskever et al., "On the Importance of Initialization and Momentum
    in Deep Learning", ICML 2013, in PyTorch's form, whose velocity is not scaled by the rate.
    """
    momentum = check_fraction("momentum", momentum)
    if nesterov and not momentum:
        raise ValueError("nesterov wants a momentum above 0, got 0.0")
    if not momentum:
        return descent(learning_rate, lambda grads, state: (grads, {}), weight_decay=weight_decay)

    def direction(grads: Tree, state: State) -> tuple[Tree, State]:
        velocity = tree_map(axpy(momentum), grads, state["velocity"])
        return tree_map(axpy(momentum), grads, velocity) if nesterov else velocity, {"velocity": velocity}

    return descent(learning_rate, direction, ["velocity"], weight_decay)
