"""Eight kinds of nets, of sizes that people train on a laptop: training steps with Adam, and forward passes."""

from benchmarks.workloads import CNN, IMAGE, Shape, Workload
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
    layer_norm,
    maxpool,
    parallel,
    position_embedding,
    positionwise,
    relu,
    repeat,
    reshape,
    residual,
    serial,
    sigmoid,
    tanh,
)

PHOTO = (3, 32, 32)


def conv_bn(channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> Op:
    """A convolution that keeps the size up to its stride, and batch norm."""
    return serial(conv(channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False), batch_norm())


def basic_block(channels: int) -> Op:
    """A residual block. He et al., "Deep residual learning for image recognition", 2016."""
    return serial(residual(serial(conv_bn(channels, 3), relu, conv_bn(channels, 3))), relu)


def separable(channels: int, out_channels: int, stride: int = 1) -> Op:
    """A depthwise and a 1 x 1 convolution. Howard et al., "MobileNets", 2017."""
    return serial(conv_bn(channels, 3, stride, channels), relu, conv_bn(out_channels, 1), relu)


def two_convs(channels: int) -> Op:
    """Two convolutions with relu."""
    return serial(conv(channels, 3, padding=1), relu, conv(channels, 3, padding=1), relu)


def u_shape(channels: int, inner: Op) -> Op:
    """`inner` at half the size, beside a shortcut. Ronneberger et al., "U-Net", 2015."""
    lower = serial(maxpool(2), inner, conv_transpose(channels, 2, stride=2), relu)
    return serial(two_convs(channels), parallel(serial(), lower, join="concat"), two_convs(channels))


def upscale(channels: int) -> Op:
    """A transposed convolution to twice the size, without bias. Radford et al., "DCGAN", 2016."""
    return conv_transpose(channels, 4, stride=2, padding=1, bias=False)


def transformer_block(features: int, heads: int) -> Op:
    """Causal attention, then a small net for each position."""
    mlp = positionwise(serial(dense(4 * features), gelu, dense(features)))
    attend = serial(layer_norm(), attention(heads, causal=True))
    return serial(residual(attend), residual(serial(layer_norm(), mlp)))


RESIDUAL = serial(
    *(conv_bn(16, 3), relu, basic_block(16)),
    *(conv_bn(32, 3, stride=2), relu, basic_block(32)),
    *(conv_bn(64, 3, stride=2), relu, basic_block(64)),
    *(global_avgpool, dense(10)),
)
SEPARABLE = serial(
    *(conv_bn(16, 3), relu, separable(16, 32), separable(32, 64, stride=2), separable(64, 64)),
    *(separable(64, 128, stride=2), separable(128, 128), global_avgpool, dense(10)),
)
UNET = serial(u_shape(16, u_shape(32, two_convs(64))), conv(1, 1))
GENERATOR = serial(
    *(dense(64 * 8 * 8, bias=False), reshape(64, 8, 8), batch_norm(), relu),
    *(upscale(32), batch_norm(), relu, upscale(16), batch_norm(), relu, conv(3, 3, padding=1), tanh),
)
SYMBOLS = 64
TRANSFORMER = serial(
    *(embedding(SYMBOLS, 64), position_embedding(), repeat(transformer_block(64, 4), 2)),
    *(layer_norm(), positionwise(dense(SYMBOLS))),
)
TABULAR = serial(repeat(serial(dense(256), batch_norm(), relu, dropout(0.2)), 3), dense(10))
VGG = serial(two_convs(32), maxpool(2), two_convs(64), maxpool(2), dense(128), relu, dense(10))
LENET5 = serial(
    *(conv(6, 5, padding=2), sigmoid, avgpool(2), conv(16, 5), sigmoid, avgpool(2)),
    *(dense(120), sigmoid, dense(84), sigmoid, dense(10)),
)


def training(name: str, net: Op, shape: Shape, batch: int, loss: str = "cross_entropy", symbols: int = 0) -> Workload:
    """Training steps with Adam."""
    return Workload(name, net, shape, batch, "train", loss, "adam", symbols)


TRAINING = (
    training("residual", RESIDUAL, PHOTO, 32),
    training("separable", SEPARABLE, PHOTO, 32),
    training("unet", UNET, (1, 64, 64), 8, "binary_cross_entropy"),
    training("generator", GENERATOR, (64,), 32, "mse"),
    training("transformer", TRANSFORMER, (64,), 16, symbols=SYMBOLS),
    training("tabular", TABULAR, (64,), 256),
    training("vgg", VGG, PHOTO, 32),
    training("lenet5", LENET5, IMAGE, 64),
)
"""The training steps of `--nets`."""

PREDICTING = (
    *(Workload(f"cnn-infer-{n}", CNN, IMAGE, n, "predict") for n in (1, 32, 256)),
    *(Workload(f"residual-infer-{n}", RESIDUAL, PHOTO, n, "predict") for n in (1, 32)),
    Workload("transformer-infer-1", TRANSFORMER, (64,), 1, "predict", symbols=SYMBOLS),
)
"""The forward passes of `--nets`."""
