"""The training loop: takes steps, shows progress and saves to a folder."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic

from fnn.files.checkpoint import save
from fnn.run.faults import NotFiniteError
from fnn.run.folder import BEST, STATE, truncate_to, write_metrics
from fnn.run.progress import format_accuracy, show_progress
from fnn.run.task import State, Task, final, steps


def train(
    task: Task,
    state: State,
    folder: Path | None = None,
    keep_every: float = 30.0,
    should_stop: Callable[[], bool] = lambda: False,
    log: Callable[[str], None] = print,
) -> State:
    """Trains from `state` to the end, or until `should_stop()` is true after a step; returns the last state.

    With a folder, the state is saved every `keep_every` seconds, at the end of each epoch, and when training ends or
    fails. Raises NotFiniteError on nan or infinity, and OSError if the folder cannot be written; the folder then has
    the last good state.
    """
    n_test, due = len(task.data.test.labels), monotonic() + keep_every
    lines = truncate_to(folder, state) if folder else []
    saved = state if folder and (folder / STATE).exists() else None
    try:
        with show_progress(len(task.data.train.labels), log) as show:
            for new, metrics in steps(task, state):
                if folder and metrics:
                    lines.append(metrics)
                    write_metrics(folder, lines)
                    if new["best"] > state["best"]:
                        save(folder / BEST, final(new))
                state = new
                if folder and (metrics or monotonic() >= due):
                    _save_state(folder, state)
                    saved, due = state, monotonic() + keep_every
                show(state)
                if metrics:
                    log(format_accuracy(round(metrics["test_accuracy"] * n_test), n_test))
                if should_stop():
                    break
    except NotFiniteError as error:
        error.add_note("a lower learning rate may help")
        if folder:
            error.add_note(f"the state before it is in {folder}")
            _save_state(folder, state)
            saved = state
        task.comm.allgather(None)  # the first rank to exit ends all ranks, so it waits until the state is saved
        raise
    finally:
        if folder and state is not saved:
            _save_state(folder, state)
    return state


def _save_state(folder: Path, state: State) -> None:
    try:
        save(folder / STATE, state)
    except OSError as error:
        error.add_note(f"to continue from the last good state, use --resume {folder}")
        raise
