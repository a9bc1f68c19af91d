"""`serial`: operators one after the other. And how the parts of a net get their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fnn.checks.arrays import check_part_names
from fnn.checks.errors import prepend_path
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, check_operator, operator
from fnn.random import Key

P = ParamSpec("P")
T = TypeVar("T")


@operator
def serial(*ops: Op) -> Op:
    """Applies the operators one after the other.

    Params are a dict with the params of each part, named by kind and ordinal: `conv1`, `tanh1`, `conv2`... A part's
    random numbers, initial values included, depend on its name, not on its position.
    """
    return chain_parts(name_parts(*ops))


def chain_parts(parts: dict[str, Op]) -> Op:
    """The operators one after the other, by their names in params."""

    def init(key: Key, shape: Shape) -> Params:
        params = {}
        for name, op in parts.items():
            params[name] = call_part(name, op.init, key.fold(name), shape)
            shape = op.output_shape(params[name], shape)
        return params

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        check_part_names(params, parts)
        vjps = []
        try:  # as in `call_part`, but without a call for each part
            for name, op in parts.items():
                x, vjp = op.apply(params[name], x, key and key.fold(name))
                vjps.append((name, vjp))
        except Exception as error:
            prepend_path(error, name)
            raise

        def vjp_chain(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            grads: Params = {name: {} for name in parts}
            first = 0
            while not need_dx and first < len(vjps) and not params[vjps[first][0]]:
                first += 1  # nobody reads the gradients before the first part that has parameters
            try:
                for i in reversed(range(first, len(vjps))):
                    name, vjp = vjps[i]
                    grads[name], dy = vjp(dy, need_dx or i > first)
            except Exception as error:
                prepend_path(error, name)
                raise
            return grads, dy if need_dx else None

        return x, vjp_chain

    return Op(init, apply, parts=parts, takes_key=True)


def call_part(name: str, f: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls `f`, a function of the part `name`. An error gets the name in front of its path."""
    try:
        return f(*args, **kwargs)
    except Exception as error:
        prepend_path(error, name)
        raise


def name_parts(*ops: Op) -> dict[str, Op]:
    """The operators by their names as parts of one operator: the name from `named`, or kind and ordinal."""
    counts: dict[str, int] = {}
    parts = {}
    for op in ops:
        name, is_given = find_name(op)
        if not is_given:
            counts[name] = counts.get(name, 0) + 1
            name = f"{name}{counts[name]}"
        if name in parts:
            raise OpError(f"expected a different name for each part, got {name!r} twice")
        parts[name] = op
    return parts


def find_name(op: Op) -> tuple[str, bool]:
    """The name from `named` and True, or the kind and False. A wrapper is named like the operator that it wraps."""
    check_operator(op)
    while op.kind != "named" and op.wraps is not None:
        op = op.wraps
    return (op.config["name"], True) if op.kind == "named" else (op.kind, False)
