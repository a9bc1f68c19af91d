"""`serial` and `repeat`: operators one after the other, and how the parts of a net are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fnn.checks.arrays import params_error
from fnn.checks.values import check_int
from fnn.kernels.threads import idle_threads
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, check_operator, operator, prepend_path
from fnn.random import Key

P = ParamSpec("P")
T = TypeVar("T")


@operator
def serial(*ops: Op) -> Op:
    """The operators one after the other; params are a dict of theirs, by kind and ordinal: `conv1`, `tanh1`, `conv2`…

    What a part draws, its initial values among it, depends on its name and not on its position.
    """
    return _chain(_by_name(*ops))


@operator
def repeat(op: Op, n: int) -> Op:
    """`op` n times, one after the other, each with params of its own: `dense1`, `dense2`…, as in `serial`."""
    name, _ = _label(op)
    return _chain({f"{name}{i}": op for i in range(1, check_int("n", n, 1, OpError) + 1)})


def _chain(parts: dict[str, Op]) -> Op:
    """The parts one after the other."""

    def init(key: Key, shape: Shape) -> Params:
        params = {}
        for name, op in parts.items():
            params[name] = _within(name, op.init, key.fold(name), shape)
            shape = op.output_shape(params[name], shape)
        return params

    # The loops make no call to `_within`, but have its `try`: a small net's step is little more than these loops.
    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        if len(params) != len(parts) or not parts:
            _check_names(params, parts)
        vjps = []
        try:
            for name, op in parts.items():
                x, vjp = op.apply(params[name], x, key and key.fold(name))
                vjps.append((name, vjp))
        except Exception as error:
            prepend_path(error, name)
            raise

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            grads: Params = {name: {} for name in parts}
            first, wait = 0, idle_threads() == 1
            late: list[str] = []  # the parts whose parameters' cotangents are left to a spare thread

            def settle(name: str) -> None:
                grads[name] = _within(name, grads[name])

            while not need_dx and first < len(vjps) and not params[vjps[first][0]]:
                first += 1  # nobody reads what lies before the first part that has parameters
            try:
                for i in reversed(range(first, len(vjps))):
                    name, vjp = vjps[i]
                    try:
                        grads[name], dy = vjp(dy, need_dx or i > first, wait)
                    except Exception as error:
                        prepend_path(error, name)
                        raise
                    if not wait and callable(grads[name]):
                        late.append(name)
                        if len(late) > 2:  # each of them keeps its `dy`
                            settle(late.pop(0))
            finally:
                while late:
                    settle(late.pop())  # the one that is least likely to have been begun
            return grads, dy if need_dx else None

        return x, pull

    return Op(init, apply, parts=parts, draws=True)


def _within(name: str, f: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`f(...)` of the part `name`, which an error that it raises then names."""
    try:
        return f(*args, **kwargs)
    except Exception as error:
        prepend_path(error, name)
        raise


def _by_name(*ops: Op) -> dict[str, Op]:
    """The operators under their names as parts of one."""
    counts: dict[str, int] = {}
    parts = {}
    for op in ops:
        name, given = _label(op)
        if not given:
            counts[name] = counts.get(name, 0) + 1
            name = f"{name}{counts[name]}"
        if name in parts:
            raise OpError(f"two parts have the name {name!r}, wanted another one for each")
        parts[name] = op
    return parts


def _label(op: Op) -> tuple[str, bool]:
    """The name that the operator was given and True, or its kind and False."""
    check_operator(op)
    while op.kind != "named" and "" in op.parts:
        op = op.parts[""]
    return (op.config["name"], True) if op.kind == "named" else (op.kind, False)


def _check_names(params: Params, parts: dict[str, Op]) -> None:
    """Raises OpError for params that no part has."""
    if not isinstance(params, dict) or any(name not in parts for name in params):
        raise params_error(params, parts)
