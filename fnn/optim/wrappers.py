"""Optimizers from optimizers: what goes around any of them, and around each other."""

from collections.abc import Callable
from math import inf, isfinite, sqrt

import numpy as np

from fnn.checks.errors import describe
from fnn.checks.values import check_fraction, check_positive
from fnn.kernels.reductions import square_sum
from fnn.kernels.underflow import allow_underflow
from fnn.optim.base import Array, Optimizer, State, check_fit, check_optimizer, check_params, check_state, lerp, widen
from fnn.tree import Tree, TreeError, tree_items, tree_leaves, tree_map


def clip_by_global_norm(optimizer: Optimizer, max_norm: float) -> Optimizer:
    """Wraps `optimizer` so that the norm of all gradients together is at most `max_norm`.

    Longer gradients are multiplied by `max_norm / (norm + 1e-6)`, as in PyTorch. Gradients with nan or infinity stay as
    they are, so that you can see them. The state is that of `optimizer`. Pascanu, Mikolov & Bengio, "On the Difficulty
    of Training Recurrent Neural Networks", ICML 2013.
    """
    check_optimizer(optimizer)
    max_norm = check_positive("max_norm", max_norm)

    def update(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        check_params(params)
        check_fit(params, "gradient", grads)
        norm = _norm(tree_leaves(grads)) + 1e-6
        if max_norm < norm < inf:
            scale = max_norm / norm
            grads = allow_underflow(tree_map, lambda g: g * scale, widen(grads))
        return optimizer.update(params, grads, state)

    return Optimizer(optimizer.init, update)


def _norm(leaves: list[Array]) -> float:
    """The root of the sum of all squares, which may overflow on the way."""
    total = sum(map(square_sum, leaves))
    if isfinite(total):
        return sqrt(total)
    largest = max(float(np.abs(leaf).max(initial=0)) for leaf in leaves)
    return largest * sqrt(sum(square_sum(leaf / largest) for leaf in leaves)) if isfinite(largest) else largest


frozen = Optimizer(lambda params: {}, lambda params, grads, state: (tree_map(lambda p, g: p, params, grads), state))
"""The optimizer that gives the parameters back as they are, the very same arrays."""


def masked(optimizer: Optimizer, where: Callable[[str], bool], otherwise: Optimizer = frozen) -> Optimizer:
    """`optimizer` for the parameters whose path `where` chooses, and `otherwise` for the others.

    `masked(adam(), lambda path: path.startswith("dense2/"))` trains a part and freezes the rest; and
    `masked(adamw(), lambda path: path.endswith("/w"), adam())` decays the weights alone. Each sees only its own part,
    as the same nested dicts without the other leaves. Raises ValueError, at `init`, when `where` chooses none.
    """
    check_optimizer(optimizer)
    check_optimizer(otherwise)
    if not callable(where):
        raise ValueError(f"where: expected a function of a parameter's path, got {describe(where)}")

    def split(tree: Tree) -> tuple[Tree, Tree]:
        return _only(where, True, tree), _only(where, False, tree)

    def init(params: Tree) -> State:
        chosen, others = split(params)
        if not tree_leaves(chosen):
            raise ValueError(f"where chooses none of {[path for path, _ in tree_items(params)]}")
        return {"chosen": optimizer.init(chosen), "others": otherwise.init(others)}

    def update(params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        check_state(state, {"chosen", "others"}, params, grads)
        (chosen, others), (chosen_grads, other_grads) = split(params), split(grads)
        chosen, chosen_state = optimizer.update(chosen, chosen_grads, state["chosen"])
        others, other_state = otherwise.update(others, other_grads, state["others"])
        return _merged(params, chosen, others), {"chosen": chosen_state, "others": other_state}

    return Optimizer(init, update)


def _only(where: Callable[[str], bool], wanted: bool, tree: Tree, path: str = "") -> Tree:
    """`tree` without the leaves of which `where` does not say what is wanted."""
    if not isinstance(tree, dict):
        raise TreeError(f"masked chooses among the leaves of a dict, got {describe(tree)}")
    kept = {}
    for name, child in tree.items():
        if isinstance(child, dict):
            kept[name] = _only(where, wanted, child, f"{path}{name}/")
        elif bool(where(path + name)) is wanted:
            kept[name] = child
    return kept


def _merged(like: Tree, first: Tree, second: Tree) -> Tree:
    """The tree of the structure and order of `like` whose leaves are in `first` or in `second`."""
    return {
        name: _merged(child, first[name], second[name])
        if isinstance(child, dict)
        else (first if name in first else second)[name]
        for name, child in like.items()
    }


def averaged(optimizer: Optimizer, decay: float) -> Optimizer:
    """`optimizer`, with an exponential moving average of the parameters kept beside its state; `average` reads it.

    After n updates the parameters of k updates before weigh `decay**k * (1 - decay) / (1 - decay**n)`: the average
    begins at the first update's parameters, not at the initial ones. Kingma & Ba, "Adam", ICLR 2015, section 7.2.
    """
    check_optimizer(optimizer)
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
    """Reads the averaged parameters from the state of an `averaged` optimizer. Those of float16 are float32.

    Raises ValueError for any other state; where parts are masked, `averaged` goes around `masked`.
    """
    if not isinstance(state, dict) or "average" not in state:
        came = f"holds {sorted(state)}" if isinstance(state, dict) else f"is {describe(state)}"
        raise ValueError(f"optimizer state {came}, wanted that of averaged(...), which goes outermost")
    return state["average"]
