"""Rebuilds an operator, whatever its constructor, with other operators inside: for traces, summaries and exporters."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

from fnn.op import Array, Op, Params, Vjp, operator
from fnn.random import Key


def rebuild(op: Op, change: Callable[[Op], Op]) -> Op:
    """Returns `op`, constructed again with `change(part)` in place of each operator among its arguments.

    It finds operators in tuples, lists and dicts of arguments too. If the constructor returns the operator of another
    constructor, as a block of layers does, `change` gets that whole operator. Returns `op` itself if it has no
    constructor or no operators among its arguments.
    """
    if op.maker is None:
        return op
    if (inner := construct_again(op)).maker is not None:
        block = copy(change(inner))
        block.kind, block.config, block.maker = op.kind, op.config, op.maker
        return block
    if next(operators_in(op.config), None) is None:
        return op
    return _construct(operator(op.maker), _map_operators(change, op.config))


def intercept(op: Op, around: Callable[..., tuple[Array, Vjp]]) -> Op:
    """Rebuilds `op` so that `around(part, apply, params, x, key)` replaces the apply of `op` and of each part.

    `apply` applies the part. Operators inside one that was not created by a constructor stay as they are.
    """
    rebuilt = rebuild(op, lambda part: intercept(part, around))

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        return around(op, rebuilt.apply, params, x, key)

    new = copy(op)
    new._init, new._apply, new.takes_key, new.is_composite = rebuilt.init, apply, True, True
    return new


def construct_again(op: Op) -> Op:
    """Calls the constructor of `op` again. The result has a `maker` itself if `op` is a block of other operators."""
    assert op.maker is not None
    return _construct(op.maker, op.config)


def _construct(maker: Callable[..., Op], config: Mapping[str, Any]) -> Op:
    bound = inspect.BoundArguments(inspect.signature(maker), OrderedDict(config))
    return maker(*bound.args, **bound.kwargs)


def operators_in(value: Any) -> Iterator[Op]:
    """The operators in an argument: itself, or those in its tuples, lists and dicts."""
    if isinstance(value, Op):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from operators_in(item)


def _map_operators(change: Callable[[Op], Op], value: Any) -> Any:
    """The argument with `change(part)` in place of each operator in it."""
    if isinstance(value, Op):
        return change(value)
    if isinstance(value, dict):
        return {name: _map_operators(change, item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        kind = type(value)
        return getattr(kind, "_make", kind)(_map_operators(change, item) for item in value)
    return value


def find_paths(net: Op, params: Params) -> tuple[Params, dict[int, str]]:
    """Returns `params` with a dict of its own for each operator in the net, and the paths of these dicts by their id.

    So an operator's path can be found from its params, whatever the combinators around it do.
    """
    params = _separate(net, params)
    return params, {id(tree): path for path, tree in _dicts(params, "")}


def _dicts(tree: Params, path: str) -> Iterator[tuple[str, Params]]:
    yield path, tree
    for name, child in tree.items():
        if isinstance(child, dict):
            yield from _dicts(child, f"{path}/{name}" if path else name)


def _separate(op: Op, params: Params) -> Params:
    while op.wraps is not None:
        op = op.wraps
    if len(params) < len(op.parts):  # files do not have empty dicts
        params = params | {name: {} for name in op.parts if name not in params}
    return params | {name: _separate(part, params[name]) for name, part in op.parts.items() if name in params}
