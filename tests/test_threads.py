import threading

import pytest

from fnn.threads import each, spare


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
