"""Checks of what the functions of an operator return, and explanations of errors that a wrong operator causes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy import ndarray

from fnn.checks.arrays import Array, params_error
from fnn.checks.errors import OpError, describe

MAX_PATHS = 4
"""Paths that a warning lists."""


class UncalibratedWarning(RuntimeWarning):
    """A batch_norm predicts with its initial statistics, mean 0 and variance 1: `calibrate` was not called."""


def check_result(result: Any) -> tuple[Array, Callable[..., Any]]:
    """Returns the result of `apply` with a plain array. Raises OpError unless it is an array and a function."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise OpError(f"expected apply to return (y, vjp), got {describe(result)}")
    y, vjp = result
    if not callable(vjp):
        raise OpError(f"expected apply to return (y, vjp) with a function, got {describe(vjp)} as vjp")
    if type(y) is not ndarray and type(y) is not np.memmap:
        raise OpError(f"expected apply to return (y, vjp) with a plain array, got {describe(y)} as y")
    return np.asarray(y), vjp


def check_gradients(result: Any) -> tuple[dict[str, Any], Any]:
    """Returns the result of a vjp. Raises OpError unless it is a dict and the gradient of the input."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise OpError(f"expected vjp to return (dparams, dx), got {describe(result)}")
    if not isinstance(result[0], dict):
        raise OpError(f"expected vjp to return (dparams, dx), got {describe(result[0])} as dparams")
    return result


def explain_params(error: Exception, kind: str, params: Any, parts: Iterable[str]) -> None:
    """Raises an OpError in place of `error` if its cause is that `params` belong to another operator."""
    missing = isinstance(params, dict) and isinstance(error, KeyError) and error.args[0] not in params
    if missing or not isinstance(params, dict):
        names = list(parts) or ([*params, error.args[0]] if missing else [])
        raise params_error(params, dict.fromkeys(names, True), kind) from None


def explain_call(error: Exception, kind: str, expected: str, f: Callable[..., Any], *args: Any) -> None:
    """Raises an OpError in place of `error` if its cause is that the function does not take these arguments."""
    try:
        signature = inspect.signature(f)
    except ValueError:
        return
    try:
        signature.bind(*args)
    except TypeError:
        came = f"{expected.partition('(')[0]}({', '.join(signature.parameters)})"
        raise OpError(f"expected {expected}, got {came}", kind) from error


def warn_if_uncalibrated(statistics: Mapping[tuple[str, ...], Mapping[str, float]], kind: str, params: Any) -> bool:
    """Warns, and returns True, if statistics in `params` still have their initial values."""
    paths = ["/".join(path) or kind for path, initial in statistics.items() if _are_initial(params, path, initial)]
    if paths:
        names = ", ".join(paths[:MAX_PATHS]) + (f" and {len(paths) - MAX_PATHS} more" if len(paths) > MAX_PATHS else "")
        fix = "after training, call params = calibrate(net, params, batches)"
        message = f"{names}: predicting with the initial mean 0 and variance 1; {fix}"
        warnings.warn(message, UncalibratedWarning, stacklevel=5)  # where the user called the net
    return bool(paths)


def _are_initial(params: Any, path: tuple[str, ...], initial: Mapping[str, float]) -> bool:
    for name in path:
        params = params.get(name) if isinstance(params, dict) else None
    return isinstance(params, dict) and all(_is_full(params.get(name), value) for name, value in initial.items())


def _is_full(array: Any, value: float) -> bool:
    if not isinstance(array, ndarray) or not array.size or array.flat[0] != value:  # quick for calibrated statistics
        return False
    return bool((array == value).all())
