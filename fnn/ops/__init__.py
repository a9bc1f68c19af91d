"""The operators, one file a family; none knows of another."""

from fnn.ops.activations import log_softmax, relu, sigmoid, softmax, tanh
from fnn.ops.conv import conv
from fnn.ops.dense import dense
from fnn.ops.pool import avgpool, maxpool
from fnn.ops.shape import flatten

__all__ = [
    "avgpool",
    "conv",
    "dense",
    "flatten",
    "log_softmax",
    "maxpool",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]
