"""Schedules: a learning rate as a function of the step. Steps count from 0, the first update's."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import cos, inf, pi
from numbers import Real
from operator import index
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]
"""From the step, an int of 0 or more, to the rate at that step."""


def constant(value: float) -> Schedule:
    """`value` at every step."""
    value = non_negative("value", value)
    return lambda step: value


def piecewise(boundaries: Sequence[int], values: Sequence[float]) -> Schedule:
    """`values[0]` at the steps before `boundaries[0]`, `values[1]` from there up to `boundaries[1]`, and so on.

    Raises ValueError unless the boundaries increase from 1 or more and there is one value more than boundaries.
    """
    bounds = [whole("a boundary", bound, 1) for bound in boundaries]
    rates = [non_negative("a value", value) for value in values]
    if any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(f"boundaries must increase, got {bounds}")
    if len(rates) != len(bounds) + 1:
        raise ValueError(f"{len(bounds)} boundaries want {len(bounds) + 1} values, got {len(rates)}")
    return lambda step: rates[bisect_right(bounds, whole("step", step))]


def linear(start: float, end: float, steps: int) -> Schedule:
    """A straight line from `start` at step 0 to `end` at step `steps`, and `end` from there on."""
    start, end, steps = non_negative("start", start), non_negative("end", end), whole("steps", steps, 1)

    def schedule(step: int) -> float:
        t = _progress(step, steps)
        return start * (1 - t) + end * t

    return schedule


def exponential(start: float, end: float, steps: int) -> Schedule:
    """From `start` at step 0 to `end` at step `steps`, each rate the same multiple of the one before; then `end`."""
    start, end, steps = positive("start", start), positive("end", end), whole("steps", steps, 1)

    def schedule(step: int) -> float:
        t = _progress(step, steps)
        return float(start ** (1 - t) * end**t)

    return schedule


def cosine(start: float, end: float, steps: int) -> Schedule:
    """Half a cosine wave from `start` at step 0 to `end` at step `steps`, and `end` from there on.

    Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, without the restarts.
    """
    start, end, steps = non_negative("start", start), non_negative("end", end), whole("steps", steps, 1)

    def schedule(step: int) -> float:
        share = (1 + cos(pi * _progress(step, steps))) / 2
        return start * share + end * (1 - share)

    return schedule


def warmup(rate: float | Schedule, steps: int, start: float = 0.0) -> Schedule:
    """A straight line from `start` at step 0 to the rate's first value at step `steps`, where the rate then begins.

    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017.
    """
    after = as_schedule("rate", rate)
    return _joined(linear(start, after(0), steps), steps, after)


def one_cycle(
    peak: float, steps: int, rise: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> Schedule:
    """Along a cosine from `peak / div_factor` at step 0 up to `peak`, and along another one down to the end.

    The peak is at step `round(rise * steps)`, held between 1 and `steps - 1`; the end, the first rate divided by
    `final_div_factor`, is at step `steps`, and lasts. Smith & Topin, "Super-Convergence: Very Fast Training of Neural
    Networks Using Large Learning Rates", 2017.
    """
    peak, steps, rise = non_negative("peak", peak), whole("steps", steps, 2), fraction("rise", rise)
    start = peak / positive("div_factor", div_factor)
    top = min(max(round(rise * steps), 1), steps - 1)
    end = start / positive("final_div_factor", final_div_factor)
    return _joined(cosine(start, peak, top), top, cosine(peak, end, steps - top))


def as_schedule(name: str, rate: float | Schedule) -> Schedule:
    """A constant for a number, and for a schedule the same one, each of its values refused that cannot be a rate."""
    if not callable(rate):
        return constant(non_negative(name, rate))
    schedule = rate
    return lambda step: non_negative(f"{name} at step {step}", schedule(step))


def _joined(first: Schedule, steps: int, second: Schedule) -> Schedule:
    """`first` up to step `steps`, where `second` begins at its step 0."""
    return lambda step: first(step) if whole("step", step) < steps else second(step - steps)


def _progress(step: int, steps: int) -> float:
    """How much of `steps` is over: 0 at step 0, and 1 from step `steps` on."""
    return min(whole("step", step), steps) / steps


# Numbers as given by a user, for the optimizers too: each as a plain one, so that no NumPy scalar turns float32 arrays
# into float64, or refused with a ValueError that says what came and what was wanted.


def non_negative(name: str, value: float) -> float:
    """`value` when it is finite and 0 or more."""
    return _number(name, value, "0 or more", isinstance(value, Real) and 0 <= value < inf)


def positive(name: str, value: float) -> float:
    """`value` when it is finite and above 0."""
    return _number(name, value, "above 0", isinstance(value, Real) and 0 < value < inf)


def fraction(name: str, value: float) -> float:
    """`value` when it is 0 or more and below 1."""
    return _number(name, value, "0 or more and below 1", isinstance(value, Real) and 0 <= value < 1)


def whole(name: str, value: int, least: int = 0) -> int:
    """`value` when it is an int, `least` or more."""
    try:
        number = index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be an int, {least} or more, got {value!r}")
    return number


def _number(name: str, value: float, wanted: str, good: bool) -> float:
    if not good:
        raise ValueError(f"{name} must be a finite number, {wanted}, got {value!r}")
    return float(value)
