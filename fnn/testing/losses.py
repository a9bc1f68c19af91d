"""`check_loss`, and the properties that every loss must have."""

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import numpy as np

from fnn.losses import Loss
from fnn.op import Array
from fnn.random import Key, Rng, as_key
from fnn.testing.accuracy import NUMBERS, RANDOM, check_within
from fnn.testing.case import ORDERS
from fnn.testing.compare import check_equal, check_form, check_gradients, read_only, run_check
from fnn.tree import Tree


def check_loss(loss: Loss, outputs: Array, targets: Array, rng: Rng = 0) -> float:
    """Checks a loss with these arrays; returns the largest relative error of its gradient.

    Raises CheckError, an AssertionError, for the first failed check: dtypes, purity, memory order, mean over the batch,
    accuracy (float32 compared with float64 for 65,536 numbers), and gradient (compared with central differences along
    directions drawn from `rng`).
    """
    kind = getattr(loss, "__name__", "loss")
    case = LossCase(loss, outputs, targets, as_key(rng)).cast(np.float64)
    return max(run_check(kind, name, check, case) or 0.0 for name, check in PROPERTIES.items())


class LossCase(NamedTuple):
    """A loss and the arrays that it is checked with."""

    loss: Loss
    outputs: Array
    targets: Array
    rng: Key

    def map(self, f: Callable[[Array], Array]) -> "LossCase":
        """Applies `f` to both arrays."""
        return self._replace(outputs=f(self.outputs), targets=f(self.targets))

    def cast(self, dtype: type) -> "LossCase":
        """Converts floats to that dtype."""
        return self.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a)

    def results(self) -> Tree:
        """Returns the value and the gradient, as a tree."""
        value, vjp = self.loss(read_only(self.outputs), read_only(self.targets))
        gradient = vjp()
        copy = gradient.copy()
        check_equal({"outputs": vjp()}, {"outputs": copy}, "if the vjp is called again")
        return {"value": np.asarray(value), "outputs": gradient}


def _dtypes(case: LossCase) -> None:
    double = case.results()["value"]
    for dtype in (np.float32, np.float64):
        cast = case.cast(dtype)
        results, where = cast.results(), f"for {cast.outputs.dtype}"
        check_form(results, {"value": np.zeros((), dtype), "outputs": cast.outputs}, where)
        check_equal({"value": results["value"].astype(float)}, {"value": double}, where, 1e-4, least=1)


def _purity(case: LossCase) -> None:
    case = case.cast(np.float32)
    first = case.results()
    copy = deepcopy(first)
    case.map(lambda a: a[::-1]).results()
    check_equal(first, copy, "after later calls")
    check_equal(case.results(), copy, "in a second call")


def _memory_order(case: LossCase) -> None:
    expected = case.results()
    for name, arrange in ORDERS.items():
        check_equal(case.map(arrange).results(), expected, f"in memory order {name}", 1e-9)


def _mean(case: LossCase) -> None:
    once, twice = case.results(), case.map(lambda a: np.concatenate([a, a])).results()
    halves = np.concatenate([once["outputs"]] * 2) / 2
    check_equal(twice, {"value": once["value"], "outputs": halves}, "with each example twice", 1e-9)


def _accuracy(case: LossCase) -> None:
    count = 2 * NUMBERS // max(1, case.outputs[0].size)
    # Errors of random rows cancel in part. Errors of one row, repeated, add up.
    for rows in (np.random.default_rng(0).integers(len(case.outputs), size=count), np.zeros(count, int)):
        large = case.map(lambda a, rows=rows: a[rows]).cast(np.float32)  # type: ignore[misc]
        double = large.cast(np.float64).results()
        # A loss may be the mean of differences of outputs: its terms are as large as these, their slope is 1 / count.
        least = {"value": float(np.abs(large.outputs).mean(dtype=float)), "outputs": 1 / count}
        for arrange in ORDERS.values():
            results = large.map(arrange).results()
            for name, expected in double.items():
                tolerance = RANDOM * max(float(np.abs(expected).max()), least[name])
                check_within(f"{name} for {large.outputs.shape}", results[name], expected, tolerance)


def _gradient(case: LossCase) -> float:
    def value(point: list[Array]) -> Array:
        return np.asarray(case.loss(point[0], case.targets)[0])

    gradient = case.results()["outputs"]
    return check_gradients(value, [case.outputs], np.ones(()), {0: ("outputs", gradient)}, case.rng.generator())


PROPERTIES: dict[str, Callable[[LossCase], float | None]] = {
    "dtypes": _dtypes,
    "purity": _purity,
    "memory order": _memory_order,
    "mean": _mean,
    "accuracy": _accuracy,
    "gradient": _gradient,
}
