"""What a net consists of, as a list or as a table: shapes, parameters and multiply-adds of each operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fnn.checks.arrays import Array
from fnn.checks.values import check_shape
from fnn.inspection.rebuild import find_paths, intercept, operators_in
from fnn.op import Op, Params, Shape, Vjp, check_operator
from fnn.random import Key
from fnn.tree import tree_items, tree_leaves, tree_size

WIDTH = 100  # maximum of a table
MIN_OPERATOR_WIDTH = 20  # minimum of its column of operators, which is cut for that
HEADER = ("path", "operator", "output", "parameters", "multiply-adds")


class Layer(NamedTuple):
    """An operator in its net. If its parts are layers too, its numbers are without theirs."""

    path: str  # as in params and errors; that of the whole net is empty
    operator: str  # the call that creates it, without its parts
    shape: Shape  # of one output example; of the last application if there are several
    parameters: int | None  # how many numbers its params have; None if all belong to its parts
    multiply_adds: int | None  # for one example; None if its parts have them, or if they are not known


class _Application(NamedTuple):
    op: Op
    shape: Shape
    multiply_adds: int | None


def layers(net: Op, shape: Shape, params: Params | None = None) -> list[Layer]:
    """Lists the operators of the net for inputs of `shape` (one example): each before its parts, the net itself first.

    `params` default to those of `net.init`. The numbers come from one application to an empty batch. A wrapper
    (`shard`, `freeze`...) and the operator in it are one layer. In `shared`, params count once and multiply-adds each
    time. Multiply-adds are those of products with weights and, in attention, of queries, keys and values. Padding
    counts as pixels; biases, activations, pooling and norm layers do not count. Raises OpError if the net cannot take
    the shape.
    """
    shape = check_shape(shape, where=check_operator(net, "layers").kind)
    params, paths = find_paths(net, net.init(0, shape) if params is None else params)
    dtypes = [leaf.dtype for leaf in tree_leaves(params) if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"]
    x = np.empty((0, *shape), np.int64 if net.integers else dtypes[0] if dtypes else np.float32)
    applications = _record(net, params, x, paths)
    sizes = dict.fromkeys(applications, 0)  # of the params that belong to no part
    for path, leaf in tree_items(params):
        while path not in sizes:
            path = path.rpartition("/")[0]
        sizes[path] += tree_size(leaf)
    return [_layer(path, same, sizes) for path, same in applications.items()]


def _record(net: Op, params: Params, x: Array, paths: dict[int, str]) -> dict[str, list[_Application]]:
    """Applies the net and returns the applications of its operators by path."""
    found: dict[str, list[_Application]] = {}
    positions: Shape = ()  # of sequences whose positions are examples to the operators inside

    def around(op: Op, apply: Callable[..., Any], params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        nonlocal positions
        if id(params) in paths:
            found.setdefault(paths[id(params)], [])  # before those of its parts
        outer = positions
        positions = (*outer, x.shape[1]) if op.kind == "positionwise" else outer
        y, vjp = apply(params, x, key)
        positions = outer
        if id(params) in paths:
            count = _multiply_adds(op, params, x, y)
            count = None if count is None else count * prod(outer)
            found[paths[id(params)]].append(_Application(op, (*outer, *y.shape[1:]), count))
        return y, vjp

    intercept(net, around).apply(params, x)
    return found


def _layer(path: str, applications: Sequence[_Application], sizes: Mapping[str, int]) -> Layer:
    """One layer of all applications of the same params. The last one is of the outermost wrapper."""
    outermost = applications[-1]
    call, inner = _call(outermost.op)
    has_parts = any(other.startswith(f"{path}/" if path else "") for other in sizes if other != path)
    counts = [one.multiply_adds for one in applications if one.op is inner]
    count = None if has_parts or None in counts else sum(filter(None, counts))
    return Layer(path, call, outermost.shape, None if has_parts and not sizes[path] else sizes[path], count)


def _call(op: Op) -> tuple[str, Op]:
    """The call that creates the operator, without its parts, and the operator inside all wrappers."""
    if op.wraps is not None and op.maker is not None and next(operators_in(op.config), None):
        call, inner = _call(op.wraps)
        return (call if op.kind == "named" else f"{op.kind}({call})"), inner  # the path has the name
    if not op.parts:
        return repr(op), op
    settings = [f"{name}={value!r}" for name, value in op.config.items() if next(operators_in(value), None) is None]
    return f"{op.kind}({', '.join(settings)})" if settings else op.kind, op


def _multiply_adds(op: Op, params: Params, x: Array, y: Array) -> int | None:
    """The multiply-adds for one example of `x`, by the kind of the operator; None if they are not known."""
    sizes: dict[str, int] = {name: leaf.size for name, leaf in params.items() if isinstance(leaf, np.ndarray)}
    match op.kind:
        case "dense" if "w" in sizes:
            return sizes["w"]
        case "conv" if "w" in sizes:
            return sizes["w"] * prod(y.shape[2:])  # each weight is used once for each pixel of the output
        case "conv_transpose" if "w" in sizes:
            return sizes["w"] * prod(x.shape[2:])
        case "attention" if "wo" in sizes:
            time, features = map(int, x.shape[1:])
            return 4 * time * sizes["wo"] + 2 * time * time * features  # four maps; scores, and weighted sums
        case "batch_norm" | "group_norm" | "layer_norm" | "embedding" | "position_embedding":
            return 0
    return None if params or op.parts else 0


def summary(net: Op, shape: Shape, params: Params | None = None) -> str:
    """Returns a table of the net's operators for inputs of `shape` (one example): its `layers` and their totals.

    Indented lines are parts of the line above. "?" means unknown multiply-adds; the total is then "at least" the
    others. Raises OpError if the net cannot take the shape.
    """
    net_layer, *parts = layers(net, shape, params)
    # A plain `serial` says nothing that its parts do not say.
    rows = [layer for layer in parts if layer.operator != "serial"] if parts else [net_layer._replace(path=net.kind)]
    parameters = [layer.parameters for layer in rows if layer.parameters is not None]
    counts = [layer.multiply_adds for layer in rows if layer.multiply_adds is not None]
    at_least = "at least " if len(counts) < len(parameters) else ""
    total = ("total", net_layer.operator, str(net_layer.shape), f"{sum(parameters):,}", f"{at_least}{sum(counts):,}")
    return _table([HEADER, ("input", "", str(shape), "", ""), *map(_cells, _indent(rows), rows), total])


def _indent(rows: Sequence[Layer]) -> Iterator[str]:
    """The path of each row, relative to the row above that contains it and indented below it."""
    above: list[str] = []
    for layer in rows:
        while above and not layer.path.startswith(above[-1]):
            above.pop()
        yield "  " * len(above) + layer.path.removeprefix(above[-1] if above else "")
        above.append(f"{layer.path}/")


def _cells(path: str, layer: Layer) -> Sequence[str]:
    parameters, count = layer.parameters, layer.multiply_adds
    numbers = ("", "") if parameters is None else (f"{parameters:,}", "?" if count is None else f"{count:,}")
    return path, layer.operator, str(layer.shape), *numbers


def _table(lines: Sequence[Sequence[str]]) -> str:
    """The cells in columns, with a rule after the first line and one before the last."""
    path, operator, output, *numbers = (max(map(len, column)) for column in zip(*lines, strict=True))
    rest = path + output + sum(numbers) + 2 * (len(HEADER) - 1)
    operator = min(operator, max(MIN_OPERATOR_WIDTH, WIDTH - rest))

    def line(cells: Sequence[str]) -> str:
        call = cells[1] if len(cells[1]) <= operator else f"{cells[1][: operator - 3]}..."
        left = cells[0].ljust(path), call.ljust(operator), cells[2].ljust(output)
        return "  ".join([*left, *map(str.rjust, cells[3:], numbers)]).rstrip()

    header, *body, total = map(line, lines)
    rule = "-" * (rest + operator)
    return "\n".join([header, rule, *body, rule, total])
