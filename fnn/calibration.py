"""Finds the operators that would predict with statistics that nobody has estimated, and warns about them."""

from __future__ import annotations

import warnings
from _thread import allocate_lock  # threading takes half a millisecond to import
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fnn.op import Op

MOST = 4
"""Paths that a warning lists."""

_lock = allocate_lock()


class UncalibratedWarning(RuntimeWarning):
    """A batch_norm predicts with its initial statistics, mean 0 and variance 1: `calibrate` was not called."""


def uncalibrated(op: Op, params: Any, x: Any) -> list[str]:
    """The paths of the operators in `op` whose statistics in `params` still have their initial values.

    None for an empty batch, and once `op` has warned about them.
    """
    if op.warned or not isinstance(x, np.ndarray) or x.shape[:1] == (0,):
        return []
    return ["/".join(path) or op.kind for path, initial in op.statistics.items() if _is_initial(params, path, initial)]


@contextmanager
def warning_once(op: Op, paths: list[str]) -> Iterator[None]:
    """Warns at the end of the block, unless it raised an error, that these operators in `op` are uncalibrated.

    Each `op` warns only once. The operators inside it do not warn, in the block and afterwards: only the outermost one,
    the net, does. If a filter makes the warning an error, it comes each time.
    """
    with _lock:
        quiet = [] if op.warned else [part for part in _with_parts(op) if not part.warned]
        for part in reversed(quiet):  # `op` last: another thread that finds it marked finds all parts marked
            part.warned = True
    try:
        yield
        if quiet:
            warnings.warn(_message(paths), UncalibratedWarning, stacklevel=4)  # the caller of the block's function
    except BaseException:
        for part in quiet:
            part.warned = False
        raise


def _message(paths: list[str]) -> str:
    shown = ", ".join(paths[:MOST]) + (f" and {len(paths) - MOST} more" if len(paths) > MOST else "")
    return (
        f"{shown}: predicting with the initial mean 0 and variance 1; after training, call "
        "params = calibrate(net, params, batches)"
    )


def _with_parts(op: Op) -> Iterator[Op]:
    """`op`, then the operators with statistics that it is made of, each once."""
    seen = {id(op): op}
    todo = [op]
    while todo:
        for part in todo.pop().parts.values():
            if part.statistics and id(part) not in seen:
                seen[id(part)] = part
                todo.append(part)
    yield from seen.values()


def _is_initial(params: Any, path: tuple[str, ...], initial: dict[str, float]) -> bool:
    """Whether the statistics of the operator at `path` are there, and all equal to their initial values."""
    for name in path:
        params = params.get(name) if isinstance(params, dict) else None
    return isinstance(params, dict) and all(_is_full(params.get(name), value) for name, value in initial.items())


def _is_full(array: Any, value: float) -> bool:
    """Whether `array` is an array of `value` only."""
    if not isinstance(array, np.ndarray) or not array.size or array.flat[0] != value:  # fast for calibrated ones
        return False
    return bool((array == value).all())
