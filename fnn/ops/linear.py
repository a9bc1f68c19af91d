"""The fully connected layer."""

from __future__ import annotations

from math import prod

import numpy as np

from fnn.checks.arrays import get_params, input_error
from fnn.checks.values import check_int
from fnn.init import Initialiser, glorot_uniform, zeros
from fnn.kernels.memory import from_features, to_columns, to_features
from fnn.kernels.products import matmul
from fnn.kernels.reductions import accurate_sum
from fnn.kernels.threads import later
from fnn.op import Array, Grads, Op, OpError, Params, Pull, Shape, operator
from fnn.random import Key


@operator
def dense(
    out_features: int, bias: bool = True, w_init: Initialiser = glorot_uniform, b_init: Initialiser = zeros
) -> Op:
    """The affine map y = x w + b, all axes of `x` but the batch's flattened.

    Takes (batch, *shape) to (batch, out_features); params `w` (prod(shape), out_features) and, with bias, `b`
    (out_features,).
    """
    out_features = check_int("out_features", out_features, 1, OpError)
    shapes = {"w": (None, out_features), "b": (out_features,) if bias else None}

    def init(key: Key, shape: Shape) -> Params:
        fans = (prod(shape), out_features)
        w = w_init(key.fold("w"), fans, *fans)
        return {"w": w, "b": b_init(key.fold("b"), (out_features,), *fans)} if bias else {"w": w}

    def apply(params: Params, x: Array) -> tuple[Array, Pull]:
        w, b = get_params(params, shapes)
        h = to_features(x)
        if h.shape[1] != w.shape[0] or x.dtype != w.dtype:
            raise input_error(x, w.dtype, {"features": w.shape[0]}, flat=True)
        in_rows = h.flags.c_contiguous
        y = matmul(h, w) if in_rows else matmul(w.T, h.T).T
        if b is not None:
            y += b

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Grads, Array | None]:
            d = np.ascontiguousarray(dy)  # as the right factor of a product should be

            def gradients() -> Params:
                dw = matmul(h.T, d)
                return {"w": dw, "b": accurate_sum(d, 0)} if bias else {"w": dw}

            if not need_dx:
                return gradients(), None
            dparams = later(gradients, h.size * out_features)
            dx = matmul(d, w.T) if in_rows else matmul(w, to_columns(dy)).T
            return dparams, from_features(dx, x.shape[1:])

        return y, vjp

    return Op(init, apply)
