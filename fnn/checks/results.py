"""Checks of what the functions of an operator return, and explanations of errors that a wrong operator causes."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy import ndarray

from fnn.checks.arrays import Array, params_error
from fnn.checks.errors import OpError, describe, describe_uncalled, describe_value, join_first


class UncalibratedWarning(RuntimeWarning):
    """A batch_norm predicts with its initial statistics, mean 0 and variance 1: `calibrate` was not called."""


def check_initial(params: Any) -> dict[str, Any]:
    """Returns the result of `init`. Raises OpError unless it is a dict."""
    if isinstance(params, dict):
        return params
    raise OpError(f"expected init to return a dict of arrays, got {describe(params)}")


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


MAX_DEPTH = 100  # operators inside each other: each takes about five calls, and Python allows 1,000

# How NumPy's ValueErrors for arrays that no computer can hold begin.
TOO_LARGE = ("array is too big", "Maximum allowed dimension", "maximum supported dimension")


def explain(error: Exception, kind: str, expected: str, f: Callable[..., Any], *args: Any) -> None:
    """Adds the operator's kind to an OpError.

    Raises one in place of a TypeError if `f` does not take the arguments, and for a size that NumPy does not allow.
    """
    if isinstance(error, OpError):
        error.kind = error.kind or kind
        return
    if isinstance(error, ValueError):
        if str(error).startswith(TOO_LARGE):
            raise OpError(f"expected arrays of sizes that NumPy allows, got larger ones: {error}", kind) from error
        return
    try:
        inspect.signature(f).bind(*args)
    except ValueError:  # a C function may have no signature
        return
    except TypeError:
        came = f"{expected.partition('(')[0]}({', '.join(inspect.signature(f).parameters)})"
        raise OpError(f"expected {expected}, got {came}", kind) from error


def check_depth(inside: list[Any]) -> int:
    """The depth of an operator with these inside. Raises OpError if too many are inside each other."""
    depth: int = 1 + max((op.depth for op in inside), default=0)
    if depth > MAX_DEPTH:
        raise OpError(f"expected at most {MAX_DEPTH} operators inside each other, got more")
    return depth


def explain_apply(error: Exception, op: Any, params: Any, x: Any, key: Any) -> None:
    """`explain` for an error in the apply of `op`, which `params` of another operator may have caused."""
    is_missing = isinstance(params, dict) and isinstance(error, KeyError) and error.args[0] not in params
    if not isinstance(error, OpError) and (is_missing or not isinstance(params, dict)):
        names = list(op.parts) or ([*params, error.args[0]] if is_missing else [])
        raise params_error(params, dict.fromkeys(names, True), op.kind) from None
    arguments, expected = ((params, x, key), "params, x, key") if op.takes_key else ((params, x), "params, x")
    explain(error, op.kind, f"apply({expected})", op._apply, *arguments)


def apply_completed(op: Any, params: dict[str, Any], x: Any, key: Any) -> tuple[Array, Callable[..., Any]]:
    """`op.apply` with an empty dict for each part that `params` lack."""
    absent = [name for name in op.parts if name not in params]
    try:
        y, vjp = op.apply(params | {name: {} for name in absent}, x, key)
    except OpError as error:
        if error.missing and error.path and error.path[0] in absent:  # this part has parameters
            raise params_error(params, op.parts, op.kind) from None
        raise

    def shortened_vjp(dy: Array, need_dx: bool = True) -> tuple[dict[str, Any], Any]:
        dparams, dx = vjp(dy, need_dx)
        return {name: grads for name, grads in dparams.items() if name not in absent}, dx

    return y, shortened_vjp


def warn_uncalibrated(op: Any, params: Any, x: Any) -> None:
    """Warns, once, if `op` predicted with statistics in `params` that still have their initial values."""
    if op.has_warned or not len(x):
        return
    paths = ["/".join(path) or op.kind for path, values in op.statistics.items() if _are_initial(params, path, values)]
    if paths:
        fix = "after training, call params = calibrate(net, params, batches)"
        message = f"{join_first(paths, 4)}: predicting with the initial mean 0 and variance 1; {fix}"
        warnings.warn(message, UncalibratedWarning, stacklevel=3)  # where the user called the net
        op.has_warned = True


def _are_initial(params: Any, path: tuple[str, ...], values: Mapping[str, float]) -> bool:
    for name in path:
        params = params.get(name, {})
    zeros = {name: value for name, value in values.items() if value == 0}
    for name, value in (zeros or values).items():  # weight decay changes all others
        array = np.asarray(params.get(name, ()))
        if not array.size or array.flat[0] != value or (array != value).any():  # the first number is a quick test
            return False
    return True


def call_error(op: Any, arguments: list[Any]) -> OpError:
    """The error for a call of an operator, as if it were a function or a constructor."""
    if any(isinstance(value, ndarray | dict) for value in arguments):
        return OpError("expected op.apply(params, x), got op(...)", op.kind)
    return OpError(f"expected {op!r}, got a call of it; it is already an operator, remove the ()", op.kind)


def operator_error(value: Any, where: str, op_type: type) -> OpError:
    """The error for a value in place of an operator, with the fix."""
    if uncalled := describe_uncalled(value, op_type, "Op"):
        return OpError(f"expected an operator, got {uncalled}", where)
    name = value if isinstance(value, str) else getattr(value, "__name__", "")
    came, fix = f"the function {name}" if callable(value) and name else describe_value(value), ""
    if isinstance(getattr(sys.modules["fnn"], name or "fnn", None), op_type):  # NumPy's tanh, PyTorch's relu, 'tanh'
        fix = f"; use fnn.{name}"
    elif isinstance(value, tuple) and len(value) == 2 and all(map(callable, value)):
        fix = "; write Op(init, apply)"
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes | ndarray | Mapping):
        fix = "; unpack it with *"
    elif callable(value):
        fix = "; write an Op for it"
    return OpError(f"expected an operator, got {came}{fix}", where)
