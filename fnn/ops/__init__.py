"""The operators, one file a family; none knows of another."""

from fnn.ops.activations import elu, gelu, leaky_relu, log_softmax, relu, sigmoid, silu, softmax, softplus, tanh
from fnn.ops.attention import attention
from fnn.ops.batch_norm import batch_norm, calibrate
from fnn.ops.conv import conv
from fnn.ops.conv_transpose import conv_transpose
from fnn.ops.dense import dense
from fnn.ops.dropout import dropout
from fnn.ops.embedding import embedding, position_embedding
from fnn.ops.global_avgpool import global_avgpool
from fnn.ops.normalisation import group_norm, layer_norm
from fnn.ops.pool import avgpool, maxpool
from fnn.ops.positionwise import positionwise
from fnn.ops.shape import flatten, reshape

__all__ = [
    "attention",
    "avgpool",
    "batch_norm",
    "calibrate",
    "conv",
    "conv_transpose",
    "dense",
    "dropout",
    "elu",
    "embedding",
    "flatten",
    "gelu",
    "global_avgpool",
    "group_norm",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "maxpool",
    "position_embedding",
    "positionwise",
    "relu",
    "reshape",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]
