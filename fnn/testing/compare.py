"""Comparisons for the checks: trees leaf by leaf, and gradients with central differences."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from fnn.checks.errors import describe
from fnn.op import Array
from fnn.tree import Tree, tree_items, tree_leaves, tree_map

T = TypeVar("T")

TOLERANCE = 1e-6  # largest relative error of a correct gradient; wrong ones are off by 1e-3 or more
STEPS = (1e-4, 1e-5, 1e-6)  # of central differences, along a direction of length 1


class CheckError(AssertionError):
    """A failed check of an operator or a loss: names the property, the place in the results, and both numbers."""

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(f"{kind}: {name}: {message}")
        self.property = name


def run_check(kind: str, name: str, check: Callable[..., T], *args: Any) -> T:
    """Returns `check(*args)`. Every error becomes a CheckError for the property `name` of `kind`."""
    try:
        return check(*args)
    except Exception as error:
        came = f"got {type(error).__name__}: {error}"
        if "read-only" in str(error):
            raise CheckError(kind, "purity", f"expected no writes to the arguments, {came}") from error
        message = str(error) if isinstance(error, AssertionError) else f"expected no error, {came}"
        raise CheckError(kind, name, message) from error


def read_only(array: Array) -> Array:
    """Returns a view that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


def check_form(results: Tree, expected: Tree, where: str) -> None:
    """Raises an error unless both trees have the same structure, and each leaf the same shape and dtype."""
    for path, pair in tree_items(tree_map(lambda b, a: (b, a), expected, results)):
        # A sum over all axes is a NumPy scalar; it behaves like an array without axes.
        b, a = (describe(np.asarray(leaf) if isinstance(leaf, np.generic) else leaf) for leaf in pair)
        if a != b:
            raise AssertionError(f"{path} {where}: expected {b}, got {a}")


def check_equal(results: Tree, expected: Tree, where: str, tolerance: float = 0, least: float = 0) -> None:
    """Raises an error unless both trees have the same form and equal numbers.

    With a tolerance, numbers may differ by `tolerance` times the largest number of their array. Sums may cancel, so
    that largest number counts as at least `least`, and at least 1e-4 of the largest number of all arrays.
    """
    check_form(results, expected, where)
    if tolerance:
        least = max([least, *(1e-4 * float(np.abs(b).max(initial=0)) for b in tree_leaves(expected))])
    for path, (b, a) in tree_items(tree_map(lambda b, a: (b, a), expected, results)):
        wrong = (a != b) & ((a == a) | (b == b))  # nan equals nan
        if tolerance:
            wrong &= ~(np.abs(a - b) <= tolerance * np.abs(b).max(initial=least))
        for index in np.argwhere(wrong)[:1].tolist():
            raise AssertionError(f"{path}{index} {where}: expected {b[tuple(index)]}, got {a[tuple(index)]}")


def check_gradients(
    f: Callable[[list[Array]], Array],
    point: Sequence[Array],
    cotangent: Array,
    gradients: dict[int, tuple[str, Array]],
    rng: np.random.Generator,
) -> float:
    """Returns the largest relative error of the gradients of <cotangent, f(point)>; AssertionError if one is wrong.

    `gradients` has a name and the gradient for some of the point's float64 arrays, by their position. Each gradient is
    projected on two random directions, and must agree there with a central difference of `f`.

    A difference may cross a kink (large steps) or lose its digits (small steps), but a wrong gradient is wrong at every
    step: agreement at one step is enough. The point may also lie on a kink, if the maximum of a window occurs twice. So
    equal numbers move together: ties stay ties, and any of the equal numbers may get the gradient.
    """
    worst = 0.0
    noise = 100 * np.finfo(np.float64).eps * float(np.linalg.norm(cotangent * f([*point])))
    for nth, (name, gradient) in gradients.items():
        numbers, position = np.unique(point[nth], return_inverse=True)
        for _ in range(2 if numbers.size else 0):
            direction = rng.standard_normal(numbers.size)[position].reshape(gradient.shape)
            direction /= np.linalg.norm(direction)
            slope = float(np.vdot(direction, gradient))
            errors = []
            for step in STEPS:
                low, high = (f([*point[:nth], point[nth] + s * direction, *point[nth + 1 :]]) for s in (-step, step))
                difference = float(np.vdot(cotangent, high - low)) / (2 * step)
                scale = max(abs(slope), abs(difference), noise / step / TOLERANCE)
                errors.append((abs(slope - difference) / (scale or 1), difference))
                if errors[-1][0] <= TOLERANCE:
                    break
            else:
                best = f"{min(errors)[1]!r} along a random direction (central difference)"
                raise AssertionError(f"{name}: expected {best}, got {slope!r}")
            worst = max(worst, errors[-1][0])
    return worst
