"""The linear layer of sequences."""

from math import prod

from fnn.init import Initialiser, glorot_uniform, zeros
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, fitting, operator, told
from fnn.random import Key


@operator
def linear(
    out_features: int, bias: bool = True, w_init: Initialiser = glorot_uniform, b_init: Initialiser = zeros
) -> Op:
    """The affine map y = x w + b along the last axis, the same at every position of the axes before it.

    Takes (batch, ..., in) to (batch, ..., out_features); params `w` (in, out_features) and, with bias, `b`
    (out_features,). `dense` is the one that mixes all axes.
    """
    if not (isinstance(out_features, int) and out_features > 0):
        raise OpError(f"out_features is {out_features!r}, wanted an int of at least 1")

    def init(key: Key, shape: Shape) -> Params:
        if not shape:
            raise OpError("shape is (), wanted one with an axis of features")
        fans = (shape[-1], out_features)
        w = w_init(key.fold("w"), fans, *fans)
        return {"w": w, "b": b_init(key.fold("b"), (out_features,), *fans)} if bias else {"w": w}

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        w, positions = fitting(params, "w", (None, out_features)), prod(x.shape[:-1])
        b = fitting(params, "b", (out_features,), w.dtype) if bias else None
        if x.ndim < 2 or x.shape[-1] != len(w) or x.dtype != w.dtype:
            raise OpError(f"input is {told(x)}, wanted {w.dtype} (batch, ..., {len(w)})")
        h = x.reshape(positions, len(w))
        y = h @ w
        if b is not None:
            y += b

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            d = dy.reshape(positions, out_features)
            dparams = {"w": h.T @ d, "b": d.sum(0)} if bias else {"w": h.T @ d}
            return dparams, (d @ w.T).reshape(x.shape) if need_dx else None

        return y.reshape(*x.shape[:-1], out_features), vjp

    return Op(init, apply)
