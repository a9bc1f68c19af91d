"""`run_in_step` finds shared state every time, also on a busy machine, and has no false alarm."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import pytest

from fnn import Op, dense, serial, shard, tanh
from fnn.op import Array
from fnn.testing import PROPERTIES, CheckError, check_op, interleave
from fnn.testing.interleave import Run, run_in_step

ONES, TWOS = np.ones(3), np.full(3, 2.0)


def runs(f: Callable[[Array], Array]) -> list[Run[Array]]:
    """Returns all runs of `f` with two inputs at the same time."""
    return list(run_in_step(partial(f, ONES), partial(f, TWOS)))


def finds(f: Callable[[Array], Array]) -> bool:
    """Returns whether a run gave another result than `f` alone."""
    wanted = [f(ONES).copy(), f(TWOS).copy()]
    return any(not np.array_equal(run.results, wanted) for run in runs(f))


@contextmanager
def busy_machine() -> Iterator[None]:
    """Two processes that compute all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


BUSY_OR_NOT = pytest.mark.parametrize(
    "around", [nullcontext, pytest.param(busy_machine, marks=pytest.mark.slow)], ids=["idle", "busy"]
)


def scratch_on_two_lines() -> Callable[[Array], Array]:
    scratch = np.empty(3)

    def f(x: Array) -> Array:
        np.multiply(2, x, out=scratch)
        return np.tanh(scratch)

    return f


def scratch_in_one_line() -> Callable[[Array], Array]:
    scratch = np.empty(3)
    return lambda x: np.tanh(np.multiply(2, x, out=scratch))


def scratch_between_functions() -> Callable[[Array], Array]:
    scratch: dict[str, Array] = {}

    def put(x: Array) -> None:
        scratch["x"] = x

    def get() -> Array:
        return 2 * scratch["x"]

    def f(x: Array) -> Array:
        put(x)
        return get()

    return f


def scratch_after_different_paths() -> Callable[[Array], Array]:
    scratch = np.empty(3)

    def f(x: Array) -> Array:
        if x is TWOS:
            for _ in range(5):
                x = x + 0
        scratch[:] = x
        return np.tanh(scratch)

    return f


def stack_of_inputs() -> Callable[[Array], Array]:
    stack: list[Array] = []

    def f(x: Array) -> Array:
        stack.append(x)
        y = np.tanh(x)
        return y + stack.pop()

    return f


def scratch_after_a_lock() -> Callable[[Array], Array]:
    lock, scratch, calls = Lock(), np.empty(3), np.zeros(1)

    def f(x: Array) -> Array:
        with lock:
            calls[:] = calls + 1
        scratch[:] = x
        return np.tanh(scratch)

    return f


def scratch_after_a_wait() -> Callable[[Array], Array]:
    scratch = np.empty(3)

    def f(x: Array) -> Array:
        time.sleep(0.03)  # longer than the first run waits
        scratch[:] = x
        return np.tanh(scratch)

    return f


def scratch_missed_by_two_runs() -> Callable[[Array], Array]:
    """In the first runs, one of the calls waits so long that the mistake does not show."""
    scratch, calls = np.empty(3), iter(range(10**6))

    def f(x: Array) -> Array:
        if x is TWOS and next(calls) < 3:
            time.sleep(0.3)
        scratch[:] = x
        return np.tanh(scratch)

    return f


@pytest.mark.parametrize("make", [scratch_on_two_lines, scratch_in_one_line, scratch_between_functions])
@BUSY_OR_NOT
def test_run_in_step_finds_shared_state_100_times_of_100(
    make: Callable[[], Callable[[Array], Array]], around: Callable[[], AbstractContextManager[None]]
) -> None:
    with around():
        assert sum(finds(make()) for _ in range(100)) == 100


@pytest.mark.parametrize(
    "make",
    [
        stack_of_inputs,
        scratch_after_different_paths,
        scratch_after_a_lock,
        scratch_after_a_wait,
        pytest.param(scratch_missed_by_two_runs, marks=pytest.mark.slow),
    ],
)
@BUSY_OR_NOT
def test_run_in_step_finds_shared_state_after_the_calls_get_out_of_step(
    make: Callable[[], Callable[[Array], Array]], around: Callable[[], AbstractContextManager[None]]
) -> None:
    with around():
        assert finds(make())


def test_run_in_step_alternates_after_every_line_and_every_call() -> None:
    def f(x: Array) -> Array:
        y = np.tanh(x)  # a line, and a call in it
        y = y + 1
        return np.tanh(y)

    [run] = runs(f)
    assert run.order == bytes([0, 1, 1, 0, 0, 1, 1, 0, 0, 1])
    assert (run.stalls, run.switches) == (0, 4)
    assert [len(steps) for steps in run.steps] == [5, 5]


@pytest.mark.slow
def test_run_in_step_goes_on_where_one_call_waits_for_a_lock_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, scratch = Lock(), np.empty(3)

    def f(x: Array) -> Array:
        x = x + 0
        with lock:
            scratch[:] = x
            y = np.tanh(scratch)
        return y + 0

    assert not finds(f)
    monkeypatch.setattr(interleave, "PATIENCE", (20,) * 30)
    every = runs(f)
    assert len(every) < 30, "no run repeated the one before"
    last = every[-1]
    assert last.stalls
    assert last.switches


def test_run_in_step_runs_again_until_a_run_counts() -> None:
    waits = iter([0.1, 0.1, 0.0])

    def f(x: Array) -> Array:
        time.sleep(next(waits) if x is TWOS else 0)
        y = np.tanh(x)
        return y + 0

    assert [run.stalls > 0 for run in runs(f)] == [True, True, False]


def test_run_in_step_refuses_calls_that_it_cannot_interleave() -> None:
    with pytest.raises(AssertionError, match=r"^expected Python code to interleave, got calls that have none"):
        runs(np.tanh)
    with pytest.raises(AssertionError, match=r"^expected Python code to interleave"):
        list(run_in_step(partial(np.tanh, ONES), lambda: np.tanh(np.cos(ONES))))


def test_check_op_refuses_an_operator_without_python_code() -> None:
    def init(key: Any, shape: Any) -> Any:
        return {}

    class Native:
        """Like a function of an extension module: without Python code."""

        apply: Any = staticmethod(lambda params, x: (x, lambda dy, need_dx=True: ({}, dy)))

    native = Native.apply.__code__.co_filename
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(interleave, "NOT_TRACED", (*interleave.NOT_TRACED, native))
        with pytest.raises(CheckError, match="expected Python code to interleave") as caught:
            check_op(Op(init, Native.apply), (3,))
        assert caught.value.property == "threads"
        check_op(Op(init, Native.apply), (3,), exempt=["threads"])


@pytest.mark.slow
def test_run_in_step_reports_a_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    locks = Lock(), Lock()

    def f(x: Array) -> Array:
        first, second = locks if x is ONES else locks[::-1]
        with first:
            y = np.tanh(x)
            with second:
                return y

    monkeypatch.setattr(interleave, "GIVE_UP", 0.2)
    try:
        with pytest.raises(
            TimeoutError, match=r"^expected the two calls to finish, got no step in 0.2 s: a deadlock\?$"
        ):
            runs(f)
    finally:
        for lock in locks:
            lock.release()  # lets the threads end


def test_run_in_step_raises_what_a_call_raises() -> None:
    def f(x: Array) -> Array:
        if x is TWOS:
            raise ZeroDivisionError
        return np.tanh(x)

    with pytest.raises(ZeroDivisionError):
        runs(f)


def test_run_in_step_calls_have_the_callers_error_state() -> None:
    with np.errstate(over="ignore"):
        [run] = runs(lambda x: np.multiply(x * 1e200, 1e200))
    assert np.isinf(run.results).all()


@pytest.mark.parametrize("net", [lambda op: shard(op, 2, 1), lambda op: serial(tanh, shard(serial(op, tanh), 2, 2))])
def test_check_op_finds_shared_state_inside_of_a_shard_each_time(net: Callable[[Op], Op]) -> None:
    scratch: dict[Any, Array] = {}

    def apply(params: Any, x: Array) -> Any:
        kept = scratch.setdefault((x.shape, x.dtype), np.empty_like(x))
        np.multiply(2, x, out=kept)
        return kept.copy(), lambda dy, need_dx=True: ({}, 2 * dy)

    op: Op = Op(lambda key, shape: {}, apply)
    others = PROPERTIES.keys() - {"threads"}  # which may meet two threads of the same shard by chance
    for seed in range(10):
        with pytest.raises(CheckError, match="while another thread calls the operator"):
            check_op(net(op), (3,), seed, batch=5, exempt=others)


@pytest.mark.slow
def test_check_op_accepts_a_shard_with_a_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock, scratch = Lock(), dict[Any, Array]()

    def apply(params: Any, x: Array) -> Any:
        with lock:
            kept = scratch.setdefault((x.shape, x.dtype), np.empty_like(x))
            np.multiply(2, x, out=kept)
            y = kept.copy()
        return y, lambda dy, need_dx=True: ({}, 2 * dy)

    monkeypatch.setattr(interleave, "PATIENCE", (5, 10, 20))  # else the lock may take more than a minute
    locked: Op = Op(lambda key, shape: {}, apply, kind="locked")
    for net in (shard(serial(dense(4), tanh, dense(2)), 2, 1), shard(serial(dense(4), locked), 2, 1)):
        assert check_op(net, (3,), batch=4) < 1e-6
