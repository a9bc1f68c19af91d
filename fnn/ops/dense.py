"""The fully connected layer."""

from __future__ import annotations

from math import prod

import numpy as np

from fnn.init import Initialiser, glorot_uniform, zeros
from fnn.kernels.reductions import accurate_sum
from fnn.memory import from_features, to_columns, to_features
from fnn.op import Array, Grads, Op, OpError, Params, Pull, Shape, fitting, operator, told
from fnn.products import product
from fnn.random import Key
from fnn.threads import later


@operator
def dense(
    out_features: int, bias: bool = True, w_init: Initialiser = glorot_uniform, b_init: Initialiser = zeros
) -> Op:
    """The affine map y = x w + b, all axes of `x` but the batch's flattened.

    Takes (batch, *shape) to (batch, out_features); params `w` (prod(shape), out_features) and, with bias, `b`
    (out_features,).
    """
    if not (type(out_features) is int and out_features > 0):
        raise OpError(f"out_features is {out_features!r}, wanted an int of at least 1")

    def init(key: Key, shape: Shape) -> Params:
        fans = (prod(shape), out_features)
        w = w_init(key.fold("w"), fans, *fans)
        return {"w": w, "b": b_init(key.fold("b"), (out_features,), *fans)} if bias else {"w": w}

    def apply(params: Params, x: Array) -> tuple[Array, Pull]:
        w, h = fitting(params, "w", (None, out_features)), to_features(x)
        b = fitting(params, "b", (out_features,), w.dtype) if bias else None
        if h.shape[1] != w.shape[0] or x.dtype != w.dtype:
            raise OpError(f"input {told(x)} has {h.shape[1]} features, wanted {w.dtype} and {w.shape[0]}")
        in_rows = h.flags.c_contiguous
        y = product(h, w) if in_rows else product(w.T, h.T).T
        if b is not None:
            y += b

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Grads, Array | None]:
            d = np.ascontiguousarray(dy)  # as the right factor of a product should be

            def gradients() -> Params:
                dw = product(h.T, d)
                return {"w": dw, "b": accurate_sum(d, 0)} if bias else {"w": dw}

            if not need_dx:
                return gradients(), None
            dparams = later(gradients, h.size * out_features)
            dx = product(d, w.T) if in_rows else product(w, to_columns(dy)).T
            return dparams, from_features(dx, x.shape[1:])

        return y, vjp

    return Op(init, apply)
