"""Every kind of operator that is said in ONNX, and how a net is: operator by operator, at its path."""

from collections.abc import Mapping

import fnn
from fnn.onnx.layers import LAYERS
from fnn.onnx.place import Graph, Place, Translate
from fnn.op import Op, OpError, Params, Shape


def check_kinds(op: Op, path: tuple[str, ...] = ()) -> None:
    """Raises the OpError for the first operator in `op` that has no translation, before any is applied."""
    if op.kind not in KINDS or not _ours(op):
        raise _unknown(op.kind, path)
    for names, part in op.inside():
        check_kinds(part, (*path, *names))


def _unknown(kind: str, path: tuple[str, ...]) -> OpError:
    error = OpError(f"there is no ONNX for this operator of the kind {kind!r}, wanted one of fnn.__all__", kind)
    error.path = path
    return error


def translated(graph: Graph, op: Op, params: Params, path: tuple[str, ...], x: str, shape: Shape) -> tuple[str, Shape]:
    """Adds to the graph what `op` does with the value `x`; returns its output's name, and the shape of an example."""
    at = Place(graph, op, params, path, shape, op.output_shape(params, shape))
    return KINDS[op.kind](at, x), at.out


def _ours(op: Op) -> bool:
    """Whether the operator is what the library has under the name of its kind: another's may bear the same."""
    public = getattr(fnn, op.kind)
    if isinstance(public, Op):
        return op._apply is public._apply
    return op.maker is public.__wrapped__


def _part(at: Place, name: str, x: str, shape: Shape) -> tuple[str, Shape]:
    """What the part of that name does with `x`; of an operator that wraps another, the one named ""."""
    if at.op.wraps is not None:
        return translated(at.graph, at.op.wraps, at.params, at.path, x, shape)
    return translated(at.graph, at.op.parts[name], at.params.get(name, {}), (*at.path, name), x, shape)


def _inside(at: Place, x: str) -> str:
    """The translation of an operator that computes what the one in it does."""
    return _part(at, "", x, at.shape)[0]


def _serial(at: Place, x: str) -> str:
    shape = at.shape
    for name in at.op.parts:
        x, shape = _part(at, name, x, shape)
    return x


def _shared(at: Place, x: str) -> str:
    [name], shape = at.op.parts, at.shape
    for _ in range(at.op.config["n"]):
        x, shape = _part(at, name, x, shape)
    return x


def _residual(at: Place, x: str) -> str:
    [name] = at.op.parts
    return at.node("", "Add", _part(at, name, x, at.shape)[0], x)


def _parallel(at: Place, x: str) -> str:
    ys = [_part(at, name, x, at.shape)[0] for name in at.op.parts]
    return at.node("", "Sum", *ys) if at.op.config["join"] == "sum" else at.node("", "Concat", *ys, axis=1)


def _positionwise(at: Place, x: str) -> str:
    time, *shape = at.shape
    y, out = _part(at, "", at.reshape("positions", x, -1, *shape), tuple(shape))
    return at.reshape("sequence", y, -1, time, *out)


KINDS: Mapping[str, Translate] = {
    **LAYERS,
    "check_finite": _inside,
    "freeze": _inside,
    "microbatch": _inside,
    "named": _inside,
    "parallel": _parallel,
    "positionwise": _positionwise,
    "remat": _inside,
    "repeat": _serial,
    "residual": _residual,
    "serial": _serial,
    "shard": _inside,
    "shared": _shared,
}
