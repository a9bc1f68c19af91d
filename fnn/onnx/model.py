"""`export`: a net and its params as an ONNX file."""

import os

import numpy as np

from fnn.checks.errors import describe
from fnn.checks.values import check_shape
from fnn.files.disk import atomic_write, check_regular
from fnn.onnx.kinds import check_kinds, translated
from fnn.onnx.place import INPUT, OUTPUT, Graph
from fnn.op import Op, OpError, Params, Shape, check_operator
from fnn.tree import tree_items

OPSET, IR_VERSION = 13, 8
MOST_BYTES = (1 << 31) - (1 << 24)
"""What tensors may have of the 2 GiB that the format can hold; all else needs far less than the rest."""


def export(net: Op, params: Params, shape: Shape, path: str | os.PathLike[str]) -> None:
    """Writes `net` with `params`, for inputs of `shape` (one example's), to the file `path` as an ONNX model.

    The model takes "input", (batch, *shape), to "output", for a batch of any size, in float32; a net that takes
    integers has them as int64. Its nodes and tensors are named by our paths: `conv1`, `conv1/w`. It predicts, as
    `net.apply(params, x)` without a key does: dropout is the identity, and batch_norm goes by the statistics in params.
    Calibrate these first. What is about training or the machine, such as `freeze` and `shard`, is left out. Opset 13,
    IR version 8.

    Every operator of `fnn.__all__` can be exported. What cannot is an OpError that says where: `fnn.mpi.spread`, in
    whose place to export what is in it; an operator of your own, also one that a function of yours with `@operator`
    makes out of the library's; params of another dtype, as runtimes lack convolutions and more in float64; an example
    without numbers; params of 2 GiB. So are params and a shape that do not fit, as `apply` has it. A negative integer,
    which `embedding` refuses, counts from the end in the model.

    Whatever fails, the file is the old one or the new one, whole, as with `save`. Needs the extra `onnx`.
    """
    try:
        path = check_regular(path)
    except ValueError as error:
        raise _refused(str(error)) from None
    check_operator(net, "export")
    shape = check_shape(shape, 1, "export")
    _check(params)
    check_kinds(net)
    graph = Graph()
    y, out = translated(graph, net, params, (), INPUT, shape)
    graph.result(y)
    if (size := sum(tensor.nbytes for tensor in graph.tensors.values())) > MOST_BYTES:
        raise _refused(f"tensors have {size} bytes, wanted at most {MOST_BYTES}: ONNX's format ends at 2 GiB")
    data = _model(graph, net, shape, out)
    with atomic_write(path) as file:
        file.write(data)


def _check(params: Params) -> None:
    """Raises the OpError for what `apply` would take and a model cannot have."""
    for where, leaf in tree_items(params):
        if isinstance(leaf, np.ndarray) and leaf.dtype != np.float32:
            raise _refused(f"params hold {describe(leaf)} as {where!r}, wanted float32: tree_map(np.float32, params)")


def _refused(message: str) -> OpError:
    return OpError(message, "export")


def _model(graph: Graph, net: Op, shape: Shape, out: Shape) -> bytes:
    """The model's bytes, which have passed ONNX's own checks: inference of all shapes among them."""
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError as error:
        raise ImportError("export needs onnx: install fnn[onnx]") from error

    number = TensorProto.INT64 if net.integers else TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(kind, inputs, [name], name, **more) for name, kind, inputs, more in graph.nodes],
            net.kind,
            [helper.make_tensor_value_info(INPUT, number, ["batch", *shape])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", *out])],
            [numpy_helper.from_array(tensor, name) for name, tensor in graph.tensors.items()],
        ),
        producer_name="fnn",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    data: bytes = model.SerializeToString()
    checker.check_model(data, full_check=True)
    return data
