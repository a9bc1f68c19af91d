"""What a net is made of, as a list or as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple, TypeAlias

import numpy as np

from fnn.checks.values import check_shape
from fnn.op import Array, Op, Params, Shape, check_operator
from fnn.tree import tree_leaves, tree_size

Feed: TypeAlias = Callable[[Op, Params, Array], Iterator[tuple[str, list[Array]]]]
"""The parts of an operator by name, each with what it is applied to, in turn, when the operator meets a batch."""


class Layer(NamedTuple):
    """An operator in its net. Where it is made of parts that are told of as well, the numbers are theirs."""

    path: str
    """As in params and errors; the whole net's is empty."""

    operator: str
    """The call that makes it, its parts left out."""

    shape: Shape
    """Of one example's output; of what is applied several times, the last of them."""

    parameters: int | None
    """How many numbers its params hold; None where its parts tell."""

    multiply_adds: int | None
    """Those for one example; None where its parts tell, or where nobody knows."""


class _Place(NamedTuple):
    """Where an operator stands: its path, the wrappers around it, and the positions of a sequence that it is given."""

    path: str = ""
    around: str = "{}"
    positions: Shape = ()


def layers(net: Op, shape: Shape, params: Params | None = None) -> list[Layer]:
    """The operators of the net for inputs of `shape` (one example's), each before its parts, the net itself first.

    `params` are those that `net.init` gives, unless given. Shapes are found as `init` finds them: operators are applied
    to an empty batch. A wrapper (`shard`, `freeze`...) and what it wraps are one layer. So is what is shared, with its
    params counted once and its multiply-adds each time. Multiply-adds are those of products with weights and, in
    attention, of queries, keys and values: padding counts as pixels do; biases, activations, pooling and normalisation
    do not count. Raises OpError for a shape that the net cannot take.
    """
    shape = check_shape(shape, where=check_operator(net, "layers").kind)
    params = net.init(0, shape) if params is None else params
    dtypes = [leaf.dtype for leaf in tree_leaves(params) if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"]
    x = np.empty((0, *shape), np.int64 if net.integers else dtypes[0] if dtypes else np.float32)
    return list(_layers(net, params, x, _Place()))


def _layers(op: Op, params: Params, x: Array, place: _Place) -> Iterator[Layer]:
    y, _ = op.apply(params, x)
    path, around, positions = place
    shape, call = positions + y.shape[1:], around.format(_call(op))
    if "" in op.parts and (inner := _inside(op, params, x, place)) and inner[0].shape == shape:
        yield from inner
    elif op.kind in FEEDS:
        yield Layer(path, call, shape, None, None)
        for name, inputs in FEEDS[op.kind](op, params, x):
            part = _Place(f"{path}/{name}" if path else name, positions=positions)
            times = [list(_layers(op.parts[name], params.get(name, {}), given, part)) for given in inputs]
            yield from map(_together, zip(*times, strict=True))
    else:
        each = _multiply_adds(op, params, x, y)
        yield Layer(path, call, shape, tree_size(params), None if each is None else each * prod(positions))


def _inside(op: Op, params: Params, x: Array, place: _Place) -> list[Layer]:
    """What `op` wraps, as far as that takes what `op` takes."""
    path, around, positions = place
    if op.kind == "positionwise":
        x, positions = x.reshape(0, *x.shape[2:]), (*positions, x.shape[1])
    around = around if op.kind == "named" else around.format(f"{op.kind}({{}})")  # the name is in the path
    try:
        return list(_layers(op.parts[""], params, x, _Place(path, around, positions)))
    except ValueError:
        return []


def _together(times: tuple[Layer, ...]) -> Layer:
    """One layer of what is applied several times."""
    counts = [layer.multiply_adds for layer in times if layer.multiply_adds is not None]
    return times[-1]._replace(multiply_adds=sum(counts) if len(counts) == len(times) else None)


def _in_turn(op: Op, params: Params, x: Array) -> Iterator[tuple[str, list[Array]]]:
    for name, part in op.parts.items():
        yield name, [x]
        x, _ = part.apply(params.get(name, {}), x)


def _side_by_side(op: Op, params: Params, x: Array) -> Iterator[tuple[str, list[Array]]]:
    for name in op.parts:
        yield name, [x]


def _again(op: Op, params: Params, x: Array) -> Iterator[tuple[str, list[Array]]]:
    [(name, part)] = op.parts.items()
    inputs = [x]
    while len(inputs) < op.config["n"]:
        inputs.append(part.apply(params.get(name, {}), inputs[-1])[0])
    yield name, inputs


FEEDS: Mapping[str, Feed] = {
    "parallel": _side_by_side,
    "repeat": _in_turn,
    "residual": _side_by_side,
    "serial": _in_turn,
    "shared": _again,
}
"""The combinators whose parts are layers of their own, by kind; any other is one layer."""


def _multiply_adds(op: Op, params: Params, x: Array, y: Array) -> int | None:
    """The multiply-adds for one example of `x`, by the operator's kind; None where nobody knows."""
    sizes: dict[str, int] = {name: leaf.size for name, leaf in params.items() if isinstance(leaf, np.ndarray)}
    match op.kind:
        case "dense" if "w" in sizes:
            return sizes["w"]
        case "conv" if "w" in sizes:
            return sizes["w"] * prod(y.shape[2:])  # for each pixel of the output, each weight meets one of the input
        case "conv_transpose" if "w" in sizes:
            return sizes["w"] * prod(x.shape[2:])
        case "attention" if "wo" in sizes:
            time, features = map(int, x.shape[1:])
            return 4 * time * sizes["wo"] + 2 * time * time * features  # four maps; scores, and what they mix
        case "batch_norm" | "group_norm" | "layer_norm" | "embedding" | "position_embedding":
            return 0
    return None if params or op.parts else 0


def _call(op: Op) -> str:
    """The call that makes the operator, without its parts."""
    if not op.parts:
        return repr(op)
    settings = [f"{name}={value!r}" for name, value in op.config.items() if not _are_operators(value)]
    return f"{op.kind}({', '.join(settings)})" if settings else op.kind


def _are_operators(value: object) -> bool:
    return isinstance(value, Op) or (isinstance(value, tuple) and all(map(_are_operators, value)))


WIDTH, LEAST = 100, 20
"""How wide a table is at most; the column of operators is cut for it, though not to less than the second number."""

HEADER = ("path", "operator", "output", "parameters", "multiply-adds")


def summary(net: Op, shape: Shape, params: Params | None = None) -> str:
    """A table of the net's operators for inputs of `shape` (one example's): `layers` in lines, and their totals.

    What stands further to the right is a part of the line above it. Multiply-adds that are not known are a "?", and the
    total is "at least" that of the others. Raises OpError for a shape that the net cannot take.
    """
    whole, *parts = layers(net, shape, params)
    # A chain says nothing that its parts do not, unless a wrapper is around it.
    shown = [layer for layer in parts if layer.operator != "serial"] if parts else [whole._replace(path=net.kind)]
    parameters = [layer.parameters for layer in shown if layer.parameters is not None]
    counts = [layer.multiply_adds for layer in shown if layer.multiply_adds is not None]
    least = "at least " if len(counts) < len(parameters) else ""
    return _table(
        [
            HEADER,
            ("input", "", str(shape), "", ""),
            *map(_cells, _indented(shown), shown),
            ("total", whole.operator, str(whole.shape), f"{sum(parameters):,}", f"{least}{sum(counts):,}"),
        ]
    )


def _indented(shown: Sequence[Layer]) -> Iterator[str]:
    """Each layer's path from that of the layer shown before it that it is a part of, and below it."""
    around: list[str] = []
    for layer in shown:
        while around and not layer.path.startswith(around[-1]):
            around.pop()
        yield "  " * len(around) + layer.path.removeprefix(around[-1] if around else "")
        around.append(f"{layer.path}/")


def _cells(path: str, layer: Layer) -> Sequence[str]:
    if layer.parameters is None:
        return path, layer.operator, str(layer.shape), "", ""
    count = "?" if layer.multiply_adds is None else f"{layer.multiply_adds:,}"
    return path, layer.operator, str(layer.shape), f"{layer.parameters:,}", count


def _table(lines: Sequence[Sequence[str]]) -> str:
    """The cells in columns, two blanks between them, and ruled lines after the first and before the last."""
    path, operator, output, *numbers = (max(map(len, column)) for column in zip(*lines, strict=True))
    rest = path + output + sum(numbers) + 2 * (len(HEADER) - 1)
    operator = min(operator, max(LEAST, WIDTH - rest))

    def drawn(line: Sequence[str]) -> str:
        name = line[1] if len(line[1]) <= operator else f"{line[1][: operator - 3]}..."
        left = line[0].ljust(path), name.ljust(operator), line[2].ljust(output)
        return "  ".join([*left, *map(str.rjust, line[3:], numbers)]).rstrip()

    header, *body, total = map(drawn, lines)
    rule = "-" * (rest + operator)
    return "\n".join([header, rule, *body, rule, total])
