"""Examples of every public operator and combinator; each must pass `check_op`, here and in the library's tests.

An operator that is added to the library is added to this table, or a test fails.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from fnn.chain import repeat, serial
from fnn.combinators import named, parallel, positionwise, residual, shared
from fnn.op import Array, Op, Shape
from fnn.ops import (
    attention,
    avgpool,
    batch_norm,
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
from fnn.random import Rng
from fnn.testing.checks import check_op
from fnn.transforms import check_finite, freeze, microbatch, remat, shard


class Example(NamedTuple):
    """An operator, or a function that makes it, and the arguments by which `check_op` checks it."""

    source: Op | Callable[[], Op]
    shape: Shape
    batch: int = 3
    key: Rng | None = None
    exempt: tuple[str, ...] = ()
    x: Array | None = None
    constants: tuple[str, ...] = ()

    @property
    def op(self) -> Op:
        """The operator."""
        return self.source if isinstance(self.source, Op) else self.source()

    def check(self, rng: Rng = 0) -> float:
        """What `check_op` returns, or raises."""
        arguments = self._asdict()
        del arguments["source"]
        return check_op(self.op, rng=rng, **arguments)


def _integers(n: int, *shape: int) -> Array:
    """Integers from 0 to n - 1, as a batch of that shape."""
    return np.random.default_rng(0).integers(0, n, shape)


TABLE: Mapping[str, tuple[Example, ...]] = {
    "attention": (
        Example(attention(2), (3, 4)),
        Example(attention(1, causal=True), (5, 3)),
        Example(attention(3, causal=True), (1, 6)),
    ),
    "avgpool": (
        Example(avgpool(2), (2, 6, 4)),
        Example(avgpool(2), (2, 7, 5)),
        Example(avgpool(3, stride=2, padding=1), (1, 8, 7)),
        Example(avgpool((2, 3), stride=(3, 1)), (2, 7, 6)),
        Example(avgpool(2), (1, 6, 6), batch=130),
    ),
    "batch_norm": (
        Example(batch_norm(), (3,), batch=5, key=1, exempt=("batch independence",)),
        Example(batch_norm(eps=0.1), (2, 3, 4), key=1, exempt=("batch independence",)),
        Example(batch_norm(), (2, 4, 3), constants=("mean", "var")),
    ),
    "conv": (
        Example(conv(3, 3), (2, 6, 5)),
        Example(conv(3, 3, padding=1, bias=False), (2, 5, 6)),
        Example(conv(4, (3, 2), stride=2, padding="same", groups=2), (2, 7, 6)),
        Example(conv(2, (2, 3), stride=(1, 2), padding=(2, 0), dilation=(1, 2)), (3, 5, 8)),
        Example(conv(2, 2, stride=3), (2, 7, 8)),
        Example(conv(3, 1), (4, 3, 3)),
        Example(conv(6, 3, padding=1), (1, 9, 9), batch=130),
    ),
    "conv_transpose": (
        Example(conv_transpose(3, 3), (2, 4, 5)),
        Example(conv_transpose(2, 3, stride=2, padding=1, output_padding=1, bias=False), (3, 3, 4)),
        Example(conv_transpose(4, (3, 2), stride=(1, 3), dilation=(2, 1), groups=2), (2, 3, 3)),
        Example(conv_transpose(2, 2, stride=2), (1, 4, 4), batch=130),
    ),
    "dense": (
        Example(dense(4), (6,)),
        Example(dense(1, bias=False), (5,)),
        Example(dense(3), (2, 3, 4)),
        Example(dense(7), (12,), batch=130),
    ),
    "dropout": (
        Example(dropout(0.5), (4, 3), key=1),
        Example(dropout(0.5), (4, 3)),
        Example(serial(dense(5), dropout(0.2), dense(3)), (4,), key=1),
    ),
    "elu": (
        Example(elu(), (5,)),
        Example(elu(0.5), (2, 4, 3)),
    ),
    "embedding": (
        Example(embedding(7, 4), (5,), x=_integers(7, 3, 5)),
        Example(serial(embedding(5, 3), flatten, dense(2)), (2, 2), x=_integers(5, 3, 2, 2)),
    ),
    "check_finite": (Example(check_finite(serial(dense(3), tanh)), (4,)),),
    "flatten": (
        Example(flatten, (2, 3, 4)),
        Example(flatten, (5,)),
        Example(flatten, (3, 2)),
    ),
    "freeze": (
        Example(freeze(dense(3)), (4,), constants=("w", "b")),
        Example(serial(dense(3), freeze(dense(2)), tanh), (4,), constants=("dense2/w", "dense2/b")),
    ),
    "gelu": (
        Example(gelu, (5,)),
        Example(gelu, (2, 4, 3)),
    ),
    "global_avgpool": (
        Example(global_avgpool, (3, 4, 5)),
        Example(global_avgpool, (2, 3, 1)),
    ),
    "group_norm": (
        Example(group_norm(2), (4, 3, 3)),
        Example(group_norm(1), (3, 5)),
        Example(group_norm(3, eps=0.1), (6, 2, 3)),
    ),
    "layer_norm": (
        Example(layer_norm(), (5,)),
        Example(layer_norm(), (3, 4)),
        Example(layer_norm(2, eps=0.1), (2, 3, 4)),
    ),
    "leaky_relu": (
        Example(leaky_relu(), (5,)),
        Example(leaky_relu(0.2), (2, 4, 3)),
    ),
    "log_softmax": (Example(log_softmax, (5,)), Example(log_softmax, (3, 4))),
    "maxpool": (
        Example(maxpool(2), (2, 6, 4)),
        Example(maxpool(2), (2, 7, 5)),
        Example(maxpool(3, stride=2, padding=1), (1, 8, 7)),
        Example(maxpool((2, 3), stride=(3, 1)), (2, 7, 6)),
        Example(maxpool(2), (1, 6, 6), batch=130),
    ),
    "microbatch": (
        Example(microbatch(dense(3), size=2), (4,), batch=5),
        Example(serial(dense(4), microbatch(serial(tanh, dense(2)), size=1)), (3,)),
    ),
    "named": (Example(serial(named("first", dense(3)), tanh), (4,)),),
    "parallel": (
        Example(parallel(dense(3), serial(tanh, dense(3))), (4,)),
        Example(parallel(conv(2, 1), maxpool(3, stride=1, padding=1), join="concat"), (2, 4, 4)),
    ),
    "position_embedding": (Example(position_embedding(), (4, 3)),),
    "positionwise": (
        Example(positionwise(dense(3)), (4, 5)),
        Example(positionwise(serial(layer_norm(), dense(4), gelu, dropout(0.2))), (3, 5), key=1),
    ),
    "relu": (Example(relu, (5,)), Example(relu, (2, 4, 3))),
    "remat": (Example(remat(serial(dense(3), tanh)), (4,)),),
    "repeat": (Example(repeat(serial(dense(4), tanh), 2), (4,)),),
    "reshape": (
        Example(reshape(3, 4), (2, 6)),
        Example(reshape(2, -1, 3), (12,)),
        Example(reshape(-1), (2, 3, 4)),
    ),
    "residual": (Example(residual(serial(dense(4), tanh)), (4,)), Example(residual(conv(2, 3, padding=1)), (2, 4, 4))),
    "serial": (
        Example(serial(), (3,)),
        Example(serial(dense(5), tanh, dense(3), softmax), (4,)),
        Example(serial(conv(3, 3, padding=1), maxpool(2), tanh, serial(flatten, dense(4))), (2, 6, 6)),
        Example(serial(flatten, relu, dense(3), relu), (2, 2, 3)),
    ),
    "shard": (
        # Made when they are read: to create a `shard` of several workers limits BLAS to one thread, or warns.
        Example(cache(lambda: shard(dense(3), workers=2, size=2)), (4,), batch=7),
        Example(cache(lambda: shard(serial(conv(2, 3), maxpool(2), dense(3)), workers=2, size=1)), (1, 6, 6)),
        Example(serial(dense(4), shard(tanh, workers=1), dense(2)), (3,), batch=130),
    ),
    "shared": (Example(shared(serial(dense(4), tanh), 2), (4,)),),
    "sigmoid": (Example(sigmoid, (5,)), Example(sigmoid, (2, 4, 3))),
    "silu": (
        Example(silu, (5,)),
        Example(silu, (2, 4, 3)),
    ),
    "softmax": (Example(softmax, (5,)), Example(softmax, (3, 4))),
    "softplus": (
        Example(softplus, (5,)),
        Example(softplus, (2, 4, 3)),
    ),
    "tanh": (Example(tanh, (5,)), Example(tanh, (2, 4, 3))),
}
"""By the name under which the operator is public."""
