from collections.abc import Callable
from itertools import pairwise
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn.optim.schedules import (
    Schedule,
    as_schedule,
    constant,
    cosine,
    exponential,
    linear,
    one_cycle,
    piecewise,
    warmup,
)

rates = st.floats(1e-6, 10)
lengths = st.integers(1, 1000)
BETWEEN = [linear, exponential, cosine]


def test_constant_is_its_value_at_every_step() -> None:
    assert [constant(0.1)(step) for step in (0, 1, 10**9)] == [0.1] * 3


def test_piecewise_changes_at_its_boundaries() -> None:
    original = piecewise([10], [1e-3, 1e-4])
    assert [original(epoch) for epoch in (0, 9, 10, 11, 999)] == [1e-3, 1e-3, 1e-4, 1e-4, 1e-4]
    assert [piecewise([1, 3], [3, 2, 1])(step) for step in range(5)] == [3, 2, 2, 1, 1]
    assert piecewise([], [0.5])(7) == 0.5


@pytest.mark.parametrize("make", BETWEEN)
@given(rates, rates, lengths)
def test_schedules_meet_both_ends_exactly(
    make: Callable[[float, float, int], Schedule], start: float, end: float, steps: int
) -> None:
    schedule = make(start, end, steps)
    assert schedule(0) == start
    assert schedule(steps) == schedule(steps + 1) == schedule(10 * steps) == end


@pytest.mark.parametrize("make", BETWEEN)
def test_schedules_fall_between_their_ends(make: Callable[[float, float, int], Schedule]) -> None:
    values = [make(1.0, 0.01, 50)(step) for step in range(51)]
    assert all(before > after for before, after in pairwise(values))


def test_schedules_have_different_middles() -> None:
    assert linear(1, 0.01, 100)(50) == pytest.approx(0.505, rel=1e-12)
    assert exponential(1, 0.01, 100)(50) == pytest.approx(0.1, rel=1e-12)
    assert cosine(1, 0.01, 100)(50) == pytest.approx(0.505, rel=1e-12)
    assert cosine(1, 0, 3)(1) == pytest.approx(0.75, rel=1e-12)


def test_exponential_multiplies_by_the_same_factor_each_step() -> None:
    values = np.array([exponential(0.5, 0.5 * 0.9**20, 20)(step) for step in range(21)])
    np.testing.assert_allclose(values[1:] / values[:-1], 0.9, rtol=1e-12)


@pytest.mark.parametrize("after", [0.3, constant(0.3), piecewise([5], [0.3, 0.1]), cosine(0.3, 0, 20), one_cycle(2, 9)])
def test_warmup_rises_linearly_before_its_schedule(after: float | Schedule) -> None:
    schedule, rest = warmup(after, 4, start=0.1), after if callable(after) else constant(after)
    assert schedule(0) == 0.1
    assert [schedule(step) for step in range(4)] == [linear(0.1, rest(0), 4)(step) for step in range(4)]
    assert [schedule(4 + step) for step in range(30)] == [rest(step) for step in range(30)]
    assert warmup(after, 4)(0) == 0


@given(rates, st.integers(2, 1000), st.floats(0, 1, exclude_max=True))
def test_one_cycle_meets_its_start_its_peak_and_its_end(peak: float, steps: int, rise: float) -> None:
    schedule, top = one_cycle(peak, steps, rise), min(max(round(rise * steps), 1), steps - 1)
    values = [schedule(step) for step in range(steps)]
    assert values[0] == peak / 25
    assert values[top] == peak
    assert schedule(steps) == schedule(2 * steps) == peak / 25 / 1e4
    assert max(values) <= peak * (1 + 1e-15)
    assert sorted(values[:top]) == values[:top]
    assert sorted(values[top + 1 :], reverse=True) == values[top + 1 :]


@pytest.mark.parametrize(("rise", "top"), [(0.0, 1), (0.99, 9)])
def test_one_cycle_has_a_step_before_and_after_its_peak(rise: float, top: int) -> None:
    rates = [one_cycle(1.0, 10, rise)(step) for step in range(11)]
    assert rates.index(max(rates)) == top
    assert rates[top] == 1.0


def test_one_cycle_uses_its_factors() -> None:
    schedule = one_cycle(1.0, 10, rise=0.5, div_factor=2, final_div_factor=4)
    assert (schedule(0), schedule(5), schedule(10)) == (0.5, 1.0, 0.125)


SCHEDULES = [
    constant(1),
    piecewise([2], [1, 2]),
    linear(1, 2, 3),
    exponential(1, 2, 3),
    cosine(1, 2, 3),
    warmup(cosine(1, 2, 3), 4),
    one_cycle(1, 9),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_give_plain_floats_for_numpy_steps(schedule: Schedule) -> None:
    steps: Any = np.arange(12)
    values = [schedule(step) for step in steps]
    assert values == [schedule(step) for step in range(12)]
    assert {type(value) for value in values} == {float}


@pytest.mark.parametrize("schedule", SCHEDULES[1:])
@pytest.mark.parametrize("step", [-1, 1.0, "1", None])
def test_schedules_refuse_what_is_no_step(schedule: Schedule, step: Any) -> None:
    with pytest.raises(ValueError, match=rf"step: expected an int of at least 0, got {step!r}"):
        schedule(step)


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: constant(-1), "value: expected a finite number of at least 0, got -1"),
    (lambda: constant(nan), "got nan"),
    (lambda: constant("1"), "value: expected a finite number of at least 0, got '1'"),  # type: ignore[arg-type]
    (lambda: piecewise([10], [1]), "values: expected 2, one more than boundaries, got 1"),
    (lambda: piecewise([3, 3], [1, 2, 3]), r"boundaries: expected increasing steps, got \[3, 3\]"),
    (lambda: piecewise([0], [1, 2]), "boundaries: expected an int of at least 1, got 0"),
    (lambda: piecewise([1.5], [1, 2]), "boundaries: expected an int of at least 1, got 1.5"),  # type: ignore[list-item]
    (lambda: piecewise([1], [1, -2]), "values: expected a finite number of at least 0, got -2"),
    (lambda: linear(1, 2, 0), "steps: expected an int of at least 1, got 0"),
    (lambda: linear(-1, 2, 1), "start: expected a finite number of at least 0, got -1"),
    (lambda: cosine(1, -2, 1), "end: expected a finite number of at least 0, got -2"),
    (lambda: cosine(1, 2, 2.5), "steps: expected an int of at least 1, got 2.5"),  # type: ignore[arg-type]
    (lambda: exponential(1, 0, 5), "end: expected a finite number above 0, got 0"),
    (lambda: exponential(inf, 1, 5), "start: expected a finite number above 0, got inf"),
    (lambda: warmup(1, 0), "steps: expected an int of at least 1, got 0"),
    (lambda: warmup(-1, 5), "rate: expected a finite number of at least 0, got -1"),
    (lambda: warmup(lambda step: -1.0, 5), "rate at step 0: expected a finite number of at least 0, got -1.0"),
    (lambda: one_cycle(1, 1), "steps: expected an int of at least 2, got 1"),
    (lambda: one_cycle(1, 9, rise=1), "rise: expected a finite number of at least 0 and below 1, got 1"),
    (lambda: one_cycle(1, 9, div_factor=0), "div_factor: expected a finite number above 0, got 0"),
    (lambda: one_cycle(1, 9, final_div_factor=-1), "final_div_factor: expected a finite number above 0, got -1"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_schedules_refuse_bad_arguments(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_as_schedule_makes_numbers_constant() -> None:
    assert as_schedule("rate", np.float64(0.5))(3) == 0.5
    assert as_schedule("rate", linear(0, 1, 4))(3) == 0.75
    assert type(as_schedule("rate", lambda step: np.float64(step))(3)) is float


def test_as_schedule_refuses_bad_rates_and_names_the_step() -> None:
    with pytest.raises(ValueError, match=r"rate at step 7: expected a finite number of at least 0, got nan"):
        as_schedule("rate", lambda step: nan)(7)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (constant(0.1), "constant(0.1)"),
        (linear(0.1, 0, 5), "linear(0.1, 0, 5)"),
        (exponential(0.1, 1, 5), "exponential(0.1, 1, 5)"),
        (piecewise([3, np.int64(5)], [1, 2, 3]), "piecewise((3, 5), (1, 2, 3))"),  # type: ignore[list-item]
        (warmup(cosine(start=0.1, end=0, steps=5), 3, 0.01), "warmup(cosine(0.1, 0, 5), 3, start=0.01)"),
        (one_cycle(1, 9, div_factor=25), "one_cycle(1, 9)"),
    ],
)
def test_a_schedule_is_named_by_its_call(schedule: Schedule, expected: str) -> None:
    assert schedule.__name__ == schedule.__qualname__ == expected
