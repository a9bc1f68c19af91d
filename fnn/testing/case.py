"""What an operator is checked with, and how it is run: read-only, and for all of its results at once."""

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import numpy as np

from fnn.checks.errors import describe
from fnn.op import Array, Op, Params, Shape
from fnn.random import Key
from fnn.testing.compare import agree, frozen
from fnn.tree import Tree, tree_items, tree_map


class Case(NamedTuple):
    """An operator, and what it is checked with; none of the arrays can be written to."""

    op: Op
    shape: Shape
    rng: Key
    key: Key | None
    params: Params
    x: Array
    dy: Array
    constants: frozenset[str] = frozenset()
    drawn: bool = False
    """Whether `x` was drawn at random: then any other numbers will do as well."""

    def map(self, f: Callable[[Array], Array]) -> "Case":
        """With `f` of each array."""
        return self._replace(**tree_map(lambda a: frozen(np.asarray(f(a))), self.arrays()))

    def arrays(self) -> Tree:
        """Those that the operator is given, as a tree."""
        return {"params": self.params, "x": self.x, "dy": self.dy}

    def cast(self, dtype: type) -> "Case":
        """With floats of that dtype."""
        return self.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a)

    def rows(self, index: slice | list[int]) -> "Case":
        """With these rows as the batch."""
        return self._replace(x=frozen(self.x[index]), dy=frozen(self.dy[index]))

    def start(self) -> Callable[..., Tree]:
        """Applies the operator; what this returns calls the vjp, for the output and the gradients as one tree."""
        y, vjp = self.op.apply(self.params, self.x, self.key)
        if y.shape != self.dy.shape:
            raise AssertionError(f"output is {describe(y)}, wanted the shape {self.dy.shape}")

        def finish(times: int = 1, need_dx: bool = True) -> Tree:
            dy = self.dy if times == 1 else times * self.dy
            dparams, dx = vjp(frozen(dy.astype(y.dtype, copy=False)), need_dx)  # in the memory order of dy itself
            return {"output": y, "params": dparams} | ({"input": dx} if need_dx else {})

        return finish

    def results(self) -> Tree:
        """The output and the gradients."""
        return self.start()()


def prepared(op: Op, shape: Shape, rng: Key, x: Array, key: Key | None) -> Case:
    """The case of `op` at `x`. Its params are moved a little: no error is to hide behind zeros and ones.

    Raises AssertionError where the initial ones are not float32, or not the same from the same key.
    """
    params = op.init(rng, shape)
    for path, leaf in tree_items(params):
        if not isinstance(leaf, np.ndarray) or (leaf.dtype.kind == "f" and leaf.dtype != np.float32):
            raise AssertionError(f"{path} is {describe(leaf)}, wanted an array of float32")
    agree(op.init(rng, shape), deepcopy(params), "from the same key")
    case = Case(op, shape, rng, key, move(params, rng), x, np.empty(0)).cast(np.float32)
    y, _ = op.apply(case.cast(np.float32).params, case.x, key)  # in dicts of its own, as in "call"
    dy = rng.fold("dy").generator().standard_normal(y.shape).astype(np.float32)
    return case._replace(dy=dy).cast(np.float64)  # float64, but numbers that float32 has as well


def move(params: Params, rng: Key) -> Params:
    """The params with noise added, so that no error hides behind zeros and ones."""
    noise = rng.fold("params").generator()
    moved: Params = tree_map(lambda a: a + 0.1 * noise.standard_normal(a.shape) if a.dtype.kind == "f" else a, params)
    return moved
