"""Checks of parameters, gradients and states. All raise ValueError."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
from numpy import ndarray

from fnn.checks.arrays import FLOATS, array_fault
from fnn.checks.errors import describe, describe_value
from fnn.tree import Tree, tree_items, tree_leaves, tree_map


def check_params(params: Tree) -> None:
    """Checks that all leaves are plain arrays of floats."""
    for path, leaf in tree_items(params):
        if fault := array_fault(path.rpartition("/")[2] or "params", leaf):
            raise ValueError(f"{path or 'params'}: {fault}")


def check_matches(params: Tree, name: str, tree: Tree) -> None:
    """Checks that all leaves of `tree`, called `name`, are plain arrays of floats of the shapes in `params`."""
    for path, (param, leaf) in tree_items(tree_map(lambda param, leaf: (param, leaf), params, tree)):
        array = np.asarray(leaf) if isinstance(leaf, np.generic) else leaf  # NumPy's sums over all axes are scalars
        fault = array_fault(name, array)
        if not fault and array.shape != param.shape:
            fault = f"expected shape {param.shape} as the parameter has, got {describe(array)}"
        if fault:
            raise ValueError(f"{path or 'params'}: {name}: {fault}")


def check_state(state: Any, names: Set[str], params: Tree, grads: Tree) -> None:
    """Checks that the state has these names, and that the arguments of `update` are in the right order."""
    if isinstance(state, dict) and state.keys() == names:
        return
    for position, tree in (("first", params), ("second", grads)):
        if isinstance(tree, dict) and tree.keys() == names:
            raise ValueError(f"expected update(params, grads, state), got the state as the {position} argument")
    got = describe_value(sorted(state) if isinstance(state, dict) else state)
    raise ValueError(f"optimizer state: expected {sorted(names)}, got {got}; is it another optimizer's?")


def check_gradients(params: Tree, grads: Tree) -> None:
    """Checks that all leaves are plain arrays of floats. If they are, it leaves the shapes to the arithmetic."""
    for leaf in tree_leaves(params) + tree_leaves(grads):
        if type(leaf) is not ndarray or leaf.dtype not in FLOATS:
            check_params(params)
            check_matches(params, "gradient", grads)
            return
