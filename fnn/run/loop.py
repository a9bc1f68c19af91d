"""The training loop: takes steps, shows progress and saves to a folder."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from fnn.files.checkpoint import save
from fnn.run.faults import NotFiniteError
from fnn.run.folder import PARAMS, STATE, truncate_to, write_metrics
from fnn.run.task import Metrics, State, Task, final, steps

LINES = 8  # of progress, at most, for each epoch without a bar; two more have the accuracies


def train(
    task: Task,
    state: State,
    folder: Path | None = None,
    keep_every: float = 30.0,
    should_stop: Callable[[], bool] = lambda: False,
    log: Callable[[str], None] = print,
    record: Callable[[Metrics], None] = lambda metrics: None,
) -> State:
    """Trains from `state` to the end, or until `should_stop()` is true after a step; returns the last state.

    `record` gets the metrics at the end of each epoch.

    With a folder, the state is saved every `keep_every` seconds, at the end of each epoch, and when training ends or
    fails. The params are saved at the end of each epoch; with validation examples, only if their accuracy rises. Raises
    NotFiniteError on nan or infinity, and OSError if the folder cannot be written; the folder then has the last good
    state.
    """
    due = monotonic() + keep_every
    lines = truncate_to(folder, state) if folder else []
    saved = state if folder and (folder / STATE).exists() else None
    try:
        with _show_progress(len(task.data.train.labels), log) as show:
            for new, metrics in steps(task, state):
                if folder and metrics:
                    lines.append(metrics)
                    write_metrics(folder, lines)
                    if not task.data.validation or new["best"] > state["best"]:
                        save(folder / PARAMS, final(new))
                state = new
                if folder and (metrics or monotonic() >= due):
                    _save_state(folder, state)
                    saved, due = state, monotonic() + keep_every
                show(state)
                if metrics:
                    record(metrics)
                    for name, examples in (("validation", task.data.validation), ("test", task.data.test)):
                        if examples:
                            log(format_accuracy(metrics[f"{name}_accuracy"], len(examples.labels), name))
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


def format_accuracy(accuracy: float, n: int, name: str = "test") -> str:
    """Returns the accuracy on n examples, a fraction, as a line of text."""
    return f"{name} acc: {accuracy:.4f} ({round(accuracy * n)}/{n})"


def describe_progress(state: State) -> str:
    """Returns the state's position in the run as text."""
    return f"step {state['step']} (epoch {state['epoch']}, {state['seen']} images)"


BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {remaining}{postfix}"  # 20 columns of 80 for the bar


@contextmanager
def _show_progress(n: int, log: Callable[[str], None]) -> Iterator[Callable[[State], None]]:
    """Yields a function that shows a state: as a bar on a terminal with tqdm, else as a logged line now and then.

    Epochs have n images. The end of each epoch is logged in any case.
    """
    make_bar, bar, seen = _get_tqdm(), None, 0

    def show(state: State) -> None:
        nonlocal bar, seen
        before, seen = seen, state["seen"]
        if not seen:  # a new epoch
            return
        loss = state["loss_sum"] / seen
        means = f"loss: {format(loss, '.4f' if loss < 1e4 else '.3g')} acc: {state['hits'] / seen:.3f}"
        if make_bar and seen < n:
            title = f"epoch {state['epoch']}"
            bar = bar or make_bar(
                total=n, initial=seen, desc=title, unit=" images", leave=False, file=sys.stdout, bar_format=BAR
            )
            bar.update(seen - bar.n)
            bar.set_postfix_str(means, refresh=False)
        elif bar:
            bar.close()
            bar = None
        if seen == n or (not make_bar and seen * LINES // n > before * LINES // n):
            log(f"epoch: {state['epoch']} iter: {seen} {means} n_correct: {state['hits']}")

    try:
        yield show
    finally:
        if bar:
            bar.close()


def _get_tqdm() -> Any:
    """Returns tqdm if it is installed and the output is a terminal that can show a bar, else None."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (AttributeError, OSError, ValueError):  # closed, a pipe, or an object without a file, as in notebooks
        return None
    if columns == 0 or os.environ.get("TERM") == "dumb":  # 0: the width is unknown
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
