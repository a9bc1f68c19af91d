"""The fully connected layer."""

from __future__ import annotations

from math import prod

from fnn.checks.arrays import get_params, input_error
from fnn.checks.values import check_int
from fnn.init import Initialiser, glorot_uniform, init_affine, zeros
from fnn.kernels.products import accurate_sum, from_features, map_features, match_order, matmul, run_both, to_features
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, operator
from fnn.random import Key


@operator
def dense(
    out_features: int, bias: bool = True, w_init: Initialiser = glorot_uniform, b_init: Initialiser = zeros
) -> Op:
    """Fully connected layer: y = x w + b.

    Flattens (batch, *shape) and maps it to (batch, out_features). Params: `w` (prod(shape), out_features) and, with
    bias, `b` (out_features,).
    """
    out_features = check_int("out_features", out_features, 1, OpError)
    shapes = {"w": (None, out_features), "b": (out_features,) if bias else None}

    def init(key: Key, shape: Shape) -> Params:
        fans = (prod(shape), out_features)
        return init_affine(key, fans, (out_features,) if bias else None, fans, w_init, b_init)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        w, b = get_params(params, shapes)
        h = to_features(x)
        if h.shape[1] != w.shape[0] or x.dtype != w.dtype:
            raise input_error(x, w.dtype, {"features": w.shape[0]}, flat=True)
        y = map_features(h, w)
        if b is not None:
            y += b

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dy = match_order(dy, h)
            dw, dh = run_both(
                lambda: matmul(h.T, dy),
                lambda: map_features(dy, w.T) if need_dx else None,
                h.size * out_features,
            )
            dparams = {"w": dw, "b": accurate_sum(dy, 0)} if bias else {"w": dw}
            return dparams, None if dh is None else from_features(dh, x.shape[1:])

        return y, vjp

    return Op(init, apply)
