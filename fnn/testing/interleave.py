"""Two calls run in alternation, step by step, so that state they share by mistake always shows."""

import dis
import sys
from _thread import allocate_lock
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import cache
from pathlib import Path
from threading import Barrier, Thread
from types import CodeType, FrameType
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fnn import op
from fnn.kernels import underflow
from fnn.kernels.threads import without_helpers

T = TypeVar("T")

Step: TypeAlias = tuple[int, int, int]
"""Where a step begins: the id of the code, the offset in it, and how many times the thread had been there before."""

POLL = 0.001
"""Seconds that a thread sleeps before it asks again for its turn."""

PATIENCE = (20, 40, 80, 160, 320, 640)
"""Polls without a step of the other thread before a thread goes on alone: in the first run, in the second, and so on.
"""

GIVE_UP = 60.0
"""Seconds without any step after which the two calls count as deadlocked."""


class Run(NamedTuple, Generic[T]):
    """One run of the two calls: what they returned, and how their steps were interleaved."""

    results: list[T]
    order: bytes
    """For each step, the number of the thread that made it."""
    steps: tuple[set[Step], set[Step]]
    """The steps of each thread."""
    switches: int
    """Number of times that a thread stopped between two of its steps while the other one made a step."""
    stalls: int
    """Number of times that a thread went on alone, because the other did not come back in time."""


def in_step(*calls: Callable[[], T]) -> Iterator[Run[T]]:
    """Runs two calls in two threads that take turns, until a run counts; yields every run, so that you can check it.

    A step ends before each line of Python and before each function call; a call of a C function is one step. Only the
    thread that has the turn runs. It hands the turn over when it comes to a step that the other one has not reached. So
    the threads overtake each other all the time: between any two steps, one of them stops while the other one makes the
    same steps.

    The calls may take different paths. From the second run on, a thread does not stop before a step that the other one
    did not make in the run before. So the calls are in step again as soon as their paths meet. A first run in which the
    paths differ does not count.

    A thread may not come back with the turn: it waits for a lock that the other one holds, it is in a long call of C,
    or the machine is busy. Then the other one makes a step without the turn, and waits again before the next step. A
    run without such a stall counts. A run with stalls counts if the run before had the same order of steps, because a
    busy machine would not repeat it. Otherwise the calls run again with more patience. The last run counts in any case:
    by then, a thread that did not come back had hundreds of chances to do so.

    `shard` and the like get no helper threads here, so that all of their work is interleaved. Other threads that a call
    starts run freely.

    AssertionError if no steps were interleaved, as for calls of C functions alone; TimeoutError for a deadlock.
    """
    last: Run[T] | None = None
    for patience in PATIENCE:
        with without_helpers():
            run = _run(calls, patience, last and last.steps)
        yield run
        same_paths = last is not None or run.steps[0] == run.steps[1]
        repeated = last is not None and run.order == last.order
        if same_paths and (repeated or not run.stalls):
            break
        last = run
    if not run.switches:
        raise AssertionError("expected Python code to interleave, got calls that have none or that never overlap")


def _run(calls: tuple[Callable[[], T], ...], patience: int, known: tuple[set[Step], set[Step]] | None) -> Run[T]:
    """One run; `known` has the steps that each call made in the run before."""
    turns = (allocate_lock(), allocate_lock())  # released when it is that thread's turn
    for turn in turns:
        turn.acquire()
    started = Barrier(2)
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    order, steps = bytearray(), (set[Step](), set[Step]())
    switched, stalled, ended = [0, 0], [0, 0], [False, False]

    def work(me: int) -> None:
        other, has_turn, visits = 1 - me, me == 0, Counter[tuple[int, int]]()

        def await_turn() -> bool:
            polls, made = 0, len(order)
            while polls < patience and not ended[other]:
                if turns[me].acquire(timeout=POLL):
                    return True
                polls, made = (polls + 1 if made == len(order) else 0), len(order)
            stalled[me] += not ended[other]
            return False

        def begin(code: int, offset: int) -> None:
            nonlocal has_turn
            step = (code, offset, visits[code, offset])
            visits[code, offset] += 1
            steps[me].add(step)
            if not ended[other] and (has_turn or await_turn()):
                has_turn = True
                if step not in steps[other] and (known is None or step in known[other]):
                    made = len(order)
                    turns[other].release()
                    has_turn = await_turn()
                    switched[me] += len(order) > made > 0
            order.append(me)

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            if frame.f_code.co_filename.startswith(NOT_TRACED):
                return None
            frame.f_trace_opcodes, calls = True, _call_offsets(frame.f_code)

            def trace_inside(frame: FrameType, event: str, arg: Any) -> Any:
                if event == "line" or (event == "opcode" and frame.f_lasti in calls):
                    begin(id(frame.f_code), frame.f_lasti)
                return trace_inside

            return trace_inside

        started.wait()
        sys.settrace(trace)  # in this thread alone
        try:
            results[me] = calls[me]()
        except BaseException as error:
            errors[me] = error
        finally:
            sys.settrace(None)
            ended[me] = True
            if has_turn:
                turns[other].release()

    threads = [Thread(target=copy_context().run, args=(work, me), daemon=True) for me in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        made = -1
        while thread.is_alive():
            if made == len(order):
                raise TimeoutError(f"expected the two calls to finish, got no step in {GIVE_UP:g} s: a deadlock?")
            made = len(order)
            thread.join(GIVE_UP)
    if errors:
        raise errors[min(errors)]
    return Run([results[0], results[1]], bytes(order), steps, sum(switched), sum(stalled))


@cache
def _call_offsets(code: CodeType) -> frozenset[int]:
    """The offsets of the instructions that call a function."""
    return frozenset(i.offset for i in dis.get_instructions(code) if i.opname.startswith("CALL"))


NOT_TRACED = (str(Path(np.__file__).parent), str(Path(__file__).parent), op.__file__, underflow.__file__)
"""Where the files are whose lines are not interleaved: they are not the operator's own code."""
