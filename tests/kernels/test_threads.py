import os
import threading
import time
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec, module_from_spec
from typing import Any

import numpy as np
import pytest

from fnn.kernels import threads
from fnn.kernels.threads import MIN_SHARED_MACS, cores, idle_threads, parallel_map, run_both, without_helpers
from tests.support.exits import WORKERS
from tests.support.programs import python


@pytest.mark.parametrize(("n", "workers", "spared"), [(1, 1, 1), (4, 2, 1), (1, 4, 4), (2, 5, 2), (3, 5, 1)])
def test_parallel_map_gives_idle_threads_to_the_others(n: int, workers: int, spared: int) -> None:
    assert parallel_map(lambda i: idle_threads(), n, workers) == [spared] * n
    assert idle_threads() == 1


def test_nested_parallel_map_shares_idle_threads() -> None:
    assert parallel_map(lambda i: parallel_map(lambda j: idle_threads(), 2, idle_threads()), 1, 4) == [[2, 2]]


def test_parallel_map_restores_idle_threads_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda i: 1 // i, 1, 4)
    assert idle_threads() == 1


def test_parallel_map_of_nothing() -> None:
    assert parallel_map(lambda i: i, 0, 3) == []


def test_parallel_map_uses_several_threads() -> None:
    together = threading.Barrier(2, timeout=30)
    assert parallel_map(lambda i: (together.wait(), i)[1], 4, 2) == [0, 1, 2, 3]


def test_parallel_map_raises_the_error_of_the_first_part() -> None:
    together = threading.Barrier(2, timeout=30)

    def fail(i: int) -> None:
        together.wait()
        raise ZeroDivisionError(i)

    for _ in range(10):
        with pytest.raises(ZeroDivisionError, match=r"^0$"):
            parallel_map(fail, 2, 2)


def test_parallel_map_starts_nothing_after_an_error() -> None:
    begun = []

    def fail(i: int) -> None:
        begun.append(i)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        parallel_map(fail, 100, 3)
    assert len(begun) <= 3


@pytest.mark.parametrize("workers", [2, 3])
def test_parallel_map_works_on_no_more_threads_than_workers(workers: int) -> None:
    lock, working, most = threading.Lock(), 0, 0

    def work(i: int) -> None:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.005)
        with lock:
            working -= 1

    for _ in range(3):
        parallel_map(work, 8, workers)
        parallel_map(lambda i: parallel_map(work, 3, idle_threads()), 1, workers)
        parallel_map(lambda i: run_both(lambda: work(0), lambda: work(1), MIN_SHARED_MACS), 1, workers)
    assert 1 < most <= workers


def with_idle_thread(f: Any) -> Any:
    return parallel_map(lambda i: f(), 1, 2)[0]


def test_run_both_runs_long_work_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=30)

    def wait(result: int) -> int:
        together.wait()
        return result

    assert with_idle_thread(lambda: run_both(lambda: wait(1), lambda: wait(2), MIN_SHARED_MACS)) == (1, 2)


@pytest.mark.parametrize(
    ("macs", "workers", "idle"), [(MIN_SHARED_MACS, 5, 2), (MIN_SHARED_MACS - 1, 5, 5), (MIN_SHARED_MACS, 1, 1)]
)
def test_run_both_halves_idle_threads_if_it_shares_work(macs: int, workers: int, idle: int) -> None:
    def seen() -> tuple[int, int, int]:
        return *run_both(idle_threads, idle_threads, macs), idle_threads()

    assert parallel_map(lambda i: seen(), 1, workers) == [(idle, idle, workers)]


def test_run_both_restores_idle_threads_after_an_error() -> None:
    def seen() -> int:
        with pytest.raises(ZeroDivisionError):
            run_both(idle_threads, lambda: 1 // 0, MIN_SHARED_MACS)
        return idle_threads()

    assert parallel_map(lambda i: seen(), 1, 5) == [5]


def test_run_both_waits_for_the_other_thread_after_an_error() -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert release.wait(30)
        time.sleep(0.02)
        ended.set()

    def fail() -> None:
        assert begun.wait(30)
        release.set()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        with_idle_thread(lambda: run_both(slow, fail, MIN_SHARED_MACS))
    assert ended.is_set()


def test_parallel_map_ends_if_another_thread_takes_the_last_part_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class SeemsFull(deque[int]):
        def __bool__(self) -> bool:
            return True

    monkeypatch.setattr(threads, "deque", SeemsFull)
    assert parallel_map(lambda i: i, 5, 3) == [0, 1, 2, 3, 4]


def test_at_the_end_of_python_the_caller_does_all_work(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = ThreadPoolExecutor(1)
    ended.shutdown()
    monkeypatch.setattr(threads, "_executor", lambda: ended)
    me = threading.current_thread
    assert set(parallel_map(lambda i: me(), 5, 3)) == {me()}
    assert with_idle_thread(lambda: run_both(me, me, MIN_SHARED_MACS)) == (me(), me())


def test_cores_are_those_of_the_process_or_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", {0: {0, 2, 5}}.get, raising=False)  # 0: this process
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_parallel_map_in_busy_threads_is_computed_by_the_caller() -> None:
    release = threading.Event()

    def inner(i: int) -> list[threading.Thread]:
        done = parallel_map(lambda j: threading.current_thread(), 3, 3)
        release.set()
        return done

    with without_helpers():
        assert set(inner(0)) == {threading.current_thread()}
    assert release.is_set()


def test_without_helpers_the_caller_does_all_work() -> None:
    with without_helpers():
        assert set(parallel_map(lambda i: threading.current_thread(), 5, 3)) == {threading.current_thread()}
        both = with_idle_thread(lambda: run_both(threading.current_thread, threading.current_thread, MIN_SHARED_MACS))
        assert set(both) == {threading.current_thread()}
    test_parallel_map_uses_several_threads()


@pytest.mark.parametrize(("macs", "workers"), [(MIN_SHARED_MACS - 1, 2), (MIN_SHARED_MACS, 1)])
def test_run_both_calls_short_functions_one_after_the_other(macs: int, workers: int) -> None:
    me = threading.current_thread
    assert parallel_map(lambda i: run_both(me, me, macs), 1, workers) == [(me(), me())]


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("macs", [0, MIN_SHARED_MACS])
def test_run_both_raises_the_error_of_either_function(failing: int, macs: int) -> None:
    functions = [lambda: 1, lambda: 2]
    functions[failing] = lambda: 1 // 0
    with pytest.raises(ZeroDivisionError):
        with_idle_thread(lambda: run_both(functions[0], functions[1], macs))


def test_threads_have_the_error_state_of_the_caller() -> None:
    def overflow() -> Any:
        return np.float32(1e30) * np.float32(1e30)

    with np.errstate(over="ignore"):
        assert np.isinf(parallel_map(lambda i: overflow(), 4, 2)).all()


def test_parallel_map_keeps_nothing_after_it_returns() -> None:
    class Held:
        pass

    held, gone = Held(), threading.Event()
    weakref.finalize(held, gone.set)
    parallel_map(partial(lambda held, i: None, held), 2, 2)
    del held
    assert gone.wait(30)


def in_python(code: str) -> str:
    done = python("-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_python_ends_after_the_threads_have_finished_their_work() -> None:
    code = """
import sys, threading, time
from fnn.kernels.threads import parallel_map
begun = threading.Event()
def slow(i):
    begun.set()
    time.sleep(0.2)
    sys.stdout.write("done\\n")
threading.Thread(target=lambda: parallel_map(slow, 2, 2), daemon=True).start()
begun.wait()
time.sleep(0.1)
"""
    assert in_python(code).startswith("done\n")


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01])
def test_python_ends_while_a_daemon_thread_uses_new_numbers_of_workers(delay: float) -> None:
    assert in_python(WORKERS.format(delay=delay)) == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_parallel_map_works_in_the_child_of_a_fork() -> None:
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


def loaded_again() -> Any:
    spec = find_spec("fnn.kernels.threads")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_child_process_has_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[dict[str, Any]] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **calls: registered.append(calls), raising=False)
    module = loaded_again()
    before = module._executor()
    assert module._executor() is before
    [calls] = registered
    calls["after_in_child"]()
    assert module._executor() is not before


def test_threads_need_no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    assert loaded_again().parallel_map(lambda i: i, 3, 2) == [0, 1, 2]
