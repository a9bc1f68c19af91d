"""Schedules: a learning rate as a function of the step. Steps count from 0, the first update's."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import cos, pi
from typing import TypeAlias

from fnn.checks.errors import is_maker_of
from fnn.checks.values import check_fraction, check_int, check_non_negative, check_positive

Schedule: TypeAlias = Callable[[int], float]
"""From the step, an int of 0 or more, to the rate at that step."""


def constant(value: float) -> Schedule:
    """`value` at every step."""
    value = check_non_negative("value", value)
    return lambda step: value


def piecewise(boundaries: Sequence[int], values: Sequence[float]) -> Schedule:
    """`values[0]` at the steps before `boundaries[0]`, `values[1]` from there up to `boundaries[1]`, and so on.

    Raises ValueError unless the boundaries increase from 1 or more and there is one value more than boundaries.
    """
    bounds = [check_int("boundaries", bound, 1) for bound in boundaries]
    rates = [check_non_negative("values", value) for value in values]
    if any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(f"boundaries must increase, got {bounds}")
    if len(rates) != len(bounds) + 1:
        raise ValueError(f"{len(bounds)} boundaries want {len(bounds) + 1} values, got {len(rates)}")
    return lambda step: rates[bisect_right(bounds, check_int("step", step))]


def linear(start: float, end: float, steps: int) -> Schedule:
    """A straight line from `start` at step 0 to `end` at step `steps`, and `end` from there on."""
    start, end, steps = check_non_negative("start", start), check_non_negative("end", end), check_int("steps", steps, 1)

    def schedule(step: int) -> float:
        t = _progress(step, steps)
        return start * (1 - t) + end * t

    return schedule


def exponential(start: float, end: float, steps: int) -> Schedule:
    """From `start` at step 0 to `end` at step `steps`, each rate the same multiple of the one before; then `end`."""
    start, end, steps = check_positive("start", start), check_positive("end", end), check_int("steps", steps, 1)

    def schedule(step: int) -> float:
        t = _progress(step, steps)
        return float(start ** (1 - t) * end**t)

    return schedule


def cosine(start: float, end: float, steps: int) -> Schedule:
    """Half a cosine wave from `start` at step 0 to `end` at step `steps`, and `end` from there on.

    Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, without the restarts.
    """
    start, end, steps = check_non_negative("start", start), check_non_negative("end", end), check_int("steps", steps, 1)

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
    peak, steps, rise = check_non_negative("peak", peak), check_int("steps", steps, 2), check_fraction("rise", rise)
    start = peak / check_positive("div_factor", div_factor)
    top = min(max(round(rise * steps), 1), steps - 1)
    end = start / check_positive("final_div_factor", final_div_factor)
    return _joined(cosine(start, peak, top), top, cosine(peak, end, steps - top))


def as_schedule(name: str, rate: float | Schedule) -> Schedule:
    """A constant schedule for a number; for a schedule the same one, whose values are checked at each step."""
    if is_maker_of(rate, Schedule, "Schedule"):
        called = getattr(rate, "__name__", "it")
        raise ValueError(f"{name}: expected a number or a schedule, got the function {called}; call it: {called}(...)")
    if not callable(rate):
        return constant(check_non_negative(name, rate))
    schedule = rate
    return lambda step: check_non_negative(f"{name} at step {step}", schedule(step))


def _joined(first: Schedule, steps: int, second: Schedule) -> Schedule:
    """`first` up to step `steps`, where `second` begins at its step 0."""
    return lambda step: first(step) if check_int("step", step) < steps else second(step - steps)


def _progress(step: int, steps: int) -> float:
    """How much of `steps` is over: 0 at step 0, and 1 from step `steps` on."""
    return min(check_int("step", step), steps) / steps
