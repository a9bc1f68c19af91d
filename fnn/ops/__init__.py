"""The operators, one file per family. They do not import each other."""

from fnn.combinators import positionwise
from fnn.ops.activations import elu, gelu, leaky_relu, relu, sigmoid, silu, softplus, tanh
from fnn.ops.convolution import conv
from fnn.ops.embeddings import embedding, position_embedding
from fnn.ops.linear import dense
from fnn.ops.multihead import attention
from fnn.ops.noise import dropout
from fnn.ops.normalisation import batch_norm, calibrate, group_norm, layer_norm
from fnn.ops.pooling import avgpool, global_avgpool, maxpool
from fnn.ops.shapes import flatten, reshape
from fnn.ops.softmaxes import log_softmax, softmax
from fnn.ops.transposed_convolution import conv_transpose

__all__ = ["attention", "avgpool", "batch_norm", "calibrate", "conv", "conv_transpose", "dense", "dropout", "elu"]
__all__ += ["embedding", "flatten", "gelu", "global_avgpool", "group_norm", "layer_norm", "leaky_relu", "log_softmax"]
__all__ += ["maxpool", "position_embedding", "positionwise", "relu", "reshape", "sigmoid", "silu", "softmax"]
__all__ += ["softplus", "tanh"]
