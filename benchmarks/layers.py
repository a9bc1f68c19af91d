"""40 single layers of such nets, forward and vjp, and cases whose memory is measured."""

from benchmarks.workloads import Shape, Workload
from fnn import (
    Op,
    attention,
    avgpool,
    batch_norm,
    conv,
    conv_transpose,
    dense,
    dropout,
    embedding,
    gelu,
    global_avgpool,
    group_norm,
    layer_norm,
    maxpool,
    relu,
    serial,
    sigmoid,
    silu,
    softmax,
    tanh,
)

WIDE = (64, 28, 28)
SEQUENCE = (64, 128)
SYMBOLS = 1000


def layer(name: str, op: Op, shape: Shape, batch: int, symbols: int = 0) -> Workload:
    """Forward and vjp of a layer."""
    return Workload(name, op, shape, batch, "vjp", "", symbols=symbols)


LAYERS = (
    layer("conv-3x3-1-6", conv(6, 3, padding=1), (1, 28, 28), 100),
    layer("conv-3x3-3-32", conv(32, 3, padding=1), (3, 32, 32), 32),
    layer("conv-3x3-16-16", conv(16, 3, padding=1), (16, 32, 32), 32),
    layer("conv-3x3-32-64", conv(64, 3, padding=1), (32, 14, 14), 100),
    layer("conv-3x3-64-64", conv(64, 3, padding=1), WIDE, 8),
    layer("conv-3x3-128-128", conv(128, 3, padding=1), (128, 14, 14), 8),
    layer("conv-3x3-256-256", conv(256, 3, padding=1), (256, 7, 7), 8),
    layer("conv-5x5-6-16", conv(16, 5), (6, 14, 14), 64),
    layer("conv-3x3-stride-2", conv(64, 3, stride=2, padding=1), (32, 32, 32), 16),
    layer("conv-7x7-stride-2-rgb", conv(32, 7, stride=2, padding=3), (3, 64, 64), 8),
    layer("conv-4x4-stride-4-rgb", conv(64, 4, stride=4), (3, 64, 64), 16),
    layer("conv-16x16-stride-16-rgb", conv(64, 16, stride=16), (3, 224, 224), 4),
    layer("conv-1x1", conv(64, 1), WIDE, 16),
    layer("conv-1x1-stride-2", conv(128, 1, stride=2), WIDE, 16),
    layer("conv-3x3-dilation-2", conv(32, 3, padding=2, dilation=2), (32, 28, 28), 16),
    layer("conv-depthwise", conv(64, 3, padding=1, groups=64), WIDE, 16),
    layer("conv-grouped", conv(64, 3, padding=1, groups=4), WIDE, 16),
    layer("conv-transpose-k4-s2", conv_transpose(16, 4, stride=2, padding=1), (32, 14, 14), 16),
    layer("conv-transpose-k2-s2", conv_transpose(16, 2, stride=2), (32, 16, 16), 16),
    layer("conv-transpose-k16-s8", conv_transpose(16, 16, stride=8, padding=4), (32, 14, 14), 16),
    layer("dense-16-32", dense(32), (16,), 32),
    layer("dense-784-512", dense(512), (784,), 100),
    layer("dense-1024-1024", dense(1024), (1024,), 256),
    layer("batch-norm", batch_norm(), WIDE, 16),
    layer("layer-norm", layer_norm(), SEQUENCE, 32),
    layer("group-norm", group_norm(8), WIDE, 8),
    layer("maxpool-2-2", maxpool(2), WIDE, 16),
    layer("maxpool-3-2", maxpool(3, stride=2, padding=1), WIDE, 16),
    layer("avgpool-2-2", avgpool(2), WIDE, 16),
    layer("global-avgpool", global_avgpool, WIDE, 16),
    layer("relu", relu, WIDE, 16),
    layer("silu", silu, WIDE, 16),
    layer("gelu", gelu, (64, 256), 32),
    layer("tanh", tanh, (512,), 256),
    layer("sigmoid", sigmoid, (512,), 256),
    layer("softmax", softmax, SEQUENCE, 32),
    layer("embedding", embedding(SYMBOLS, 128), (64,), 32, symbols=SYMBOLS),
    layer("attention", attention(4), SEQUENCE, 16),
    layer("dropout", dropout(0.5), WIDE, 16),
    Workload("cross-entropy", serial(), (SYMBOLS,), 256, "vjp"),
)
"""The layers of `--layers`. In the names: kernel, input and output channels."""

STRIDED = (
    layer("memory-conv-16x16-stride-16", conv(64, 16, stride=16), (16, 224, 224), 4),
    layer("memory-conv-7x7-stride-2-rgb", conv(64, 7, stride=2, padding=3), (3, 224, 224), 8),
    layer("memory-conv-3x3-64-64", conv(64, 3, padding=1), (64, 112, 112), 8),
    layer("memory-conv-transpose-k64-s32", conv_transpose(21, 64, stride=32, padding=16), (21, 8, 8), 1),
    layer("memory-conv-transpose-k4-s2", conv_transpose(32, 4, stride=2, padding=1), (64, 56, 56), 8),
    layer("memory-maxpool-3-2", maxpool(3, stride=2, padding=1), (64, 112, 112), 8),
    layer("memory-group-norm", group_norm(8), (64, 112, 112), 8),
)
"""Strided and large layers whose memory is measured."""
