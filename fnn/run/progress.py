"""How an epoch goes: a bar on a terminal, plain lines everywhere else."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fnn.run.task import State

EVERY = 2500
"""Of how many images one line tells."""


@contextmanager
def progress(n: int, tell: Callable[[str], None]) -> Iterator[Callable[[State], None]]:
    """The function that shows each state of an epoch of n images.

    On a terminal, where tqdm is installed, it moves a bar; else it tells a line now and then. Both tell the last line.
    """
    bars, bar, seen = _bars(), None, 0

    def close() -> None:
        nonlocal bar
        if bar is not None:
            bar.close()
        bar = None

    def show(state: State) -> None:
        nonlocal bar, seen
        before, seen = seen, state["seen"]
        if bars is not None and bar is None and 0 < seen < n:
            bar = bars(
                total=n, initial=seen, desc=f"epoch {state['epoch']}", unit=" images", leave=False, file=sys.stdout
            )
        if bar is not None:
            bar.update(seen - bar.n)
            bar.set_postfix_str(means(state), refresh=False)
        if seen == n:
            close()
        if seen == n or (bars is None and seen // EVERY > before // EVERY):
            tell(f"epoch: {state['epoch']} iter: {seen} {means(state)} n_correct: {state['hits']}")

    try:
        yield show
    finally:
        close()


def means(state: State) -> str:
    """The epoch's mean loss and accuracy so far."""
    return f"loss: {state['loss_sum'] / state['seen']:.4f} acc: {state['hits'] / state['seen']:.3f}"


def result(right: int, n: int) -> str:
    """What a test comes to."""
    return f"test acc: {right / n:.4f} ({right}/{n})"


def told(state: State) -> str:
    """Where in its run a state is."""
    return f"step {state['step']} (epoch {state['epoch']}, {state['seen']} images)"


def _bars() -> Callable[..., Any] | None:
    """What makes bars, if there is a terminal to draw them on."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return None
    if os.get_terminal_size(sys.stdout.fileno()).columns == 0:  # as where nobody told the terminal how wide it is
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    make: Callable[..., Any] = tqdm
    return make
