"""How the checks compare: trees leaf by leaf, with both numbers told, and gradients with central differences."""

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import numpy as np

from fnn.checks.errors import describe
from fnn.op import Array
from fnn.tree import Tree, tree_items, tree_leaves, tree_map

P = ParamSpec("P")
T = TypeVar("T")

TOLERANCE = 1e-6
"""The largest relative error of a right gradient: a thousandth of the smallest that is to be found."""

STEPS = (1e-4, 1e-5, 1e-6)
"""How far to go along a direction of length 1, for a difference."""


class CheckError(AssertionError):
    """A property that an operator or a loss lacks: says which one, where in it, and the two numbers that disagree."""

    def __init__(self, kind: str, lacked: str, message: str) -> None:
        super().__init__(f"{kind}: {lacked}: {message}")
        self.property = lacked


def checked(kind: str, name: str, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`check(...)`; what it raises becomes a CheckError that the operator or loss `kind` lacks the property `name`."""
    try:
        return check(*args, **kwargs)
    except Exception as error:
        if "read-only" in str(error):
            raise CheckError(kind, "purity", f"writes to what it was given: {error}") from error
        what = "" if isinstance(error, AssertionError) else f"raises {type(error).__name__}: "
        raise CheckError(kind, name, f"{what}{error}") from error


def frozen(array: Array) -> Array:
    """A view of the array that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


def alike(came: Tree, wanted: Tree, when: str) -> None:
    """Raises AssertionError unless the trees have the same structure, and the same shape and dtype at each leaf."""
    tree_map(lambda b, a: None, wanted, came)
    there = dict(tree_items(came))
    for path, b in tree_items(wanted):
        # A sum over all axes is a scalar of NumPy's, which does whatever an array without axes does.
        a, b = (np.asarray(leaf) if isinstance(leaf, np.generic) else leaf for leaf in (there[path], b))
        if describe(a) != describe(b):
            raise AssertionError(f"{path} {when} is {describe(a)}, wanted {describe(b)}")


def agree(came: Tree, wanted: Tree, when: str, tolerance: float = 0, least: float = 0) -> None:
    """Raises AssertionError unless the trees are alike and hold the same bits.

    With a tolerance, numbers may differ by that much of the largest one in their array; for sums that cancel, that one
    counts as no smaller than `least`, and than a ten-thousandth of the largest one anywhere.
    """
    alike(came, wanted, when)
    there = dict(tree_items(came))
    if tolerance:
        least = max([least, *(1e-4 * float(np.abs(b).max(initial=0)) for b in tree_leaves(wanted))])
    for path, b in tree_items(wanted):
        a = there[path]
        off = (a != b) & ((a == a) | (b == b))
        if tolerance:
            off &= ~(np.abs(a - b) <= tolerance * np.abs(b).max(initial=least))
        for index in np.argwhere(off)[:1].tolist():
            raise AssertionError(f"{path}{index} {when} is {a[tuple(index)]}, wanted {b[tuple(index)]}")


def differ(
    f: Callable[[list[Array]], Array],
    point: Sequence[Array],
    cotangent: Array,
    gradients: dict[int, tuple[str, Array]],
    rng: np.random.Generator,
) -> float:
    """The worst relative error of the gradients of <cotangent, f(point)>, or AssertionError where one is wrong.

    `gradients` has a name and the gradient for some of the point's float64 arrays. Each is projected on two random
    directions, along which a central difference of `f` must agree with it.

    No kink raises a false alarm, while an error of 0.1 % stays far outside of what passes:
    - A difference may reach across a kink or drown in rounding, which grow and shrink with its step; a wrong gradient
      is wrong at every step. So the agreement at one of the steps is enough.
    - The point may lie on a kink, as it does where a window's largest number is there twice. Equal numbers therefore
      move together. What ties at a point that is random but for the equality of some numbers, ties whatever these are,
      and so along the whole direction: the function is smooth there, and its slope the same whichever is chosen.
    """
    worst = 0.0
    noise = 100 * np.finfo(np.float64).eps * float(np.linalg.norm(cotangent * f([*point])))
    for nth, (name, gradient) in gradients.items():
        numbers, which = np.unique(point[nth], return_inverse=True)
        for _ in range(2 if numbers.size else 0):
            direction = rng.standard_normal(numbers.size)[which].reshape(gradient.shape)
            direction /= np.linalg.norm(direction)
            slope = float(np.vdot(direction, gradient))
            tried = []
            for step in STEPS:
                low, high = (f([*point[:nth], point[nth] + s * direction, *point[nth + 1 :]]) for s in (-step, step))
                difference = float(np.vdot(cotangent, high - low)) / (2 * step)
                scale = max(abs(slope), abs(difference), noise / step / TOLERANCE)
                tried.append((abs(slope - difference) / (scale or 1), difference))
                if tried[-1][0] <= TOLERANCE:
                    break
            else:
                difference = min(tried)[1]
                raise AssertionError(f"{name}'s is {slope!r} along a direction, central differences say {difference!r}")
            worst = max(worst, tried[-1][0])
    return worst
