"""Schedules: the learning rate as a function of the step. Steps count from 0, the first update."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import cos, pi
from typing import TypeAlias

from fnn.checks.calls import named_by_call
from fnn.checks.errors import describe_uncalled
from fnn.checks.values import check_fraction, check_int, check_non_negative, check_positive

Schedule: TypeAlias = Callable[[int], float]  # takes the step, an int of at least 0, and returns the rate at that step
Rate: TypeAlias = float | Schedule  # a rate that stays the same, or a schedule


@named_by_call
def constant(value: float) -> Schedule:
    """`value` at every step."""
    value = check_non_negative("value", value)
    return lambda step: value


@named_by_call
def piecewise(boundaries: Sequence[int], values: Sequence[float]) -> Schedule:
    """`values[0]` before step `boundaries[0]`, then `values[1]` before step `boundaries[1]`, and so on.

    Raises ValueError unless the boundaries increase from 1 or more and there is one value more than boundaries.
    """
    bounds = [check_int("boundaries", bound, 1) for bound in boundaries]
    rates = [check_non_negative("values", value) for value in values]
    if any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(f"boundaries: expected increasing steps, got {bounds}")
    if len(rates) != len(bounds) + 1:
        raise ValueError(f"values: expected {len(bounds) + 1}, one more than boundaries, got {len(rates)}")
    return lambda step: rates[bisect_right(bounds, check_int("step", step))]


@named_by_call
def linear(start: float, end: float, steps: int) -> Schedule:
    """A straight line from `start` at step 0 to `end` at step `steps`. After it, `end`."""
    return _ramp(check_non_negative, start, end, steps, lambda start, end, t: start * (1 - t) + end * t)


@named_by_call
def exponential(start: float, end: float, steps: int) -> Schedule:
    """From `start` at step 0 to `end` at step `steps`, by the same factor at each step. After it, `end`."""
    return _ramp(check_positive, start, end, steps, lambda start, end, t: float(start ** (1 - t) * end**t))


@named_by_call
def cosine(start: float, end: float, steps: int) -> Schedule:
    """Half a cosine wave from `start` at step 0 to `end` at step `steps`. After it, `end`.

    Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, without the restarts.
    """

    def curve(start: float, end: float, t: float) -> float:
        share = (1 + cos(pi * t)) / 2
        return start * share + end * (1 - share)

    return _ramp(check_non_negative, start, end, steps, curve)


@named_by_call
def warmup(rate: Rate, steps: int, start: float = 0.0) -> Schedule:
    """A straight line from `start` at step 0 to the first value of `rate` at step `steps`, where `rate` begins.

    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017.
    """
    after = as_schedule("rate", rate)
    return _join(linear(start, after(0), steps), steps, after)


@named_by_call
def one_cycle(
    peak: float, steps: int, rise: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> Schedule:
    """One cosine curve from `peak / div_factor` at step 0 up to `peak`, and another one down to the end.

    The peak is at step `round(rise * steps)`, but not before step 1 or after `steps - 1`. From step `steps` on, the
    rate is `peak / div_factor / final_div_factor`. Smith & Topin, "Super-Convergence: Very Fast Training of Neural
    Networks Using Large Learning Rates", 2017.
    """
    peak, steps, rise = check_non_negative("peak", peak), check_int("steps", steps, 2), check_fraction("rise", rise)
    start = peak / check_positive("div_factor", div_factor)
    top = min(max(round(rise * steps), 1), steps - 1)
    end = start / check_positive("final_div_factor", final_div_factor)
    return _join(cosine(start, peak, top), top, cosine(peak, end, steps - top))


def as_schedule(name: str, rate: Rate) -> Schedule:
    """A constant schedule for a number. For a schedule, the same one with a check of its value at each step."""
    if uncalled := describe_uncalled(rate, Schedule, "Schedule"):
        raise ValueError(f"{name}: expected a number or a schedule, got {uncalled}")
    if not callable(rate):
        return constant(check_non_negative(name, rate))
    schedule = rate
    return lambda step: check_non_negative(f"{name} at step {step}", schedule(step))


def _ramp(check: Callable[..., float], start: float, end: float, steps: int, curve: Callable[..., float]) -> Schedule:
    """The schedule `curve(start, end, t)`, where t goes from 0 at step 0 to 1 at step `steps` and stays there."""
    start, end, steps = check("start", start), check("end", end), check_int("steps", steps, 1)
    return lambda step: curve(start, end, min(check_int("step", step), steps) / steps)


def _join(first: Schedule, steps: int, second: Schedule) -> Schedule:
    """`first` up to step `steps`, where `second` begins at its step 0."""
    return lambda step: first(step) if check_int("step", step) < steps else second(step - steps)
