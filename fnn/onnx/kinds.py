"""ONNX translations of all kinds of operators, and of a net: operator by operator, each at its path."""

from collections.abc import Mapping

import fnn
from fnn.inspection.rebuild import construct_again
from fnn.onnx.graph import Context, Graph, Translate
from fnn.onnx.layers import LAYERS
from fnn.op import Op, OpError, Params, Shape


def check_kinds(op: Op, path: tuple[str, ...] = ()) -> None:
    """Raises OpError for the first operator in `op` that has no translation."""
    op = _expand(op)
    if not _is_built_in(op):
        raise _kind_error(op.kind, path)
    for names, part in op.inside():
        check_kinds(part, (*path, *names))


def _kind_error(kind: str, path: tuple[str, ...]) -> OpError:
    error = OpError(f"expected an operator of fnn.__all__, got another one of kind {kind!r}", kind)
    error.path = path
    return error


def _is_built_in(op: Op) -> bool:
    """Whether the operator is the library's own. Other operators may have a kind of the same name."""
    if op.kind not in KINDS:
        return False
    public = getattr(fnn, op.kind)
    if isinstance(public, Op):
        return op._apply is public._apply
    return op.maker is public.__wrapped__


def _expand(op: Op) -> Op:
    """`op` itself, or the operator that a constructor with `@operator` built from those of the library."""
    while not _is_built_in(op) and op.maker is not None and (inner := construct_again(op)).maker is not None:
        op = inner
    return op


def translate(graph: Graph, op: Op, params: Params, path: tuple[str, ...], x: str, shape: Shape) -> tuple[str, Shape]:
    """Adds nodes that apply `op` to the value `x`. Returns the output's name, and the shape of an example."""
    op = _expand(op)
    ctx = Context(graph, op, params, path, shape, op.output_shape(params, shape))
    return KINDS[op.kind](ctx, x), ctx.out_shape


def _translate_part(ctx: Context, name: str, x: str, shape: Shape) -> tuple[str, Shape]:
    """Adds the nodes of a part. For a wrapper this is the operator that it wraps."""
    if ctx.op.wraps is not None:
        return translate(ctx.graph, ctx.op.wraps, ctx.params, ctx.path, x, shape)
    return translate(ctx.graph, ctx.op.parts[name], ctx.params.get(name, {}), (*ctx.path, name), x, shape)


def _wrapper(ctx: Context, x: str) -> str:
    """The translation of an operator that computes the same as the one it wraps."""
    return _translate_part(ctx, "", x, ctx.shape)[0]


def _serial(ctx: Context, x: str) -> str:
    shape = ctx.shape
    for name in ctx.op.parts:
        x, shape = _translate_part(ctx, name, x, shape)
    return x


def _shared(ctx: Context, x: str) -> str:
    [name], shape = ctx.op.parts, ctx.shape
    for _ in range(ctx.op.config["n"]):
        x, shape = _translate_part(ctx, name, x, shape)
    return x


def _residual(ctx: Context, x: str) -> str:
    [name] = ctx.op.parts
    return ctx.node("", "Add", _translate_part(ctx, name, x, ctx.shape)[0], x)


def _parallel(ctx: Context, x: str) -> str:
    ys = [_translate_part(ctx, name, x, ctx.shape)[0] for name in ctx.op.parts]
    return ctx.node("", "Sum", *ys) if ctx.op.config["join"] == "sum" else ctx.node("", "Concat", *ys, axis=1)


def _positionwise(ctx: Context, x: str) -> str:
    time, *shape = ctx.shape
    y, out = _translate_part(ctx, "", ctx.reshape("positions", x, -1, *shape), tuple(shape))
    return ctx.reshape("sequence", y, -1, time, *out)


KINDS: Mapping[str, Translate] = {
    **LAYERS,
    **dict.fromkeys(("check_finite", "freeze", "microbatch", "named", "remat", "shard"), _wrapper),
    "parallel": _parallel,
    "positionwise": _positionwise,
    "repeat": _serial,
    "residual": _residual,
    "serial": _serial,
    "shared": _shared,
}
