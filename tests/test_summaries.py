"""`layers` and `summary`: shapes, parameters and multiply-adds of each part of a net, as data and as text."""

import re
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnn
from fnn import (
    Params,
    attention,
    batch_norm,
    conv,
    conv_transpose,
    dense,
    dropout,
    embedding,
    freeze,
    layer_norm,
    maxpool,
    named,
    parallel,
    relu,
    repeat,
    residual,
    serial,
    shard,
    shared,
    tanh,
    tree_map,
)
from fnn.combinators import positionwise
from fnn.init import he_normal
from fnn.op import Array, Op, OpError, Shape, operator
from fnn.summaries import WIDTH, Layer, layers, summary
from fnn.testing.table import TABLE
from fnn.testing.table import Example as Row
from tests.support.strategies import Example, both, convolutions, denses, nets

ROWS = [pytest.param(row, id=f"{name}-{i}") for name, rows in TABLE.items() for i, row in enumerate(rows)]


def numbers(net: Op, shape: Shape) -> dict[str, tuple[Shape, int | None, int | None]]:
    return {path: (output, size, count) for path, _, output, size, count in layers(net, shape)}


def counted(found: list[Layer]) -> list[tuple[int, int | None]]:
    return [(layer.parameters, layer.multiply_adds) for layer in found if layer.parameters is not None]


def identity(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
    return {}, dy


@operator
def scaled() -> Op:
    """A user's operator."""
    init = lambda key, shape: {"s": np.ones((), np.float32)}  # noqa: E731
    return Op(init, lambda params, x: (x * params["s"], lambda dy, need_dx=True: ({"s": (dy * x).sum()}, dy)))


def test_layers_of_serial_has_shapes_params_and_multiply_adds() -> None:
    net = serial(conv(6, 3, padding=1), maxpool(2), tanh, dense(10))
    assert layers(net, (1, 28, 28)) == [
        Layer("", "serial", (10,), None, None),
        Layer("conv1", "conv(6, 3, padding=1)", (6, 28, 28), 60, 28 * 28 * 6 * 9),
        Layer("maxpool1", "maxpool(2)", (6, 14, 14), 0, 0),
        Layer("tanh1", "tanh", (6, 14, 14), 0, 0),
        Layer("dense1", "dense(10)", (10,), 11_770, 11_760),
    ]


@pytest.mark.parametrize("row", ROWS)
def test_layers_counts_every_parameter_of_the_table_once(row: Row) -> None:
    params = row.op.init(0, row.shape)
    found = layers(row.op, row.shape, params)
    assert (found[0].path, found[0].shape) == ("", row.op.output_shape(params, row.shape))
    assert sum(size for size, _ in counted(found)) == fnn.tree_size(params)
    assert None not in [count for _, count in counted(found)]


@given(nets())
def test_layers_paths_are_those_of_the_params(example: Example) -> None:
    op, shape = example
    params = op.init(0, shape)
    for layer in layers(op, shape, params):
        here: Any = params
        for name in filter(None, layer.path.split("/")):
            here = here[name]
        assert layer.parameters in (None, fnn.tree_size(here))


def test_layers_of_parallel_parts_have_the_same_input() -> None:
    net = parallel(conv(4, 3, padding=1), conv(2, 1), join="concat")
    assert numbers(net, (3, 5, 5)) == {
        "": ((6, 5, 5), None, None),
        "conv1": ((4, 5, 5), 112, 25 * 4 * 27),
        "conv2": ((2, 5, 5), 8, 25 * 2 * 3),
    }


def test_layers_of_repeat_counts_each_part() -> None:
    assert numbers(repeat(residual(dense(4)), 2), (4,)) == {
        "": ((4,), None, None),
        "residual1": ((4,), None, None),
        "residual1/dense1": ((4,), 20, 16),
        "residual2": ((4,), None, None),
        "residual2/dense1": ((4,), 20, 16),
    }


def test_layers_of_shared_counts_params_once_and_multiply_adds_each_time() -> None:
    assert numbers(shared(dense(4), 3), (4,))["dense1"] == ((4,), 20, 3 * 16)
    shrinking = numbers(serial(shared(serial(conv(2, 3), relu), 2), shared(scaled(), 2)), (2, 8, 8))
    assert shrinking["shared1/serial1/conv1"] == ((2, 4, 4), 38, (6 * 6 + 4 * 4) * 36)
    assert shrinking["shared2/scaled1"] == ((2, 4, 4), 1, None)


def test_layers_of_positionwise_counts_each_position() -> None:
    assert numbers(serial(positionwise(positionwise(dense(2))), positionwise(dense(3))), (5, 4, 6)) == {
        "": ((5, 3), None, None),
        "dense1": ((5, 4, 2), 14, 5 * 4 * 12),
        "dense2": ((5, 3), 27, 5 * 24),
    }


def test_layers_of_wrappers_have_the_path_of_their_operator() -> None:
    net = serial(fnn.freeze(fnn.remat(conv(2, 1))), fnn.named("head", fnn.check_finite(serial(dense(3), tanh))))
    assert [layer[:2] for layer in layers(fnn.shard(net, workers=1), (1, 4, 4))] == [
        ("", "shard(serial)"),
        ("conv1", "freeze(remat(conv(2, 1)))"),
        ("head", "check_finite(serial)"),
        ("head/dense1", "dense(3)"),
        ("head/tanh1", "tanh"),
    ]


def test_layers_of_unknown_wrappers_have_no_multiply_adds() -> None:
    def halved(op: Op, apply: Callable[[Params, Array], Any]) -> Op:
        return Op(lambda key, shape: op.init(key, (2,)), apply, kind="halved", wraps=op)

    part = dense(3)
    refused = halved(part, lambda params, x: part.apply(params, x[:, :2]))
    assert layers(refused, (4,)) == [Layer("", "halved", (3,), 9, None)]
    summed = halved(part, lambda params, x: (x.sum(1), identity))
    assert layers(summed, (2,)) == [Layer("", "halved", (), 9, None)]


def test_layers_of_unknown_combinators_are_one_layer() -> None:
    op = dense(2)
    init = lambda key, shape: {"a": op.init(key, shape), "b": op.init(key, shape)}  # noqa: E731
    both_ways = Op(init, lambda params, x: op.apply(params["a"], x), kind="two", parts={"a": op, "b": op})
    assert layers(serial(both_ways, tanh), (3,))[1:] == [
        Layer("two1", "two", (2,), 16, None),
        Layer("tanh1", "tanh", (2,), 0, 0),
    ]


def test_layers_does_not_confuse_operators_of_equal_kind() -> None:
    kernel = Op(lambda key, shape: {"kernel": np.ones(3, np.float32)}, lambda params, x: (x, identity), kind="dense")
    assert layers(kernel, (3,)) == [Layer("", "dense", (3,), 3, None)]


def test_layers_of_random_nets_and_of_integers() -> None:
    net = serial(embedding(7, 4), batch_norm(), dropout(0.5), attention(2))
    assert numbers(net, (5,)) == {
        "": ((5, 4), None, None),
        "embedding1": ((5, 4), 28, 0),
        "batch_norm1": ((5, 4), 20, 0),
        "dropout1": ((5, 4), 0, 0),
        "attention1": ((5, 4), 80, 5 * 4 * 16 + 2 * 5 * 5 * 4),
    }


def test_layers_takes_params_of_another_dtype() -> None:
    net = serial(dense(3), tanh)
    params = tree_map(lambda p: p.astype(np.float64), net.init(0, (4,)))
    for leaf in fnn.tree_leaves(params):
        leaf.flags.writeable = False
    assert layers(net, (4,), params) == layers(net, (4,))


def test_layers_of_large_shapes_needs_no_memory() -> None:
    found = layers(conv(1, 3), (1, 1_000_000, 1_000_000))
    assert found == [Layer("", "conv(1, 3)", (1, 999_998, 999_998), 10, 9 * 999_998**2)]


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3,), r"^serial1/conv1: .*\(.*3,?\)"),
        ((1, 9), r"^serial1/conv1: .*1, 9\)"),
        (28, r"^serial: expected the shape of one example, .*, got 28; write \(28,\)$"),
        ((1, -28, 28), r"^serial: expected the shape of one example, .*, got \(1, -28, 28\)$"),
        ((1, 2.5, 28), r"^serial: expected the shape of one example, .*, got \(1, 2.5, 28\)$"),
    ],
)
def test_layers_refuses_bad_shapes_and_names_the_part(shape: Any, message: str, given: bool) -> None:
    net = serial(serial(conv(2, 3)), tanh)
    with pytest.raises(OpError) as raised:
        layers(net, shape, net.init(0, (1, 4, 4)) if given else None)
    assert re.search(message, str(raised.value))


def test_layers_refuses_params_of_another_net() -> None:
    with pytest.raises(OpError, match=r"^dense1: expected params 'w', 'b', got 'b'; 'w' is missing$"):
        layers(serial(dense(2)), (3,), {"dense1": {"b": np.zeros(2, np.float32)}})


# The counts against PyTorch's counter, which counts multiplications and additions apart.


def torch_count(run: Callable[[Any], object], *shapes: Shape) -> int:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run([torch.zeros(shape) for shape in shapes])
    flops: int = counter.get_total_flops()
    return flops // 2


def count_of(op: Op, shape: Shape, params: Params) -> int | None:
    [layer] = layers(op, shape, params)
    return layer.multiply_adds


@pytest.mark.slow
@given(denses())
def test_layers_counts_dense_as_torch(example: Example) -> None:
    op, shape = example
    params = op.init(0, shape)
    expected = torch_count(lambda t: t[0].reshape(1, -1) @ t[1], (1, *shape), params["w"].shape)
    assert count_of(op, shape, params) == expected


@given(convolutions())
def test_layers_counts_conv_as_torch(example: Example) -> None:
    op, (channels, height, width) = example
    config = op.config
    params = op.init(0, (channels, height, width))
    _, *pixels = op.output_shape(params, (channels, height, width))
    # An image that these windows cover exactly has as many output pixels, and needs no padding.
    sizes = zip(pixels, *(both(config[name]) for name in ("kernel_size", "stride", "dilation")), strict=True)
    reach = [(out - 1) * stride + (kernel - 1) * dilation + 1 for out, kernel, stride, dilation in sizes]

    def run(t: Any) -> object:
        torch = pytest.importorskip("torch")
        stride, dilation = both(config["stride"]), both(config["dilation"])
        return torch.nn.functional.conv2d(t[0], t[1], None, stride, 0, dilation, config["groups"])

    assert count_of(op, (channels, height, width), params) == torch_count(run, (1, channels, *reach), params["w"].shape)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_layers_counts_conv_transpose_as_torch(groups: int, ins: int, outs: int, kernel: int, stride: int) -> None:
    op, shape = conv_transpose(groups * outs, kernel, stride, groups=groups), (groups * ins, 4, 3)
    params = op.init(0, shape)

    def run(t: Any) -> object:
        torch = pytest.importorskip("torch")
        return torch.nn.functional.conv_transpose2d(*t, None, stride, 0, 0, groups)

    assert count_of(op, shape, params) == torch_count(run, (1, *shape), params["w"].shape)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.booleans())
def test_layers_counts_attention_as_torch(heads: int, size: int, time: int, causal: bool) -> None:
    op, shape = attention(heads, causal), (time, heads * size)

    def run(t: Any) -> object:
        x, w = t
        q, k, v = ((x @ w).reshape(time, heads, size).transpose(0, 1) for _ in "qkv")
        return ((q @ k.mT) @ v).transpose(0, 1).reshape(shape) @ w

    count = torch_count(run, shape, (heads * size, heads * size))
    assert count_of(op, shape, op.init(0, shape)) == count == 4 * prod(shape) * shape[1] + 2 * time * prod(shape)


def test_summary_text_of_a_small_net() -> None:
    net = shard(serial(conv(6, 3, padding=1), maxpool(2), tanh, dense(1000)), workers=1)
    assert summary(net, (1, 28, 28)) == "\n".join(
        [
            "path      operator               output       parameters  multiply-adds",
            "-----------------------------------------------------------------------",
            "input                            (1, 28, 28)",
            "conv1     conv(6, 3, padding=1)  (6, 28, 28)          60         42,336",
            "maxpool1  maxpool(2)             (6, 14, 14)           0              0",
            "tanh1     tanh                   (6, 14, 14)           0              0",
            "dense1    dense(1000)            (1000,)       1,177,000      1,176,000",
            "-----------------------------------------------------------------------",
            "total     shard(serial)          (1000,)       1,177,060      1,218,336",
        ]
    )


def test_summary_indents_parts_and_leaves_out_plain_chains() -> None:
    block = residual(serial(layer_norm(), attention(2)))
    net = serial(
        embedding(9, 4), repeat(block, 2), freeze(serial(positionwise(dense(3)), tanh)), named("end", serial(tanh))
    )
    lines = summary(net, (5,)).splitlines()
    assert [line[:25].rstrip() for line in lines[3:-2]] == [
        "embedding1",
        "repeat1",
        "  residual1",
        "    serial1/layer_norm1",
        "    serial1/attention1",
        "  residual2",
        "    serial1/layer_norm1",
        "    serial1/attention1",
        "serial1",
        "  dense1",
        "  tanh1",
        "end/tanh1",
    ]
    assert lines[4].split() == ["repeat1", "repeat(n=2)", "(5,", "4)"]
    assert "freeze(serial)" in lines[11]


def test_summary_totals_count_params_once_and_multiply_adds_each_time() -> None:
    net = serial(shared(dense(10), 100), dense(10))
    assert summary(net, (10,)).splitlines()[-1].split() == ["total", "serial", "(10,)", "220", "10,100"]


def test_summary_shows_unknown_counts_as_question_marks() -> None:
    init = lambda key, shape: {"s": np.ones(1, np.float32)}  # noqa: E731
    unknown = Op(init, lambda params, x: (x, lambda dy, need_dx=True: ({}, dy)), kind="mine")
    *_, mine, _, total = summary(serial(dense(1000), unknown), (2,)).splitlines()
    assert mine.split() == ["mine1", "mine", "(1000,)", "1", "?"]
    assert total.split("  ")[-1] == "at least 2,000"
    assert len({len(mine), len(total)}) == 1


def test_summary_shortens_long_calls() -> None:
    long = conv(16, (3, 3), stride=(2, 1), padding="same", dilation=(2, 3), groups=4, bias=False, w_init=he_normal)
    table = summary(serial(long, tanh), (4, 28, 28))
    assert max(map(len, table.splitlines())) == WIDTH
    assert "conv(16, (3, 3), stride=(2, 1), padding='same', " in table
    assert "..." in table


def test_summary_keeps_whole_paths_of_deep_nets() -> None:
    net = conv(2, (3, 3), padding=(1, 1), bias=False)
    for _ in range(40):
        net = residual(net)
    lines = summary(net, (2, 3, 3)).splitlines()
    assert lines[-3].startswith("  " * 39 + "conv1    conv(2, (3, 3), p...  (2, 3, 3)")


@pytest.mark.parametrize(("net", "name"), [(dense(3), "dense"), (serial(), "serial"), (shard(tanh, 1), "shard")])
def test_summary_of_one_operator_or_none(net: fnn.Op, name: str) -> None:
    first, total = (summary(net, (3,)).splitlines()[i].split() for i in (3, -1))
    assert first[:2] == [name, total[1]]
    assert total[-2:] == (["12", "9"] if name == "dense" else ["0", "0"])


def test_summary_is_ascii() -> None:
    assert summary(serial(dense(3), tanh), (4,)).isascii()


def test_summary_refuses_bad_shapes_as_init_does() -> None:
    with pytest.raises(OpError, match=r"^conv1: expected shape \(channels, height, width\), got \(3, 28\)$"):
        summary(serial(conv(6, 3), dense(10)), (3, 28))
