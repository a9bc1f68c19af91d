"""Operators that move numbers about and change none."""

from fnn.memory import from_columns, to_columns
from fnn.op import Array, Op, Params, Vjp


def _flatten(params: Params, x: Array) -> tuple[Array, Vjp]:
    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
        return {}, from_columns(to_columns(dy), x.shape[1:])

    return to_columns(x).T, vjp


flatten = Op(lambda key, shape: {}, _flatten, kind="flatten")
"""(batch, *shape) to (batch, prod(shape))."""
