"""Sequences whose positions are treated alike."""

from __future__ import annotations

from fnn.op import Array, Op, OpError, Params, Shape, Vjp, check_operator, operator
from fnn.random import Key


@operator
def positionwise(op: Op) -> Op:
    """`op` applied to every position of a sequence by itself: (batch, time, *shape) to (batch, time, *output_shape).

    To `op` the positions are a batch of batch * time examples. Params are those of `op`. So `positionwise(dense(n))` is
    a linear map of the last axis of (batch, time, features). The term is that of Vaswani et al., "Attention is all you
    need", 2017.
    """
    check_operator(op)

    def init(key: Key, shape: Shape) -> Params:
        if not shape:
            raise OpError("expected shape (time, ...), got ()")
        return op.init(key, shape[1:])

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        if x.ndim < 2:
            raise OpError(f"expected shape (batch, time, ...), got {x.shape}")
        positions = x.shape[:2]
        flat = x.reshape(positions[0] * positions[1], *x.shape[2:])
        y, vjp = op.apply(params, flat, key)

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dparams, dx = vjp(dy.reshape(len(flat), *dy.shape[2:]), need_dx)
            return dparams, None if dx is None else dx.reshape(x.shape)

        return y.reshape(*positions, *y.shape[1:]), pull

    return Op(init, apply, parts={"": op}, draws=True)
