"""What an optimizer is: a pair of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from fnn.tree import Tree

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
