"""`export`: a net and its params as an ONNX file, translated operator by operator, each at its path."""

import os
from collections.abc import Mapping

import numpy as np

import fnn
from fnn.checks.errors import describe
from fnn.checks.values import check_shape
from fnn.files.disk import atomic_write, check_regular
from fnn.inspection.rebuild import construct_again
from fnn.onnx.graph import INPUT, OUTPUT, PIXELS, Context, Graph, Translate
from fnn.onnx.layers import LAYERS
from fnn.op import Op, OpError, Params, Shape, check_operator
from fnn.tree import tree_items

OPSET, IR_VERSION = 13, 8
MAX_BYTES = (1 << 31) - (1 << 24)  # of all tensors: a file is limited to 2 GiB, and the rest of it is smaller than that


def export(
    net: Op,
    params: Params,
    shape: Shape,
    path: str | os.PathLike[str],
    *,
    scaling: Mapping[str, float] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes `net` with `params` to the file `path` as an ONNX model, for examples of `shape`.

    The model maps "input", (batch, *shape), to "output" for any batch size, in float32; integer inputs are int64. Nodes
    and tensors have our paths as names: `conv1`, `conv1/w`. The model predicts like `net.apply(params, x)` without a
    key: dropout is the identity, and batch_norm uses the statistics in params, so call `calibrate` first. Operators for
    training or for the machine, such as `freeze` and `shard`, are left out. Opset 13, IR version 8.

    With `scaling`, such as `fnn.data.SCALING`, the model's input is "pixels" instead, and the model itself computes
    "input", pixels / divide_by - subtract, in float32. `metadata` becomes the model's `metadata_props`.

    Every operator of `fnn.__all__` can be exported. Raises OpError with the path for other operators: `fnn.mpi.spread`
    (export the operator in it) and your own, unless a function with `@operator` builds them from ours. Raises OpError
    also for params that are not float32 (runtimes lack float64 convolutions), for an example of size 0, for params of
    2 GiB, and as `apply` does. In the model, a negative integer for `embedding` counts from the end instead of being an
    error. If anything fails, the old file is unchanged. Needs the extra `onnx`.
    """
    path = check_regular(path, lambda message: OpError(message, "export"))
    check_operator(net, "export")
    shape = check_shape(shape, 1, "export")
    for name, leaf in tree_items(params):
        if isinstance(leaf, np.ndarray) and leaf.dtype != np.float32:
            fix = "use tree_map(np.float32, params)"
            raise OpError(f"params: expected float32 for {name!r}, got {describe(leaf)}; {fix}", "export")
    if scaling is not None and (net.integers or scaling.keys() != {"divide_by", "subtract"}):
        raise OpError(f"scaling: expected divide_by and subtract, and a net of floats, got {dict(scaling)}", "export")
    graph = Graph()
    if scaling is not None:
        numbers = {name: graph.add_tensor(f"scaling/{name}", np.float32(value)) for name, value in scaling.items()}
        graph.nodes.append(("scaling/quotient", "Div", (PIXELS, numbers["divide_by"]), {}))
        graph.nodes.append((INPUT, "Sub", ("scaling/quotient", numbers["subtract"]), {}))
    y, out_shape = translate(graph, net, params, (), INPUT, shape)
    graph.nodes.append((OUTPUT, "Identity", (y,), {}))
    if (size := sum(tensor.nbytes for tensor in graph.tensors.values())) > MAX_BYTES:
        raise OpError(f"expected tensors of at most {MAX_BYTES} bytes (ONNX ends at 2 GiB), got {size}", "export")
    data = _encode(graph, net, INPUT if scaling is None else PIXELS, shape, out_shape, metadata or {})
    with atomic_write(path) as file:
        file.write(data)


def translate(graph: Graph, op: Op, params: Params, path: tuple[str, ...], x: str, shape: Shape) -> tuple[str, Shape]:
    """Adds nodes that apply `op` to the value `x`. Returns the output's name, and the shape of an example.

    An operator that a constructor with `@operator` built from those of the library is translated as these.
    """
    while not _is_built_in(op) and op.maker is not None and (inner := construct_again(op)).maker is not None:
        op = inner
    if not _is_built_in(op):
        raise _kind_error(op.kind, path)
    ctx = Context(graph, op, params, path, shape, op.output_shape(params, shape))
    return KINDS[op.kind](ctx, x), ctx.out_shape


def _kind_error(kind: str, path: tuple[str, ...]) -> OpError:
    error = OpError(f"expected an operator of fnn.__all__, got another one of kind {kind!r}", kind)
    error.path = path
    return error


def _is_built_in(op: Op) -> bool:
    """Whether the operator is the library's own. Other operators may have a kind of the same name."""
    if op.kind not in KINDS:
        return False
    public = getattr(fnn, op.kind)
    return op._apply is public._apply if isinstance(public, Op) else op.maker is public.__wrapped__


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
    return ctx.node("", "Add", _serial(ctx, x), x)


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


def _encode(graph: Graph, net: Op, name: str, shape: Shape, out_shape: Shape, metadata: Mapping[str, str]) -> bytes:
    """The bytes of the model with that input, after ONNX's own checks, which include the inference of all shapes."""
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError as error:
        raise ImportError("export: the package onnx is missing; run pip install '.[onnx]'") from error

    dtype = TensorProto.INT64 if net.integers else TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(kind, inputs, [name], name, **more) for name, kind, inputs, more in graph.nodes],
            net.kind,
            [helper.make_tensor_value_info(name, dtype, ["batch", *shape])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", *out_shape])],
            [numpy_helper.from_array(tensor, name) for name, tensor in graph.tensors.items()],
        ),
        producer_name="fnn",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, dict(metadata))
    data: bytes = model.SerializeToString()
    checker.check_model(data, full_check=True)
    return data
