"""Operators that change the shape, not the numbers."""

from __future__ import annotations

from math import prod

from fnn.checks.arrays import check_no_params
from fnn.checks.errors import describe_value
from fnn.checks.values import check_int
from fnn.kernels.memory import from_features, to_features
from fnn.op import Array, Op, OpError, Params, Vjp, operator


def _flatten(params: Params, x: Array) -> tuple[Array, Vjp]:
    """Flattens each example: (batch, *shape) to (batch, prod(shape))."""
    check_no_params(params)

    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
        return {}, from_features(to_features(dy), x.shape[1:])

    return to_features(x), vjp


flatten = Op(lambda key, shape: {}, _flatten, kind="flatten", doc=_flatten.__doc__)


@operator
def reshape(*shape: int) -> Op:
    """Reshapes each example in C order: (batch, ...) to (batch, *shape). One size may be -1, to be inferred."""
    if len(shape) == 1 and isinstance(shape[0], tuple | list):
        raise OpError(f"expected reshape(*sizes), got reshape({describe_value(shape[0])}); unpack it with *")
    shape = tuple(check_int("shape", n, -1, OpError) for n in shape)
    if shape.count(-1) > 1:
        raise OpError(f"shape: expected at most one -1, got {describe_value(shape)}")

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        check_no_params(params)
        size, known = prod(x.shape[1:]), prod(n for n in shape if n >= 0)
        rest = size // known if -1 in shape and known else 1
        if known * rest != size:
            raise OpError(f"expected examples that fit shape {shape}, got {size} numbers in {x.shape[1:]}")

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
            return {}, from_features(to_features(dy), x.shape[1:])

        return from_features(to_features(x), tuple(rest if n == -1 else n for n in shape)), vjp

    return Op(lambda key, shape: {}, apply)
