"""Neural networks as pure functions on NumPy arrays.

An operator is a pair of pure functions, `init(rng, shape) -> params` and `apply(params, x) -> (y, vjp)`; a model is an
operator made of operators; training is a fold of a pure function over batches.
"""

from fnn.checkpoint import CheckpointError, load, save
from fnn.combine import named, parallel, repeat, residual, serial, shared
from fnn.grad import value_and_grad
from fnn.losses import LossError, cross_entropy, mse
from fnn.memory import keep_pages as _keep_pages
from fnn.op import Array, Op, OpError, Params, operator
from fnn.ops import avgpool, conv, dense, flatten, log_softmax, maxpool, relu, sigmoid, softmax, tanh
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
from fnn.random import Key
from fnn.schedules import constant, cosine, exponential, linear, one_cycle, piecewise, warmup
from fnn.shard import cores, shard
from fnn.transform import finite, freeze, microbatch, per_example, remat
from fnn.tree import TreeError, tree_items, tree_leaves, tree_map, tree_size, tree_sum

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
    "adagrad",
    "adam",
    "adamw",
    "average",
    "averaged",
    "avgpool",
    "clip_by_global_norm",
    "constant",
    "conv",
    "cores",
    "cosine",
    "cross_entropy",
    "dense",
    "exponential",
    "finite",
    "flatten",
    "freeze",
    "frozen",
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
    "relu",
    "remat",
    "repeat",
    "residual",
    "rmsprop",
    "save",
    "serial",
    "sgd",
    "shard",
    "shared",
    "sigmoid",
    "softmax",
    "tanh",
    "tree_items",
    "tree_leaves",
    "tree_map",
    "tree_size",
    "tree_sum",
    "value_and_grad",
    "warmup",
]

_keep_pages()
