"""Neural networks as pure functions on NumPy arrays.

An operator is a pair of pure functions, `init(rng, shape) -> params` and `apply(params, x) -> (y, vjp)`. A model is an
operator made of operators. Training applies a pure function to one batch after another.
"""

from fnn.chain import serial
from fnn.checks.arrays import Array
from fnn.checks.errors import OpError
from fnn.checks.results import UncalibratedWarning
from fnn.combinators import named, parallel, positionwise, repeat, residual, shared
from fnn.files.checkpoint import CheckpointError, load, save
from fnn.grad import value_and_grad
from fnn.inspection.text import parse_net
from fnn.kernels.process import keep_pages as _keep_pages
from fnn.kernels.reductions import accurate_mean, accurate_sum
from fnn.kernels.threads import cores
from fnn.losses import LossError, binary_cross_entropy, cross_entropy, huber, mse, smoothed_cross_entropy
from fnn.op import Op, Params, operator
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
from fnn.optim.adaptive import adagrad, adam, adamw, rmsprop
from fnn.optim.descent import Optimizer, sgd
from fnn.optim.schedules import constant, cosine, exponential, linear, one_cycle, piecewise, warmup
from fnn.optim.wrappers import average, averaged, clip_by_global_norm, frozen, masked
from fnn.random import Key
from fnn.summaries import summary
from fnn.torch.weights import from_torch, to_torch
from fnn.transforms import check_finite, finite, freeze, microbatch, per_example, remat, shard
from fnn.tree import TreeError, tree_items, tree_leaves, tree_map, tree_size, tree_sum

__version__ = "0.1.0"

__all__ = ["Array", "CheckpointError", "Key", "LossError", "Op", "OpError", "Optimizer", "Params", "TreeError"]
__all__ += ["UncalibratedWarning", "accurate_mean", "accurate_sum", "adagrad", "adam", "adamw", "attention"]
__all__ += ["average", "averaged", "avgpool", "batch_norm", "binary_cross_entropy", "calibrate", "check_finite"]
__all__ += ["clip_by_global_norm", "constant", "conv", "conv_transpose", "cores", "cosine", "cross_entropy", "dense"]
__all__ += ["dropout", "elu", "embedding", "exponential", "finite", "flatten", "freeze", "from_torch", "frozen", "gelu"]
__all__ += ["global_avgpool", "group_norm", "huber", "layer_norm", "leaky_relu", "linear", "load", "log_softmax"]
__all__ += ["masked", "maxpool", "microbatch", "mse", "named", "one_cycle", "operator", "parallel", "parse_net"]
__all__ += ["per_example", "piecewise", "position_embedding", "positionwise", "relu", "remat", "repeat", "reshape"]
__all__ += ["residual", "rmsprop", "save", "serial", "sgd", "shard", "shared", "sigmoid", "silu"]
__all__ += ["smoothed_cross_entropy", "softmax", "softplus", "summary", "tanh", "to_torch", "tree_items"]
__all__ += ["tree_leaves", "tree_map", "tree_size", "tree_sum", "value_and_grad", "warmup"]

_keep_pages()
