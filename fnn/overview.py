"""A net as a table to be printed."""

from collections.abc import Iterator, Sequence

from fnn.layers import Layer, layers
from fnn.op import Op, Params, Shape

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
