"""Exported nets have the same outputs in onnxruntime, and the names of their params."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnn
from fnn import (
    Op,
    OpError,
    Params,
    attention,
    avgpool,
    batch_norm,
    calibrate,
    check_finite,
    conv,
    conv_transpose,
    dense,
    dropout,
    elu,
    embedding,
    flatten,
    freeze,
    gelu,
    global_avgpool,
    group_norm,
    layer_norm,
    leaky_relu,
    log_softmax,
    maxpool,
    microbatch,
    named,
    operator,
    parallel,
    position_embedding,
    positionwise,
    relu,
    remat,
    repeat,
    reshape,
    residual,
    serial,
    shard,
    shared,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
    tree_items,
    tree_map,
)
from fnn.mpi import spread
from fnn.onnx import export
from fnn.onnx.model import KINDS
from fnn.op import Array, Shape
from fnn.testing.table import TABLE
from tests.support.programs import python
from tests.support.strategies import both, operators, seeds, sizes
from train import NETS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

BATCHES = (1, 7, 64)


def random_params(net: Op, shape: Shape, rng: np.random.Generator) -> Params:
    """Returns initial params plus noise: with zeros and ones, the test would not notice a missing param."""

    def add_noise(leaf: Array) -> Array:
        return (leaf + rng.uniform(0.01, 0.1, leaf.shape)).astype(leaf.dtype)  # variances stay positive

    return tree_map(add_noise, net.init(3, shape))  # type: ignore[no-any-return]


def random_batch(net: Op, n: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Returns random numbers, or integers from 0 to 4 for a net that starts with an embedding."""
    if net.integers:
        return rng.integers(0, 5, (n, *shape))
    return rng.standard_normal((n, *shape), np.float32)


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def assert_agrees(net: Op, shape: Shape, params: Params | None = None, batches: tuple[int, ...] = BATCHES) -> None:
    """Exports the net, runs it in onnxruntime and compares its outputs with those of the net itself."""
    rng = np.random.default_rng(7)
    params = random_params(net, shape, rng) if params is None else params
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        export(net, params, shape, path)
        model = session(path)
    for n in batches:
        x = random_batch(net, n, shape, rng)
        y, _ = net.apply(params, x)
        [actual] = model.run(["output"], {"input": x})
        assert actual.dtype == y.dtype == np.float32
        np.testing.assert_allclose(actual, y, rtol=1e-5, atol=1e-5)


def export_and_load(net: Op, shape: Shape, tmp_path: Path, params: Params | None = None) -> Any:
    """Exports the net and returns the model in the file."""
    export(net, net.init(0, shape) if params is None else params, shape, tmp_path / "net.onnx")
    return onnx.load(tmp_path / "net.onnx")


ROWS = [pytest.param(row.op, row.shape, id=f"{name}-{i}") for name, rows in TABLE.items() for i, row in enumerate(rows)]


@pytest.mark.parametrize(("net", "shape"), ROWS)
def test_export_of_each_operator_runs_the_same_in_onnxruntime(net: Op, shape: Shape) -> None:
    assert_agrees(net, shape)


IMAGE = (1, 28, 28)
CNN = NETS["cnn"]


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_export_of_the_nets_of_train_runs_the_same(net: Op) -> None:
    assert_agrees(net, IMAGE)
    assert_agrees(shard(net, workers=2, size=8), IMAGE, batches=(7,))


TRANSFORMER = serial(
    embedding(5, 8),
    position_embedding(),
    repeat(
        serial(
            residual(serial(layer_norm(), attention(2, causal=True), dropout(0.1))),
            residual(serial(layer_norm(), positionwise(serial(dense(16), gelu, dense(8))))),
        ),
        2,
    ),
    layer_norm(),
    positionwise(dense(5)),
    log_softmax,
)
RESNET = serial(
    *(conv(8, 3, padding="same", bias=False), batch_norm(), silu),
    residual(serial(conv(8, 3, padding=1), group_norm(2), leaky_relu(0.1), conv(8, 1))),
    parallel(conv(4, (1, 3), padding=(0, 1)), serial(avgpool(3, stride=1, padding=1), conv(4, 1)), join="concat"),
    parallel(maxpool(2), avgpool(2), conv(8, 2, stride=2)),
    conv_transpose(4, 3, stride=2, padding=1, output_padding=1, groups=2),
    *(elu(0.5), global_avgpool, softplus, dense(3), softmax),
)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (TRANSFORMER, (6,)),
        (RESNET, (3, 8, 9)),
        (relu, ()),
        (flatten, ()),
        (dense(3), ()),
        (reshape(), (1, 1)),
        (reshape(2, 1, -1), (3, 4)),
        (group_norm(2), (4,)),
        (group_norm(2), (4, 3)),
        (batch_norm(0.5), (4,)),
        (layer_norm(3), (2, 3, 4)),
        (attention(4), (1, 4)),
        (positionwise(conv(2, 3, padding=1)), (3, 1, 4, 5)),
        (positionwise(positionwise(dense(2))), (3, 2, 4)),
        (positionwise(flatten), (3,)),
        (parallel(dense(2)), (3,)),
        (parallel(tanh, dropout(0.5), relu), (3,)),
        (parallel(flatten, join="concat"), (3, 2)),
        (serial(parallel(embedding(5, 3), embedding(9, 3)), flatten), (2, 2)),
        (shared(conv(1, 2), 3), (1, 6, 7)),
        (shared(serial(group_norm(2), flatten), 2), (4, 1, 1)),
        (shared(serial(group_norm(1), conv(2, 2)), 3), (2, 5, 6)),
        (serial(remat(check_finite(freeze(microbatch(dense(3), 2)))), dropout(0.9)), (4,)),
    ],
    ids=repr,
)
def test_export_of_other_nets_runs_the_same(net: Op, shape: Shape) -> None:
    assert_agrees(net, shape)


@given(operators, seeds)
def test_export_of_any_operator_runs_the_same(example: tuple[Op, Shape], seed: int) -> None:
    net, shape = example
    assert_agrees(net, shape, net.init(seed, shape), batches=(3,))


@st.composite
def conv_transposes(draw: st.DrawFn) -> tuple[Op, Shape]:
    """Draws any transposed convolution."""
    groups, kernel, stride, dilation = draw(st.integers(1, 2)), draw(sizes(1, 4)), draw(sizes(1, 4)), draw(sizes(1, 4))
    limits = [max(pair) - 1 for pair in zip(both(stride), both(dilation), strict=True)]
    output_padding = tuple(draw(st.integers(0, n)) for n in limits)
    spans = [(k - 1) * d + 1 + e for k, d, e in zip(both(kernel), both(dilation), output_padding, strict=True)]
    padding = tuple(draw(st.integers(0, min(3, (span - 1) // 2))) for span in spans)
    op = conv_transpose(2 * groups, kernel, stride, padding, output_padding, dilation, groups, bias=draw(st.booleans()))
    return op, (groups * draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))


@given(conv_transposes())
def test_export_of_any_conv_transpose_runs_the_same(example: tuple[Op, Shape]) -> None:
    assert_agrees(*example, batches=(3,))


@pytest.mark.parametrize("activation", [relu, tanh, sigmoid, silu, gelu, softplus, elu(), elu(-2.0), leaky_relu(2)])
def test_export_of_activations_runs_the_same_for_extreme_inputs(activation: Op, tmp_path: Path) -> None:
    x = np.array([[0, -0.0, 1e-8, 9, -9, 17, -17, 30, -30, 88, -88, 1e4, -1e4, 1e20, -1e20]], np.float32)
    export(activation, {}, x.shape[1:], tmp_path / "net.onnx")
    [actual] = session(tmp_path / "net.onnx").run(None, {"input": x})
    np.testing.assert_allclose(actual, activation.apply({}, x)[0], rtol=1e-5, atol=1e-5)


def test_export_of_position_embedding_takes_shorter_sequences() -> None:
    assert_agrees(position_embedding(), (5, 4), position_embedding().init(0, (9, 4)))


def test_export_of_batch_norm_uses_calibrated_statistics() -> None:
    net = serial(conv(4, 3), batch_norm(), relu, dense(2))
    rng = np.random.default_rng(0)
    batches = [(3 * rng.standard_normal((8, 1, 6, 6)) + 2).astype(np.float32) for _ in range(3)]
    assert_agrees(net, (1, 6, 6), calibrate(net, random_params(net, (1, 6, 6), rng), batches))


def test_export_takes_an_empty_batch() -> None:
    for net, shape in [(CNN, IMAGE), (TRANSFORMER, (6,)), (RESNET, (3, 8, 9))]:
        assert_agrees(net, shape, batches=(0,))


def test_export_supports_every_public_operator() -> None:
    assert set(TABLE) <= set(fnn.__all__)  # tests/test_operators.py checks that all public operators are in the table
    assert set(KINDS) == set(TABLE), "the docstring of export says that it supports them all"


def test_export_names_nodes_and_tensors_by_path(tmp_path: Path) -> None:
    net = serial(conv(2, 3), tanh, named("head", serial(dense(3), residual(dense(3)))))
    params = net.init(0, (1, 5, 5))
    graph = export_and_load(net, (1, 5, 5), tmp_path).graph
    assert [node.name for node in graph.node] == [
        *("conv1", "tanh1", "head/dense1/flatten", "head/dense1", "head/residual1/dense1", "head/residual1", "output")
    ]
    assert all(list(node.output) == [node.name] for node in graph.node)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert list(tensors) == [path for path, _ in tree_items(params)]
    for path, leaf in tree_items(params):
        np.testing.assert_array_equal(tensors[path], leaf)


def test_export_contains_every_param_once_under_its_path(tmp_path: Path) -> None:
    for net, shape in [(TRANSFORMER, (6,)), (RESNET, (3, 8, 9))]:
        names = [tensor.name for tensor in export_and_load(net, shape, tmp_path).graph.initializer]
        assert {path for path, _ in tree_items(net.init(0, shape))} <= set(names)
        assert len(set(names)) == len(names)


def test_export_contains_shared_params_once(tmp_path: Path) -> None:
    net = shared(serial(dense(4), gelu), 3)
    graph = export_and_load(net, (4,), tmp_path).graph
    constants = {f"serial1/gelu1/{name}" for name in ("c", "one", "half", "scale")}
    assert {tensor.name for tensor in graph.initializer} == {"serial1/dense1/w", "serial1/dense1/b"} | constants
    assert [node.name for node in graph.node if node.op_type == "Gemm"] == [
        *("serial1/dense1", "serial1/dense1_2", "serial1/dense1_3")
    ]


def test_export_contains_one_causal_mask_for_all_layers(tmp_path: Path) -> None:
    names = [tensor.name for tensor in export_and_load(TRANSFORMER, (6,), tmp_path).graph.initializer]
    assert [name for name in names if "mask" in name] == ["causal_mask"]


def test_export_numbers_names_that_clash() -> None:
    net = serial(named("output", dense(4)), named("input", dense(4)), named("w", relu), named("input_2", dense(2)))
    assert_agrees(net, (3,))


def test_export_writes_opset_13_ir_8_and_a_symbolic_batch(tmp_path: Path) -> None:
    model = export_and_load(CNN, IMAGE, tmp_path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 13)]
    [x], [y] = model.graph.input, model.graph.output
    assert (x.name, y.name) == ("input", "output")
    for value, shape in (x, (1, 28, 28)), (y, (10,)):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        batch, *sizes = value.type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert tuple(dim.dim_value for dim in sizes) == shape


def test_export_declares_integer_inputs_as_int64(tmp_path: Path) -> None:
    [x] = export_and_load(TRANSFORMER, (6,), tmp_path).graph.input
    assert x.type.tensor_type.elem_type == onnx.TensorProto.INT64


def test_export_writes_the_same_bytes_twice_and_changes_no_params(tmp_path: Path) -> None:
    params = RESNET.init(0, (3, 8, 9))
    for _, leaf in tree_items(params):
        leaf.flags.writeable = False
    export(RESNET, params, (3, 8, 9), tmp_path / "a.onnx")
    export(RESNET, params, (3, 8, 9), str(tmp_path / "b.onnx"))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def foreign_op(kind: str) -> Op:
    """Returns an operator that the library does not define."""
    return Op(lambda key, shape: {}, lambda params, x: (2 * x, lambda dy, need_dx=True: ({}, 2 * dy)), kind=kind)


def foreign_ops_with_library_names() -> list[Op]:
    """Returns operators with names of the library's operators that compute something else."""

    def leaky_relu(slope: float = 0.01) -> Op:
        return foreign_op("leaky_relu")

    return [foreign_op("tanh"), operator(leaky_relu)()]


@operator
def block(features: int, last: Op = relu) -> Op:
    """A user-defined block of library operators."""
    return serial(dense(features), last)


def blocks_with_library_names() -> list[Op]:
    """Returns user-defined blocks with names of library operators."""

    def dense(features: int) -> Op:
        return fnn.dense(features, bias=False)

    def layer_norm(axes: int = 1) -> Op:
        return serial(fnn.layer_norm())

    def elu(alpha: float = 1.0) -> Op:
        return fnn.elu(2 * alpha)

    return [operator(dense)(4), operator(layer_norm)(), operator(elu)()]


@pytest.mark.parametrize("op", [block(4), block(4, block(4)), *blocks_with_library_names()], ids=repr)
def test_export_of_a_users_block_runs_the_same_in_onnxruntime(op: Op) -> None:
    assert_agrees(serial(dense(4), residual(serial(named("own", op)))), (4,))


@pytest.mark.parametrize("op", [foreign_op("scale"), *foreign_ops_with_library_names()], ids=lambda op: op.kind)
def test_export_refuses_other_operators_and_names_their_path(op: Op, tmp_path: Path) -> None:
    net = serial(dense(4), residual(serial(named("own", op))))
    with pytest.raises(OpError) as raised:
        export(net, net.init(0, (4,)), (4,), tmp_path / "net.onnx")
    message = f"expected an operator of fnn.__all__, got another one of kind {op.kind!r}"
    assert str(raised.value) == f"residual1/serial1/own: {message}"
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_a_foreign_operator_inside_a_block(tmp_path: Path) -> None:
    net = serial(block(4, foreign_op("relu")))
    with pytest.raises(OpError, match=r"^block1/relu1: expected an operator of fnn\.__all__, got another"):
        export(net, net.init(0, (4,)), (4,), tmp_path / "net.onnx")


def test_export_refuses_foreign_operators_and_other_objects(tmp_path: Path) -> None:
    for op in foreign_op("scale"), spread(dense(2)):
        with pytest.raises(
            OpError, match=rf"^{op.kind}: expected an operator of fnn.__all__, got another one of kind '{op.kind}'"
        ):
            export(op, op.init(0, (4,)), (4,), tmp_path / "net.onnx")
    for net, description in (dense, "the function dense"), (None, "None"):
        with pytest.raises(OpError, match=f"^export: expected an operator, got {description}"):
            export(net, {}, (4,), tmp_path / "net.onnx")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(0,), (4, 0), (-1,), [4], 4, (4.0,), (True,), None])
def test_export_refuses_bad_shapes(shape: Any, tmp_path: Path) -> None:
    with pytest.raises(OpError, match=r"^export: expected the shape of one example, a tuple of ints of at least 1"):
        export(dense(2), dense(2).init(0, (4,)), shape, tmp_path / "net.onnx")


def test_export_raises_the_errors_of_apply_for_wrong_params_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    params = CNN.init(0, IMAGE)
    with pytest.raises(OpError, match=r"^conv1: expected 1 input channels, got 3$"):
        export(CNN, params, (3, 28, 28), path)
    with pytest.raises(OpError, match=r"^dense1: expected \d+ input features, got 768 \(12 \* 8 \* 8\)$"):
        export(CNN, params, (1, 32, 32), path)
    with pytest.raises(OpError, match=r"^serial: expected params 'conv1', .*'maxpool1'.* are missing$"):
        export(CNN, {name: params[name] for name in ("conv1", "conv2")}, IMAGE, path)
    with pytest.raises(OpError, match=r"^conv1: w: expected an array of floats, got a NoneType$"):
        export(CNN, params | {"conv1": {"w": None, "b": None}}, IMAGE, path)
    with pytest.raises(OpError, match=r"^serial: expected params as a dict of 'conv1', .*, got a NoneType$"):
        export(CNN, None, IMAGE, path)  # type: ignore[arg-type]
    assert not path.exists()


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, ">f4"])
def test_export_refuses_other_dtypes_and_says_what_to_do(dtype: str, tmp_path: Path) -> None:
    net = serial(dense(3), tanh)
    params = tree_map(lambda leaf: leaf.astype(dtype), net.init(0, (4,)))
    with pytest.raises(
        OpError, match=r"^export: params: expected float32 for 'dense1/w', got .* \(4, 3\); use tree_map"
    ):
        export(net, params, (4,), tmp_path / "net.onnx")
    export(net, tree_map(np.float32, params), (4,), tmp_path / "net.onnx")


@pytest.mark.slow
def test_export_refuses_params_larger_than_a_file_can_hold(tmp_path: Path) -> None:
    rows = np.broadcast_to(np.float32(0), (1 << 20, 1 << 9))  # 2 GiB for a file, 4 bytes in memory
    with pytest.raises(OpError, match=r"^export: expected tensors of at most .* 2 GiB\), got 2147483648"):
        export(embedding(1 << 20, 1 << 9), {"w": rows}, (4,), tmp_path / "net.onnx")


def test_export_keeps_the_old_file_if_the_check_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: bytes, full_check: bool) -> None:
        raise onnx.checker.ValidationError(f"no, full_check={full_check}")

    path, params = tmp_path / "net.onnx", CNN.init(0, IMAGE)
    export(CNN, params, IMAGE, path)
    before = path.read_bytes()
    monkeypatch.setattr(onnx.checker, "check_model", fail)
    with pytest.raises(onnx.checker.ValidationError, match="no, full_check=True"):
        export(CNN, params, IMAGE, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_export_refuses_bad_paths_and_names_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        export(tanh, {}, (4,), tmp_path / "missing" / "net.onnx")
    with pytest.raises(ValueError, match="expected a regular file"):
        export(tanh, {}, (4,), tmp_path)
    with pytest.raises(OpError, match=r"^export: path: expected a str or .*, got an int"):
        export(tanh, {}, (4,), 3)  # type: ignore[arg-type]


def test_export_without_onnx_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"^export: the package onnx is missing; run pip install '.\[onnx\]'"):
        export(tanh, {}, (4,), tmp_path / "net.onnx")


def test_import_of_fnn_onnx_does_not_import_onnx() -> None:
    code = "import sys, fnn, fnn.onnx; sys.exit('onnx' in sys.modules or 'google.protobuf' in sys.modules)"
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
