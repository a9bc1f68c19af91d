"""Runs two calls in alternation, step by step. State that they share by mistake then always shows."""

import dis
import sys
from _thread import allocate_lock
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import cache
from itertools import groupby
from pathlib import Path
from threading import Barrier, Thread
from types import CodeType, FrameType
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from fnn import checks, op
from fnn.kernels import numerics, process
from fnn.kernels.process import limited_blas
from fnn.kernels.threads import without_helpers

T = TypeVar("T")
Step = tuple[int, int, int]  # where it begins: the code's id, the offset in it, how often the thread was there before

POLL = 0.001  # seconds that a thread sleeps before it asks again for its turn
PATIENCE = (20, 40, 80, 160, 320, 640)  # for each run: polls without a step of the other thread before a thread goes on
GIVE_UP = 60.0  # seconds without a step that count as a deadlock

FOLDERS = (np.__file__, checks.__file__, __file__)
NOT_TRACED = (*(str(Path(file).parent) for file in FOLDERS), op.__file__, numerics.__file__, process.__file__)
"""Files and folders whose lines are not interleaved: they are not the operator's own code."""


class Run(NamedTuple, Generic[T]):
    """One run of the two calls."""

    results: list[T]
    order: bytes  # for each step, the number of the thread that made it
    steps: tuple[set[Step], set[Step]]  # the steps of each thread
    stalls: int  # how often a thread went on alone because the other did not hand back the turn in time

    @property
    def switches(self) -> int:
        """How often a thread stopped between two of its steps while the other one made a step."""
        return len([*groupby(self.order)]) - len({*self.order})


def run_in_step(*calls: Callable[[], T]) -> Iterator[Run[T]]:
    """Runs two calls in two threads that take turns, until a run counts; yields every run, so that you can check it.

    A step ends before each line of Python and before each function call; a call of a C function is one step. A thread
    hands over the turn before a step that the other one has not reached. So the threads overtake each other all the
    time: between any two steps, one stops while the other makes the same steps.

    A first run in which the calls take different paths does not count; from the second run on, no thread stops before a
    step that the other one did not make in the run before. A thread that waits for a lock, or is in a long call of C,
    does not hand back the turn in time: the other one makes a step without it (a stall). A run with stalls counts only
    if it repeats the order of the run before, which a busy machine would not do; else the calls run again with more
    patience. The last run always counts.

    `shard` gets no helper threads here, so all of its work is interleaved. Raises AssertionError if no steps were
    interleaved, as for C functions alone; TimeoutError for a deadlock.
    """
    last: Run[T] | None = None
    for patience in PATIENCE:
        with without_helpers(), limited_blas():  # `shard` then does not set the threads of BLAS, which takes a lock
            run = _run(calls, patience, last and last.steps)
        yield run
        same_paths = last is not None or run.steps[0] == run.steps[1]
        if same_paths and (not run.stalls or (last is not None and run.order == last.order)):
            break
        last = run
    if not run.switches:
        raise AssertionError("expected Python code to interleave, got calls that have none or that never overlap")


def _run(calls: tuple[Callable[[], T], ...], patience: int, known: tuple[set[Step], set[Step]] | None) -> Run[T]:
    """Runs the calls once; `known` has the steps that each call made in the run before."""
    turns = (allocate_lock(), allocate_lock())  # a thread has the turn once it acquires its lock
    for turn in turns:
        turn.acquire()
    started = Barrier(2)
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    order, steps = bytearray(), (set[Step](), set[Step]())
    stalls, ended = [0, 0], [False, False]

    def work(me: int) -> None:
        other, has_turn, visits = 1 - me, me == 0, Counter[tuple[int, int]]()

        def await_turn() -> bool:
            polls, seen = 0, len(order)
            while polls < patience and not ended[other]:
                if turns[me].acquire(timeout=POLL):
                    return True
                polls, seen = (polls + 1 if seen == len(order) else 0), len(order)
            stalls[me] += not ended[other]
            return False

        def begin_step(code: int, offset: int) -> None:
            nonlocal has_turn
            step = (code, offset, visits[code, offset])
            visits[code, offset] += 1
            steps[me].add(step)
            if not ended[other] and (has_turn or await_turn()):
                has_turn = True
                if step not in steps[other] and (known is None or step in known[other]):
                    turns[other].release()
                    has_turn = await_turn()
            order.append(me)

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "call" and frame.f_code.co_filename.startswith(NOT_TRACED):
                return None
            frame.f_trace_opcodes = True
            if event == "line" or (event == "opcode" and frame.f_lasti in _call_offsets(frame.f_code)):
                begin_step(id(frame.f_code), frame.f_lasti)
            return trace

        started.wait()
        sys.settrace(trace)  # in this thread only
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
        seen = -1
        while thread.is_alive():
            if seen == len(order):
                raise TimeoutError(f"expected the two calls to finish, got no step in {GIVE_UP:g} s: a deadlock?")
            seen = len(order)
            thread.join(GIVE_UP)
    if errors:
        raise errors[min(errors)]
    return Run([results[0], results[1]], bytes(order), steps, sum(stalls))


@cache
def _call_offsets(code: CodeType) -> frozenset[int]:
    """Returns the offsets of the instructions that call a function."""
    return frozenset(i.offset for i in dis.get_instructions(code) if i.opname.startswith("CALL"))
