"""Neural networks as pure functions on NumPy arrays.

An operator is a pair of pure functions, `init(rng, shape) -> params` and `apply(params, x) -> (y, vjp)`; a model is an
operator made of operators; training is a fold of a pure function over batches.
"""

from fnn.chain import serial
from fnn.checks.arrays import Array
from fnn.checks.errors import OpError
from fnn.checks.results import UncalibratedWarning
from fnn.combinators import named, parallel, positionwise, repeat, residual, shared
from fnn.files.checkpoint import CheckpointError, load, save
from fnn.grad import value_and_grad
from fnn.kernels.process import keep_pages as _keep_pages
from fnn.kernels.reductions import accurate_mean, accurate_sum
from fnn.kernels.threads import cores
from fnn.losses import LossError, binary_cross_entropy, cross_entropy, huber, mse, smoothed_cross_entropy
from fnn.op import Op, Params, operator
from fnn.ops import (
    attention,
    avgpool,
    batch_norm,
    calibrate,
    conv,
    conv_transpose,
    dense,
    dropout,
    elu,
    embedding,
    flatten,
    gelu,
    global_avgpool,
    group_norm,
    layer_norm,
    leaky_relu,
    log_softmax,
    maxpool,
    position_embedding,
    relu,
    reshape,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from fnn.optim import (
    Optimizer,
    adagrad,
    adam,
    adamw,
    average,
    averaged,
    clip_by_global_norm,
    frozen,
    masked,
    rmsprop,
    sgd,
)
from fnn.optim.schedules import constant, cosine, exponential, linear, one_cycle, piecewise, warmup
from fnn.random import Key
from fnn.summaries import summary
from fnn.torch.weights import from_torch, to_torch
from fnn.transforms import check_finite, finite, freeze, microbatch, per_example, remat, shard
from fnn.tree import TreeError, tree_items, tree_leaves, tree_map, tree_size, tree_sum

__version__ = "0.1.0"

__all__ = [
    "Array",
    "CheckpointError",
    "Key",
    "LossError",
    "Op",
    "OpError",
    "Optimizer",
    "Params",
    "TreeError",
    "UncalibratedWarning",
    "accurate_mean",
    "accurate_sum",
    "adagrad",
    "adam",
    "adamw",
    "attention",
    "average",
    "averaged",
    "avgpool",
    "batch_norm",
    "binary_cross_entropy",
    "calibrate",
    "check_finite",
    "clip_by_global_norm",
    "constant",
    "conv",
    "conv_transpose",
    "cores",
    "cosine",
    "cross_entropy",
    "dense",
    "dropout",
    "elu",
    "embedding",
    "exponential",
    "finite",
    "flatten",
    "freeze",
    "from_torch",
    "frozen",
    "gelu",
    "global_avgpool",
    "group_norm",
    "huber",
    "layer_norm",
    "leaky_relu",
    "linear",
    "load",
    "log_softmax",
    "masked",
    "maxpool",
    "microbatch",
    "mse",
    "named",
    "one_cycle",
    "operator",
    "parallel",
    "per_example",
    "piecewise",
    "position_embedding",
    "positionwise",
    "relu",
    "remat",
    "repeat",
    "reshape",
    "residual",
    "rmsprop",
    "save",
    "serial",
    "sgd",
    "shard",
    "shared",
    "sigmoid",
    "silu",
    "smoothed_cross_entropy",
    "softmax",
    "softplus",
    "summary",
    "tanh",
    "to_torch",
    "tree_items",
    "tree_leaves",
    "tree_map",
    "tree_size",
    "tree_sum",
    "value_and_grad",
    "warmup",
]

_keep_pages()
