"""Examples of every public operator and combinator. All must pass `check_op`, and the tests use them as well.

A test fails if an operator of the library has no example here.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

import fnn
from fnn import conv, conv_transpose, dense, dropout, embedding, flatten, layer_norm, maxpool, serial, shard, tanh
from fnn.op import Array, Op, Shape
from fnn.random import Rng
from fnn.testing.checks import check_op


class Example(NamedTuple):
    """An operator, or a function that creates it, and the arguments of `check_op`."""

    source: Op | Callable[[], Op]
    shape: Shape
    batch: int = 3
    key: Rng | None = None
    exempt: tuple[str, ...] = ()
    x: Array | None = None
    constants: tuple[str, ...] = ()
    name: str = ""  # under which TABLE lists the example; default: the operator's kind

    @property
    def op(self) -> Op:
        """The operator."""
        return self.source if isinstance(self.source, Op) else self.source()

    def check(self, rng: Rng = 0) -> float:
        """Runs `check_op` with these arguments."""
        arguments = self._asdict()
        del arguments["source"], arguments["name"]
        return check_op(self.op, rng=rng, **arguments)


_INTEGERS = np.arange(15) % 5
_STATISTICS = ("batch independence",)
_EXAMPLES: list[Example] = [
    Example(fnn.attention(2), (3, 4)),
    Example(fnn.attention(1, causal=True), (5, 3)),
    Example(fnn.attention(3, causal=True), (1, 6)),
    Example(fnn.avgpool(2), (2, 6, 4)),
    Example(fnn.avgpool(2), (2, 7, 5)),
    Example(fnn.avgpool(3, stride=2, padding=1), (1, 8, 7)),
    Example(fnn.avgpool((2, 3), stride=(3, 1)), (2, 7, 6)),
    Example(fnn.avgpool(2), (1, 6, 6), batch=130),
    Example(fnn.batch_norm(), (3,), batch=5, key=1, exempt=_STATISTICS),
    Example(fnn.batch_norm(eps=0.1), (2, 3, 4), key=1, exempt=_STATISTICS),
    Example(fnn.batch_norm(), (2, 4, 3), constants=("mean", "var")),
    Example(fnn.check_finite(serial(dense(3), tanh)), (4,)),
    Example(conv(3, 3), (2, 6, 5)),
    Example(conv(3, 3, padding=1, bias=False), (2, 5, 6)),
    Example(conv(4, (3, 2), stride=2, padding="same", groups=2), (2, 7, 6)),
    Example(conv(2, (2, 3), stride=(1, 2), padding=(2, 0), dilation=(1, 2)), (3, 5, 8)),
    Example(conv(2, 2, stride=3), (2, 7, 8)),
    Example(conv(3, 1), (4, 3, 3)),
    Example(conv(6, 3, padding=1), (1, 9, 9), batch=130),
    Example(conv_transpose(3, 3), (2, 4, 5)),
    Example(conv_transpose(2, 3, stride=2, padding=1, output_padding=1, bias=False), (3, 3, 4)),
    Example(conv_transpose(4, (3, 2), stride=(1, 3), dilation=(2, 1), groups=2), (2, 3, 3)),
    Example(conv_transpose(2, 2, stride=2), (1, 4, 4), batch=130),
    Example(dense(4), (6,)),
    Example(dense(1, bias=False), (5,)),
    Example(dense(3), (2, 3, 4)),
    Example(dense(7), (12,), batch=130),
    Example(dropout(0.5), (4, 3), key=1),
    Example(dropout(0.5), (4, 3)),
    Example(serial(dense(5), dropout(0.2), dense(3)), (4,), key=1, name="dropout"),
    Example(embedding(7, 4), (5,), x=_INTEGERS.reshape(3, 5)),
    Example(serial(embedding(5, 3), flatten, dense(2)), (2, 2), x=_INTEGERS[:12].reshape(3, 2, 2), name="embedding"),
    Example(flatten, (2, 3, 4)),
    Example(flatten, (5,)),
    Example(flatten, (3, 2)),
    Example(fnn.freeze(dense(3)), (4,), constants=("w", "b")),
    Example(serial(dense(3), fnn.freeze(dense(2)), tanh), (4,), constants=("dense2/w", "dense2/b"), name="freeze"),
    Example(fnn.global_avgpool, (3, 4, 5)),
    Example(fnn.global_avgpool, (2, 3, 1)),
    Example(fnn.group_norm(2), (4, 3, 3)),
    Example(fnn.group_norm(1), (3, 5)),
    Example(fnn.group_norm(3, eps=0.1), (6, 2, 3)),
    Example(layer_norm(), (5,)),
    Example(layer_norm(), (3, 4)),
    Example(layer_norm(2, eps=0.1), (2, 3, 4)),
    Example(maxpool(2), (2, 6, 4)),
    Example(maxpool(2), (2, 7, 5)),
    Example(maxpool(3, stride=2, padding=1), (1, 8, 7)),
    Example(maxpool((2, 3), stride=(3, 1)), (2, 7, 6)),
    Example(maxpool(2), (1, 6, 6), batch=130),
    Example(fnn.microbatch(dense(3), size=2), (4,), batch=5),
    Example(serial(dense(4), fnn.microbatch(serial(tanh, dense(2)), size=1)), (3,), name="microbatch"),
    Example(serial(fnn.named("first", dense(3)), tanh), (4,), name="named"),
    Example(fnn.parallel(dense(3), serial(tanh, dense(3))), (4,)),
    Example(fnn.parallel(conv(2, 1), maxpool(3, stride=1, padding=1), join="concat"), (2, 4, 4)),
    Example(fnn.position_embedding(), (4, 3)),
    Example(fnn.positionwise(dense(3)), (4, 5)),
    Example(fnn.positionwise(serial(layer_norm(), dense(4), fnn.gelu, dropout(0.2))), (3, 5), key=1),
    Example(fnn.remat(serial(dense(3), tanh)), (4,)),
    Example(fnn.repeat(serial(dense(4), tanh), 2), (4,)),
    Example(fnn.reshape(3, 4), (2, 6)),
    Example(fnn.reshape(2, -1, 3), (12,)),
    Example(fnn.reshape(-1), (2, 3, 4)),
    Example(fnn.residual(serial(dense(4), tanh)), (4,)),
    Example(fnn.residual(conv(2, 3, padding=1)), (2, 4, 4)),
    Example(serial(), (3,)),
    Example(serial(dense(5), tanh, dense(3), fnn.softmax), (4,)),
    Example(serial(conv(3, 3, padding=1), maxpool(2), tanh, serial(flatten, dense(4))), (2, 6, 6)),
    Example(serial(flatten, fnn.relu, dense(3), fnn.relu), (2, 2, 3)),
    # Created when used: a `shard` with several workers may warn about the threads of BLAS.
    Example(cache(lambda: shard(dense(3), workers=2, size=2)), (4,), batch=7, name="shard"),
    Example(cache(lambda: shard(serial(conv(2, 3), maxpool(2), dense(3)), workers=2, size=1)), (1, 6, 6), name="shard"),
    Example(serial(dense(4), shard(tanh, workers=1), dense(2)), (3,), batch=130, name="shard"),
    Example(fnn.shared(serial(dense(4), tanh), 2), (4,)),
]
for _op in (fnn.gelu, fnn.log_softmax, fnn.relu, fnn.sigmoid, fnn.silu, fnn.softmax, fnn.softplus, tanh):
    _EXAMPLES += [Example(_op, (5,)), Example(_op, (2, 4, 3))]
for _make in (fnn.elu, fnn.leaky_relu):
    _EXAMPLES += [Example(_make(), (5,)), Example(_make(0.2), (2, 4, 3))]

TABLE: dict[str, list[Example]] = {}  # the examples of each operator, by its public name
for _example in _EXAMPLES:
    TABLE.setdefault(_example.name or _example.op.kind, []).append(_example)
