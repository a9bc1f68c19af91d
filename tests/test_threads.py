import threading
from typing import Any

import numpy as np
import pytest

from fnn.threads import begin, each, spare


@pytest.mark.parametrize(("n", "workers", "spared"), [(1, 1, 1), (4, 2, 1), (1, 4, 4), (2, 5, 2), (3, 5, 1)])
def test_threads_without_a_part_are_spare_for_the_others(n: int, workers: int, spared: int) -> None:
    assert each(lambda i: spare(), n, workers) == [spared] * n
    assert spare() == 1


def test_work_inside_of_work_shares_what_is_spare() -> None:
    assert each(lambda i: each(lambda j: spare(), 2, spare()), 1, 4) == [[2, 2]]


def test_what_is_spare_is_given_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        each(lambda i: 1 // i, 1, 4)
    assert spare() == 1


def test_nothing_to_do_is_done_at_once() -> None:
    assert each(lambda i: i, 0, 3) == []


def test_the_work_is_spread_over_threads() -> None:
    together = threading.Barrier(2, timeout=30)
    assert each(lambda i: (together.wait(), i)[1], 4, 2) == [0, 1, 2, 3]


def with_spare(f: Any) -> Any:
    return each(lambda i: f(), 1, 2)[0]


def test_what_is_begun_is_done_by_another_thread_meanwhile() -> None:
    together = threading.Barrier(2, timeout=30)

    def both() -> tuple[int, int]:
        wait = begin(lambda: (together.wait(), spare())[1])
        together.wait()
        return wait(), wait()

    assert with_spare(both) == (1, 1)


def test_what_is_begun_and_nobody_has_come_to_is_done_by_who_waits() -> None:
    def busy() -> tuple[bool, threading.Thread]:
        held, come = threading.Event(), threading.Barrier(2, timeout=30)
        first = begin(lambda: (come.wait(), held.wait(30)))
        come.wait()
        second = begin(threading.current_thread)
        done_by = second()
        held.set()
        return first()[1], done_by

    assert with_spare(busy) == (True, threading.current_thread())


def test_an_error_of_what_is_begun_comes_to_who_waits_each_time() -> None:
    def fail() -> None:
        wait = begin(lambda: 1 // 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                wait()

    with_spare(fail)


def test_what_is_begun_has_the_callers_error_state() -> None:
    def overflow() -> Any:
        with np.errstate(over="ignore"):
            wait = begin(lambda: np.float32(1e30) * np.float32(1e30))
        return wait()

    assert np.isinf(with_spare(overflow))
