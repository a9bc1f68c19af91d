"""Embeddings: a learned vector for each symbol, or for each position of a sequence."""

from __future__ import annotations

import numpy as np

from fnn.checks.arrays import get_params, input_error
from fnn.checks.values import check_int
from fnn.init import Initialiser, lecun_normal
from fnn.kernels.reductions import accurate_sum, sum_at
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, operator
from fnn.random import Key


@operator
def embedding(n: int, features: int, w_init: Initialiser = lecun_normal) -> Op:
    """Looks up the row of `w` (n, features) for each integer from 0 to n - 1: (batch, ...) to (batch, ..., features).

    The initial rows have variance 1, because each symbol is one input.
    """
    n, features = check_int("n", n, 1, OpError), check_int("features", features, 1, OpError)
    shapes = {"w": (n, features)}

    def init(key: Key, shape: Shape) -> Params:
        return {"w": w_init(key.fold("w"), (n, features), 1, features)}

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        [w] = get_params(params, shapes)
        if x.size and not 0 <= x.min() <= x.max() < n:
            raise OpError(f"expected integers from 0 to {n - 1}, got {x.min()} to {x.max()}")
        rows = x.astype(np.intp)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dw = sum_at(rows.ravel(), dy.reshape(-1, features), n)
            return {"w": dw}, np.zeros(x.shape, dy.dtype) if need_dx else None

        return w.take(rows, 0), vjp

    return Op(init, apply, integers=True)


@operator
def position_embedding(w_init: Initialiser = lecun_normal) -> Op:
    """Adds a learned vector to each position of (batch, time, features). Params: `w` (time, features).

    An input may be shorter than the one at `init`. The initial vectors have variance 1, like those of `embedding`.
    Gehring et al., "Convolutional sequence to sequence learning", 2017.
    """

    def init(key: Key, shape: Shape) -> Params:
        if len(shape) != 2:
            raise OpError(f"expected shape (time, features), got {shape}")
        return {"w": w_init(key.fold("w"), shape, 1, shape[1])}

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        [w] = get_params(params, {"w": (None, None)})
        if x.ndim != 3 or x.dtype != w.dtype or x.shape[2] != w.shape[1]:
            raise input_error(x, w.dtype, {"time": None, "features": w.shape[1]})
        if x.shape[1] > len(w):
            raise OpError(f"expected at most {len(w)} positions, got {x.shape[1]}")
        time = x.shape[1]

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
            dw = np.zeros_like(w)
            dw[:time] = accurate_sum(dy, 0)
            return {"w": dw}, dy

        return x + w[:time], vjp

    return Op(init, apply)
