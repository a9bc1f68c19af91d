"""`export`: a net and its params as an ONNX file."""

import os

import numpy as np

from fnn.checks.errors import describe
from fnn.checks.values import check_shape
from fnn.files.disk import atomic_write, check_regular
from fnn.onnx.graph import INPUT, OUTPUT, Graph
from fnn.onnx.kinds import check_kinds, translate
from fnn.op import Op, OpError, Params, Shape, check_operator
from fnn.tree import tree_items

OPSET, IR_VERSION = 13, 8
MAX_BYTES = (1 << 31) - (1 << 24)
"""Limit for the tensors. The format is limited to 2 GiB, and the rest of a model needs less than the difference."""


def export(net: Op, params: Params, shape: Shape, path: str | os.PathLike[str]) -> None:
    """Writes `net` with `params` to the file `path` as an ONNX model, for examples of `shape`.

    The model maps "input", (batch, *shape), to "output" for any batch size, in float32; integer inputs are int64. Nodes
    and tensors have our paths as names: `conv1`, `conv1/w`. The model predicts like `net.apply(params, x)` without a
    key: dropout is the identity, and batch_norm uses the statistics in params, so call `calibrate` first. Operators for
    training or for the machine, such as `freeze` and `shard`, are left out. Opset 13, IR version 8.

    Every operator of `fnn.__all__` can be exported. Raises OpError with the path for other operators: `fnn.mpi.spread`
    (export the operator in it) and your own, unless a function with `@operator` builds them from ours. Raises
    OpError also for params that are not float32 (runtimes lack float64 convolutions), for an example of size 0, for
    params of 2 GiB, and, as `apply` does, for params and shapes that do not match. In the model, a negative integer for
    `embedding` counts from the end instead of being an error.

    If anything fails, the old file is unchanged, as with `save`. Needs the extra `onnx`.
    """
    path = check_regular(path, lambda message: OpError(message, "export"))
    check_operator(net, "export")
    shape = check_shape(shape, 1, "export")
    for name, leaf in tree_items(params):
        if isinstance(leaf, np.ndarray) and leaf.dtype != np.float32:
            fix = "use tree_map(np.float32, params)"
            raise OpError(f"params: expected float32 for {name!r}, got {describe(leaf)}; {fix}", "export")
    check_kinds(net)
    graph = Graph()
    y, out_shape = translate(graph, net, params, (), INPUT, shape)
    graph.nodes.append((OUTPUT, "Identity", (y,), {}))
    if (size := sum(tensor.nbytes for tensor in graph.tensors.values())) > MAX_BYTES:
        raise OpError(f"expected tensors of at most {MAX_BYTES} bytes (ONNX ends at 2 GiB), got {size}", "export")
    data = _encode(graph, net, shape, out_shape)
    with atomic_write(path) as file:
        file.write(data)


def _encode(graph: Graph, net: Op, shape: Shape, out_shape: Shape) -> bytes:
    """The model's bytes, after ONNX's own checks, which include the inference of all shapes."""
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError as error:
        raise ImportError("export: the package onnx is missing; run pip install '.[onnx]'") from error

    dtype = TensorProto.INT64 if net.integers else TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(kind, inputs, [name], name, **more) for name, kind, inputs, more in graph.nodes],
            net.kind,
            [helper.make_tensor_value_info(INPUT, dtype, ["batch", *shape])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", *out_shape])],
            [numpy_helper.from_array(tensor, name) for name, tensor in graph.tensors.items()],
        ),
        producer_name="fnn",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    data: bytes = model.SerializeToString()
    checker.check_model(data, full_check=True)
    return data
