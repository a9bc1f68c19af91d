"""The progress of an epoch: a bar on a terminal, lines everywhere else."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fnn.run.task import State

LOG_EVERY = 2500
"""Images between progress lines."""


@contextmanager
def show_progress(n: int, log: Callable[[str], None]) -> Iterator[Callable[[State], None]]:
    """Yields a function that shows a state: as a bar on a terminal with tqdm, else as a logged line now and then.

    Epochs have n images. The end of each epoch is logged in any case.
    """
    make_bar, bar, seen = _get_tqdm(), None, 0

    def show(state: State) -> None:
        nonlocal bar, seen
        before, seen = seen, state["seen"]
        if not seen:  # a new epoch
            return
        means = f"loss: {state['loss_sum'] / seen:.4f} acc: {state['hits'] / seen:.3f}"
        if make_bar and seen < n:
            title = f"epoch {state['epoch']}"
            bar = bar or make_bar(total=n, initial=seen, desc=title, unit=" images", leave=False, file=sys.stdout)
            bar.update(seen - bar.n)
            bar.set_postfix_str(means, refresh=False)
        elif bar:
            bar.close()
            bar = None
        if seen == n or (not make_bar and seen // LOG_EVERY > before // LOG_EVERY):
            log(f"epoch: {state['epoch']} iter: {seen} {means} n_correct: {state['hits']}")

    try:
        yield show
    finally:
        if bar:
            bar.close()


def format_accuracy(correct: int, n: int) -> str:
    """Returns the test accuracy as a line of text."""
    return f"test acc: {correct / n:.4f} ({correct}/{n})"


def describe_progress(state: State) -> str:
    """Returns the state's position in the run as text."""
    return f"step {state['step']} (epoch {state['epoch']}, {state['seen']} images)"


def _get_tqdm() -> Any:
    """Returns tqdm if it is installed and the output is a terminal that can show a bar, else None."""
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if not is_terminal or os.get_terminal_size(sys.stdout.fileno()).columns == 0:  # 0: the width is unknown
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
