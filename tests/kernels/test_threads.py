import os
import threading
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest

from fnn.kernels.threads import MIN_DEFERRED_MACS, idle_threads, later, parallel_map, without_helpers
from tests.support.programs import python


@pytest.mark.parametrize(("n", "workers", "spared"), [(1, 1, 1), (4, 2, 1), (1, 4, 4), (2, 5, 2), (3, 5, 1)])
def test_threads_without_a_part_are_spare_for_the_others(n: int, workers: int, spared: int) -> None:
    assert parallel_map(lambda i: idle_threads(), n, workers) == [spared] * n
    assert idle_threads() == 1


def test_work_inside_of_work_shares_what_is_spare() -> None:
    assert parallel_map(lambda i: parallel_map(lambda j: idle_threads(), 2, idle_threads()), 1, 4) == [[2, 2]]


def test_what_is_spare_is_given_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda i: 1 // i, 1, 4)
    assert idle_threads() == 1


def test_nothing_to_do_is_done_at_once() -> None:
    assert parallel_map(lambda i: i, 0, 3) == []


def test_the_work_is_spread_over_threads() -> None:
    together = threading.Barrier(2, timeout=30)
    assert parallel_map(lambda i: (together.wait(), i)[1], 4, 2) == [0, 1, 2, 3]


def test_of_several_errors_the_first_parts_is_raised() -> None:
    together = threading.Barrier(2, timeout=30)

    def fail(i: int) -> None:
        together.wait()
        raise ZeroDivisionError(i)

    for _ in range(10):
        with pytest.raises(ZeroDivisionError, match=r"^0$"):
            parallel_map(fail, 2, 2)


def test_after_an_error_nothing_is_begun() -> None:
    begun = []

    def fail(i: int) -> None:
        begun.append(i)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        parallel_map(fail, 100, 3)
    assert len(begun) <= 3


def test_there_are_as_many_threads_as_workers() -> None:
    code = """
import threading
from fnn.kernels.threads import MIN_DEFERRED_MACS, parallel_map, later
parallel_map(lambda i: i, 8, 3)
assert threading.active_count() == 3
parallel_map(lambda i: parallel_map(lambda j: j, 3, 3), 1, 3)
parallel_map(lambda i: later(lambda: 1, MIN_DEFERRED_MACS)(), 1, 3)
assert threading.active_count() == 3
"""
    assert in_python(code) == ""


def with_spare(f: Any) -> Any:
    return parallel_map(lambda i: f(), 1, 2)[0]


def test_large_work_is_done_by_a_spare_thread_meanwhile() -> None:
    together = threading.Barrier(2, timeout=30)

    def both() -> list[int]:
        wait: Any = later(lambda: (together.wait(), idle_threads())[1], MIN_DEFERRED_MACS)
        together.wait()
        return [wait(), wait()]

    assert with_spare(both) == [1, 1]


def test_what_nobody_has_begun_is_done_by_who_waits() -> None:
    def busy() -> tuple[bool, threading.Thread]:
        held, come = threading.Event(), threading.Barrier(2, timeout=30)
        first: Any = later(lambda: (come.wait(), held.wait(30)), MIN_DEFERRED_MACS)
        come.wait()
        second: Any = later(threading.current_thread, MIN_DEFERRED_MACS)
        done_by = second()
        held.set()
        return first()[1], done_by

    assert with_spare(busy) == (True, threading.current_thread())


def test_without_helpers_the_caller_does_all_work() -> None:
    with without_helpers():
        assert set(parallel_map(lambda i: threading.current_thread(), 5, 3)) == {threading.current_thread()}
        wait: Any = with_spare(lambda: later(threading.current_thread, MIN_DEFERRED_MACS))
        assert wait() is threading.current_thread()
    test_the_work_is_spread_over_threads()


@pytest.mark.parametrize(("work", "workers"), [(MIN_DEFERRED_MACS - 1, 2), (MIN_DEFERRED_MACS, 1)])
def test_what_is_small_or_has_no_thread_to_spare_is_done_at_once(work: int, workers: int) -> None:
    assert parallel_map(lambda i: later(threading.current_thread, work), 1, workers) == [threading.current_thread()]


def test_an_error_of_what_is_done_meanwhile_comes_to_who_waits_each_time() -> None:
    def fail() -> None:
        wait: Any = later(lambda: 1 // 0, MIN_DEFERRED_MACS)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                wait()

    with_spare(fail)


def test_what_is_done_meanwhile_has_the_callers_error_state() -> None:
    def overflow() -> Any:
        with np.errstate(over="ignore"):
            wait: Any = later(lambda: np.float32(1e30) * np.float32(1e30), MIN_DEFERRED_MACS)
        return wait()

    assert np.isinf(with_spare(overflow))


def test_what_is_done_meanwhile_is_kept_no_longer_than_it_takes() -> None:
    class Held:
        pass

    def watched() -> list[bool]:
        held, gone = Held(), threading.Event()
        weakref.finalize(held, gone.set)
        wait: Any = later(partial(lambda held: None, held), MIN_DEFERRED_MACS)
        del held
        return [gone.wait(30), wait() is None]

    assert with_spare(watched) == [True, True]


def in_python(code: str) -> str:
    done = python("-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_python_ends_when_the_helpers_have_done_what_they_are_at() -> None:
    code = """
import threading, time
from fnn.kernels.threads import MIN_DEFERRED_MACS, parallel_map, later
begun = threading.Event()
def slow():
    begun.set()
    time.sleep(0.2)
    print("done", flush=True)
parallel_map(lambda i: (later(slow, MIN_DEFERRED_MACS), begun.wait()), 1, 2)
"""
    assert in_python(code) == "done\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_has_helpers_of_its_own() -> None:
    code = """
import os, sys, threading, warnings
from fnn.kernels.threads import parallel_map
warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, for a fork of a process with threads
def two(): return len(set(parallel_map(lambda i: (together.wait(), threading.current_thread())[1], 2, 2))) == 2
together = threading.Barrier(2, timeout=30)
assert two()
child = os.fork()
together = threading.Barrier(2, timeout=30)
assert two()
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    print("both")
else:
    sys.exit(7)  # as every program, with what it does at its end
"""
    assert in_python(code) == "both\n"
