"""The example that an operator is checked with. All of its arrays are read-only."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import NamedTuple

import numpy as np

from fnn.checks.errors import describe
from fnn.op import Array, Op, Params, Shape
from fnn.random import Key
from fnn.testing.compare import check_equal, read_only
from fnn.tree import Tree, tree_items, tree_map

ORDERS: Mapping[str, Callable[[Array], Array]] = {  # functions that copy an array into a memory order
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "batch innermost": lambda a: np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0) if a.ndim else a,
    "(W, C, H, N)": lambda a: np.ascontiguousarray(a.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0) if a.ndim == 4 else a,
    "reversed and strided": lambda a: np.flip(np.repeat(np.flip(a)[..., None], 2, -1)[..., 1]),
}


class Case(NamedTuple):
    """An operator and the arguments that it is checked with."""

    op: Op
    shape: Shape
    rng: Key
    key: Key | None
    params: Params
    x: Array
    dy: Array
    constants: frozenset[str] = frozenset()
    random: bool = False  # whether `x` is: then any other numbers are valid inputs too

    def arrays(self) -> Tree:
        """The params, the input and the cotangent, as a tree."""
        return {"params": self.params, "x": self.x, "dy": self.dy}

    def map(self, f: Callable[[Array], Array]) -> "Case":
        """Applies `f` to each array."""
        return self._replace(**tree_map(lambda a: read_only(np.asarray(f(a))), self.arrays()))

    def cast(self, dtype: type) -> "Case":
        """Converts floats to that dtype."""
        return self.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a)

    def rows(self, index: slice | list[int]) -> "Case":
        """Takes these rows as the batch."""
        return self._replace(x=read_only(self.x[index]), dy=read_only(self.dy[index]))

    def start(self) -> Callable[..., Tree]:
        """Applies the operator. Returns the function that calls the vjp and returns all results as one tree."""
        y, vjp = self.op.apply(self.params, self.x, self.key)
        if y.shape != self.dy.shape:
            raise AssertionError(f"output: expected shape {self.dy.shape}, got {describe(y)}")

        def finish(times: int = 1, need_dx: bool = True) -> Tree:
            dy = self.dy if times == 1 else times * self.dy
            dparams, dx = vjp(read_only(dy.astype(y.dtype, copy=False)), need_dx)  # keeps the memory order of dy
            return {"output": y, "params": dparams} | ({"input": dx} if need_dx else {})

        return finish

    def results(self) -> Tree:
        """Returns the output and the gradients, as a tree."""
        return self.start()()


def prepare_case(op: Op, shape: Shape, rng: Key, x: Array, key: Key | None) -> Case:
    """Returns the case of `op` at `x`, in float64 but with numbers that float32 can represent.

    Raises AssertionError unless `init` returns float32 arrays, and the same ones for the same key.
    """
    params = op.init(rng, shape)
    for path, leaf in tree_items(params):
        if not isinstance(leaf, np.ndarray) or (leaf.dtype.kind == "f" and leaf.dtype != np.float32):
            raise AssertionError(f"{path}: expected a float32 array, got {describe(leaf)}")
    check_equal(op.init(rng, shape), deepcopy(params), "of a second init with the same key")
    case = Case(op, shape, rng, key, perturb(params, rng), x, np.empty(0)).cast(np.float32)
    y, _ = op.apply(case.cast(np.float32).params, case.x, key)  # a copy of the dicts: "purity" finds changes of them
    dy = rng.fold("dy").generator().standard_normal(y.shape).astype(np.float32)
    return case._replace(dy=dy).cast(np.float64)


def perturb(params: Params, rng: Key) -> Tree:
    """Adds noise to the params: initial zeros and ones could hide an error."""
    noise = rng.fold("params").generator()
    return tree_map(lambda a: a + 0.1 * noise.standard_normal(a.shape) if a.dtype.kind == "f" else a, params)
