"""Neural networks as pure functions on NumPy arrays.

An operator is a pair of pure functions, `init(rng, shape) -> params` and `apply(params, x) -> (y, vjp)`; a model is an
operator made of operators; training is a fold of a pure function over batches.
"""

from fnn.combine import serial
from fnn.grad import value_and_grad
from fnn.losses import LossError, cross_entropy, mse
from fnn.memory import keep_pages as _keep_pages
from fnn.op import Op, OpError, operator
from fnn.ops import avgpool, conv, dense, flatten, log_softmax, maxpool, relu, sigmoid, softmax, tanh
from fnn.random import Key
from fnn.tree import TreeError, tree_items, tree_leaves, tree_map, tree_size

__all__ = [
    "Key",
    "LossError",
    "Op",
    "OpError",
    "TreeError",
    "avgpool",
    "conv",
    "cross_entropy",
    "dense",
    "flatten",
    "log_softmax",
    "maxpool",
    "mse",
    "operator",
    "relu",
    "serial",
    "sigmoid",
    "softmax",
    "tanh",
    "tree_items",
    "tree_leaves",
    "tree_map",
    "tree_size",
    "value_and_grad",
]

_keep_pages()
