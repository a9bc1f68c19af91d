"""Examples of every public operator and combinator; each must pass `check_op`, here and in the library's tests.

An operator that is added to the library is added to this table, or a test fails.
"""

from collections.abc import Mapping
from typing import NamedTuple

from fnn.combine import named, parallel, repeat, residual, serial, shared
from fnn.op import Op, Shape
from fnn.ops import avgpool, conv, dense, flatten, log_softmax, maxpool, relu, sigmoid, softmax, tanh
from fnn.random import Rng
from fnn.shard import shard
from fnn.testing.checks import check_op
from fnn.transform import finite, freeze, microbatch, remat


class Example(NamedTuple):
    """An operator and the arguments by which `check_op` checks it."""

    op: Op
    shape: Shape
    batch: int = 3
    key: Rng | None = None
    exempt: tuple[str, ...] = ()

    def check(self, rng: Rng = 0) -> float:
        """What `check_op` returns, or raises."""
        op, shape, batch, key, exempt = self
        return check_op(op, shape, rng, batch=batch, key=key, exempt=exempt)


TABLE: Mapping[str, tuple[Example, ...]] = {
    "avgpool": (
        Example(avgpool(2), (2, 6, 4)),
        Example(avgpool(2), (2, 7, 5)),
        Example(avgpool(3, stride=2, padding=1), (1, 8, 7)),
        Example(avgpool((2, 3), stride=(3, 1)), (2, 7, 6)),
        Example(avgpool(2), (1, 6, 6), batch=130),
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
    "dense": (
        Example(dense(4), (6,)),
        Example(dense(1, bias=False), (5,)),
        Example(dense(3), (2, 3, 4)),
        Example(dense(7), (12,), batch=130),
    ),
    "finite": (Example(finite(serial(dense(3), tanh)), (4,)),),
    "flatten": (
        Example(flatten, (2, 3, 4)),
        Example(flatten, (5,)),
        Example(flatten, (3, 2)),
    ),
    "freeze": (Example(serial(dense(3), freeze(tanh), dense(2)), (4,)),),
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
    "relu": (Example(relu, (5,)), Example(relu, (2, 4, 3))),
    "remat": (Example(remat(serial(dense(3), tanh)), (4,)),),
    "repeat": (Example(repeat(serial(dense(4), tanh), 2), (4,)),),
    "residual": (Example(residual(serial(dense(4), tanh)), (4,)), Example(residual(conv(2, 3, padding=1)), (2, 4, 4))),
    "serial": (
        Example(serial(), (3,)),
        Example(serial(dense(5), tanh, dense(3), softmax), (4,)),
        Example(serial(conv(3, 3, padding=1), maxpool(2), tanh, serial(flatten, dense(4))), (2, 6, 6)),
        Example(serial(flatten, relu, dense(3), relu), (2, 2, 3)),
    ),
    "shard": (
        Example(shard(dense(3), workers=2, size=2), (4,), batch=7),
        Example(shard(serial(conv(2, 3), maxpool(2), dense(3)), workers=2, size=1), (1, 6, 6)),
        Example(serial(dense(4), shard(tanh, workers=1), dense(2)), (3,), batch=130),
    ),
    "shared": (Example(shared(serial(dense(4), tanh), 2), (4,)),),
    "sigmoid": (Example(sigmoid, (5,)), Example(sigmoid, (2, 4, 3))),
    "softmax": (Example(softmax, (5,)), Example(softmax, (3, 4))),
    "tanh": (Example(tanh, (5,)), Example(tanh, (2, 4, 3))),
}
"""By the name under which the operator is public."""
