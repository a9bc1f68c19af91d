"""The checks for each case of the onnx package, and the ledger of cases without a net."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from fnn import Op, tree_items
from fnn.op import Array
from fnn.testing import check_op
from tests.onnx.suites.graph import UnexpressibleError

T = TypeVar("T")

PASSES = "passes"
LEDGER = tomllib.loads(Path(__file__).with_name("ledger.toml").read_text("utf-8"))


def listed(suite: str) -> dict[str, str]:
    """Returns the cases in the ledger, each with its reason."""
    pairs = [(name, reason) for reason, names in LEDGER[suite].items() for name in names]
    assert len(dict(pairs)) == len(pairs), "a case is listed twice"
    return dict(pairs)


def outcome(run: Callable[[T], None], case: T) -> str:
    """Returns `PASSES`, the reason why there is no net for the case, or the error."""
    try:
        run(case)
    except UnexpressibleError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return PASSES


def agree(came: Array, wanted: Array, rtol: float, atol: float) -> None:
    """Raises AssertionError unless the arrays have the same dtype and shape, and agree to these tolerances."""
    came = np.asarray(came)  # a loss is a scalar of NumPy's
    assert (came.dtype, came.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(came, wanted, rtol, atol)


def check_properties(op: Op, x: Array, key: int | None = None) -> None:
    """`check_op` at the shapes of `x`, once for each net and shape.

    Not "threads" and "accuracy", which take most of the time: tests/test_operators.py checks them for each operator.
    """
    asked = (repr(op), x.shape, key)
    if asked in _checked:
        return
    statistics = [path for path, _ in tree_items(op.init(0, x.shape[1:])) if path.split("/")[-1] in ("mean", "var")]
    exempt = ["threads", "accuracy", *["batch independence"] * bool(statistics and key is not None)]
    given = {"x": x} if op.integers else {"batch": min(3, len(x))}
    check_op(op, x.shape[1:], key=key, exempt=exempt, constants=statistics, **given)
    _checked.add(asked)


_checked: set[tuple[str, tuple[int, ...], int | None]] = set()
