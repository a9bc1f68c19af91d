"""What every loss must pass: `check_loss`, and the properties that it asks for."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fnn.losses import Loss
from fnn.op import Array
from fnn.random import Rng, as_key
from fnn.testing.accuracy import NUMBERS, RANDOM, compare
from fnn.testing.checks import ORDERS
from fnn.testing.compare import agree, alike, checked, differ, frozen
from fnn.tree import Tree


def check_loss(loss: Loss, outputs: Array, targets: Array, rng: Rng = 0) -> float:
    """Checks that `loss` is what a loss must be, at these arrays; returns its gradient's worst relative error.

    Raises CheckError, an AssertionError, for the first property that it lacks: dtypes, purity, memory order, the mean
    over the batch, accuracy (float32 against float64 for a batch of 100,000 numbers), and the gradient, compared with
    central differences along directions drawn from `rng`.
    """
    kind = getattr(loss, "__name__", "loss")
    case = Case(loss, outputs, targets).cast(np.float64)
    for name, asked in PROPERTIES.items():
        checked(kind, name, asked, case)
    return checked(kind, "gradient", _gradient, case, as_key(rng).generator())


class Case(NamedTuple):
    """A loss, and what it is checked with."""

    loss: Loss
    outputs: Array
    targets: Array

    def cast(self, dtype: type) -> "Case":
        """With floats of that dtype."""
        outputs, targets = (a.astype(dtype) if a.dtype.kind == "f" else a for a in (self.outputs, self.targets))
        return self._replace(outputs=outputs, targets=targets)

    def results(self, outputs: Array | None = None) -> Tree:
        """The value and the gradient, as a tree of arrays."""
        value, vjp = self.loss(frozen(self.outputs if outputs is None else outputs), frozen(self.targets))
        first = vjp()
        kept = first.copy()
        agree({"outputs": vjp()}, {"outputs": kept}, "when the vjp is called again")
        return {"value": np.asarray(value), "outputs": first}


def _dtypes(case: Case) -> None:
    double = case.results()["value"]
    for floats in (np.float32, np.float64):
        these = case.cast(floats)
        came = these.results()
        alike(came, {"value": np.zeros((), floats), "outputs": these.outputs}, f"for {these.outputs.dtype}")
        agree({"value": came["value"].astype(float)}, {"value": double}, f"for {these.outputs.dtype}", 1e-4, least=1)


def _purity(case: Case) -> None:
    case = case.cast(np.float32)
    first = case.results()
    kept = {name: a.copy() for name, a in first.items()}
    case._replace(outputs=case.outputs[::-1], targets=case.targets[::-1]).results()
    agree(first, kept, "after later calls")
    agree(case.results(), kept, "the second time")


def _memory_order(case: Case) -> None:
    wanted = case.results()
    for name, order in ORDERS.items():
        ordered = case._replace(outputs=order(case.outputs), targets=order(case.targets))
        agree(ordered.results(), wanted, f"for {name} memory", 1e-9)


def _mean(case: Case) -> None:
    once = case.results()
    twice = case._replace(outputs=np.concatenate([case.outputs] * 2), targets=np.concatenate([case.targets] * 2))
    halves = np.concatenate([once["outputs"]] * 2) / 2
    agree(twice.results(), {"value": once["value"], "outputs": halves}, "for each example twice", 1e-9)


def _accuracy(case: Case) -> None:
    times = 2 * NUMBERS // max(1, case.outputs[0].size)
    # Rows drawn at random: their errors cancel in part. The same few rows again and again: their errors add up.
    for rows in (np.random.default_rng(0).integers(len(case.outputs), size=times), np.zeros(times, int)):
        large = case._replace(outputs=case.outputs[rows], targets=case.targets[rows]).cast(np.float32)
        double = large.cast(np.float64).results()
        for order in ORDERS.values():
            came = large._replace(outputs=order(large.outputs), targets=order(large.targets)).results()
            # Of a mean of differences of the outputs, the terms are as large as these, and their slope is 1 / times.
            least = {"value": float(np.abs(large.outputs).mean(dtype=float)), "outputs": 1 / times}
            for name, expected in double.items():
                tolerance = RANDOM * max(float(np.abs(expected).max()), least[name])
                compare(name, f"for {large.outputs.shape}", came[name], expected, tolerance)


def _gradient(case: Case, rng: np.random.Generator) -> float:
    def value(point: list[Array]) -> Array:
        return np.asarray(case.loss(point[0], case.targets)[0])

    gradient = case.results()["outputs"]
    return differ(value, [case.outputs], np.ones(()), {0: ("outputs", gradient)}, rng)


PROPERTIES: dict[str, Callable[[Case], None]] = {
    "dtypes": _dtypes,
    "purity": _purity,
    "memory order": _memory_order,
    "mean": _mean,
    "accuracy": _accuracy,
}
"""What `check_loss` asks for before "gradient", in that order."""
