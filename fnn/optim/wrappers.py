"""Optimizers that wrap another optimizer. You can nest them."""

from collections.abc import Callable
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np

from fnn.checks.calls import named_by_call
from fnn.checks.errors import describe, describe_uncalled, describe_value
from fnn.checks.values import check_fraction, check_positive
from fnn.kernels.reductions import allow_underflow, square_sum
from fnn.optim.arithmetic import Array, lerp
from fnn.optim.checks import check_matches, check_params, check_state
from fnn.optim.descent import Optimizer, State
from fnn.tree import Tree, TreeError, tree_items, tree_leaves, tree_map, widen


@named_by_call
def clip_by_global_norm(optimizer: Optimizer, max_norm: float) -> Optimizer:
    """Wraps `optimizer` so that the norm of all gradients together is at most `max_norm`.

    Longer gradients are multiplied by `max_norm / (norm + 1e-6)`, as in PyTorch. Gradients with nan or infinity stay as
    they are, so that you can see them. The state is that of `optimizer`. Pascanu, Mikolov & Bengio, "On the Difficulty
    of Training Recurrent Neural Networks", ICML 2013.
    """
    _check_optimizer(optimizer)
    max_norm = check_positive("max_norm", max_norm)

    def update(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        check_params(params)
        check_matches(params, "gradient", grads)
        norm = _norm(tree_leaves(grads)) + 1e-6
        if max_norm < norm < inf:
            scale = max_norm / norm
            grads = allow_underflow(tree_map, lambda g: g * scale, widen(grads))
        return optimizer.update(params, grads, state)

    return Optimizer(optimizer.init, update)


def _norm(leaves: list[Array]) -> float:
    """The root of the sum of all squares. It is finite for all finite leaves, even if their squares overflow."""
    total = sum(map(square_sum, leaves))
    if isfinite(total):
        return sqrt(total)
    largest = max(float(np.abs(leaf).max(initial=0)) for leaf in leaves)
    return largest * sqrt(sum(square_sum(leaf / largest) for leaf in leaves)) if isfinite(largest) else largest


def _keep(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
    return tree_map(lambda p, g: p, params, grads), state


_keep.__name__ = "frozen"
frozen = Optimizer(lambda params: {}, _keep)
"""The optimizer that changes nothing: `update` returns the same arrays."""


@named_by_call
def masked(optimizer: Optimizer, where: Callable[[str], bool], otherwise: Optimizer = frozen) -> Optimizer:
    """Uses `optimizer` for the parameters where `where(path)` is true, and `otherwise` for the others.

    `masked(adam(), lambda path: path.startswith("dense2/"))` trains one part and freezes the rest, and
    `masked(adamw(), lambda path: path.endswith("/w"), adam())` decays only the weights. Each optimizer gets the nested
    dicts without the other's leaves. `init` raises ValueError if `where` is true for no path.
    """
    _check_optimizer(optimizer)
    _check_optimizer(otherwise)
    if not callable(where):
        raise ValueError(f"where: expected a function of a parameter's path, got {describe(where)}")

    def init(params: Tree) -> State:
        chosen, others = _split(params, where)
        if not tree_leaves(chosen):
            raise ValueError(f"where: expected True for one path or more, got none of {list(dict(tree_items(params)))}")
        return {"chosen": optimizer.init(chosen), "others": otherwise.init(others)}

    def update(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        check_state(state, {"chosen", "others"}, params, grads)
        (chosen, others), (chosen_grads, other_grads) = _split(params, where), _split(grads, where)
        chosen, chosen_state = optimizer.update(chosen, chosen_grads, state["chosen"])
        others, other_state = otherwise.update(others, other_grads, state["others"])
        return _merge(params, chosen, others), {"chosen": chosen_state, "others": other_state}

    return Optimizer(init, update)


def _split(tree: Tree, where: Callable[[str], bool], path: str = "") -> tuple[Tree, Tree]:
    """Splits a tree into the leaves where `where(path)` is true, and the others. Both get all dicts."""
    if not isinstance(tree, dict):
        raise TreeError(f"masked: expected params as a dict, got {describe(tree)}")
    chosen, others = {}, {}
    for name, child in tree.items():
        if isinstance(child, dict):
            chosen[name], others[name] = _split(child, where, f"{path}{name}/")
        else:
            (chosen if where(path + name) else others)[name] = child
    return chosen, others


def _merge(like: Tree, first: Tree, second: Tree) -> Tree:
    """The tree with the structure and order of `like`. Each leaf comes from `first` or `second`, which has it."""
    merged = {}
    for name, child in like.items():
        if isinstance(child, dict):
            merged[name] = _merge(child, first[name], second[name])
        else:
            merged[name] = first[name] if name in first else second[name]
    return merged


@named_by_call
def averaged(optimizer: Optimizer, decay: float) -> Optimizer:
    """Wraps `optimizer` and keeps an exponential moving average of the parameters; `average(state)` returns it.

    After n updates, the parameters of k updates ago have the weight `decay**k * (1 - decay) / (1 - decay**n)`, so the
    initial parameters do not count. Kingma & Ba, "Adam", ICLR 2015, section 7.2.
    """
    _check_optimizer(optimizer)
    decay = check_fraction("decay", decay)

    def init(params: Tree) -> State:
        check_params(params)
        start = tree_map(lambda p: p.copy("K"), widen(params))
        return {"step": 0, "average": start, "optimizer": optimizer.init(params)}

    def update(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        check_state(state, {"step", "average", "optimizer"}, params, grads)
        params, inner = optimizer.update(params, grads, state["optimizer"])
        count = state["step"] + 1
        mix = lerp((1 - decay) / (1 - decay**count))
        mean = allow_underflow(tree_map, mix, state["average"], params)
        return params, {"step": count, "average": mean, "optimizer": inner}

    return Optimizer(init, update)


def average(state: State) -> Tree:
    """Returns the averaged parameters from the state of an `averaged` optimizer. Those of float16 are float32.

    Raises ValueError for any other state. If you use `masked` too, put `averaged` around it.
    """
    if isinstance(state, dict) and "average" in state:
        return state["average"]
    got = describe_value(sorted(state) if isinstance(state, dict) else state)
    raise ValueError(f"optimizer state: expected that of averaged(...), got {got}; put averaged around other wrappers")


def _check_optimizer(value: Any) -> Optimizer:
    """Returns `value` if it is an optimizer."""
    if isinstance(value, Optimizer):
        return value
    got = describe_uncalled(value, Optimizer, "Optimizer") or describe_value(value)
    raise ValueError(f"expected an optimizer such as adam(), got {got}")
