"""The loop that trains, shows how it goes, and keeps in a folder what it comes to."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic

from fnn.files.checkpoint import save
from fnn.run.faults import NotFiniteError
from fnn.run.folder import BEST, STATE, settle, write_metrics
from fnn.run.progress import progress, result
from fnn.run.task import State, Task, final, steps


def train(
    task: Task,
    state: State,
    folder: Path | None = None,
    keep_every: float = 30.0,
    stopped: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = print,
) -> State:
    """Trains on from `state`, to the end or until `stopped()` after some step; gives the last state.

    Of a run in a folder, the state is kept there every `keep_every` seconds, at each epoch's end, and when the training
    ends in any way. Raises NotFiniteError for numbers that are not finite, and the OSError of a folder that cannot be
    written to; the folder then holds the last good state.
    """
    n_test, due = len(task.data.test.labels), monotonic() + keep_every
    lines = settle(folder, state) if folder else []
    kept = state if folder and (folder / STATE).exists() else None
    try:
        with progress(len(task.data.train.labels), tell) as show:
            for new, metrics in steps(task, state):
                if folder and metrics:
                    lines.append(metrics)
                    write_metrics(folder, lines)
                    if new["best"] > state["best"]:
                        save(folder / BEST, final(new))
                state = new
                if folder and (metrics or monotonic() >= due):
                    _keep(folder, state)
                    kept, due = state, monotonic() + keep_every
                show(state)
                if metrics:
                    tell(result(round(metrics["test_accuracy"] * n_test), n_test))
                if stopped():
                    break
    except NotFiniteError as error:
        error.add_note("a lower learning rate may help")
        if folder:
            error.add_note(f"the state before it is in {folder}")
            _keep(folder, state)
            kept = state
        task.ranks.gather(None)  # the first rank to leave ends all, so it waits until the state is kept
        raise
    finally:
        if folder and state is not kept:
            _keep(folder, state)
    return state


def _keep(folder: Path, state: State) -> None:
    try:
        save(folder / STATE, state)
    except OSError as error:
        error.add_note(f"--resume {folder} goes on from the last good state")
        raise
