"""Attention: each position of a sequence reads the other positions."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from fnn.checks.arrays import get_params, input_error
from fnn.checks.values import check_int
from fnn.init import Initialiser, glorot_uniform, zeros
from fnn.kernels.products import accurate_sum, matmul
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, operator
from fnn.random import Key

SHAPES = {**{f"w{name}": ("features", "features") for name in "qkvo"}, **{f"b{name}": ("features",) for name in "qkvo"}}


@operator
def attention(
    heads: int, causal: bool = False, w_init: Initialiser = glorot_uniform, b_init: Initialiser = zeros
) -> Op:
    """Multi-head self-attention: softmax(q kᵀ / sqrt(size)) v for each head; keeps (batch, time, features).

    q, k and v are affine maps of the input, cut into heads of size = features / heads. The output is an affine map of
    the concatenated heads. `causal=True`: a position does not read later ones. Params: `wq`, `wk`, `wv`, `wo` (in, out)
    and `bq`, `bk`, `bv`, `bo`. Vaswani et al., "Attention is all you need", 2017.
    """
    heads = check_int("heads", heads, 1, OpError)

    def init(key: Key, shape: Shape) -> Params:
        if len(shape) != 2 or not shape[1] or shape[1] % heads:
            multiple = f" with a multiple of {heads} features" if heads > 1 else ""
            raise OpError(f"expected shape (time, features){multiple}, got {shape}")
        fans = (shape[1], shape[1])
        w = {f"w{name}": w_init(key.fold(f"w{name}"), fans, *fans) for name in "qkvo"}
        return w | {f"b{name}": b_init(key.fold(f"b{name}"), fans[:1], *fans) for name in "qkvo"}

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        arrays = get_params(params, SHAPES)
        w, b = dict(zip("qkvo", arrays[:4], strict=True)), dict(zip("qkvo", arrays[4:], strict=True))
        features = len(b["o"])
        if not features or features % heads:
            raise OpError(f"expected params for a multiple of {heads} features, got {features}")
        if x.ndim != 3 or x.shape[2] != features or x.dtype != b["o"].dtype:
            raise input_error(x, b["o"].dtype, {"time": None, "features": features})
        rows = x.reshape(x.shape[0] * x.shape[1], features)
        q, k, v = (_split(rows @ w[name] + b[name], x.shape, heads) for name in "qkv")
        mixed_heads, attend_vjp = _attend(q, k, v, causal)
        mixed = _join(mixed_heads)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            d = dy.reshape(rows.shape)
            dparams = {"wo": matmul(mixed.T, d), "bo": accurate_sum(d, 0)}
            dx = np.zeros_like(rows)
            for name, d_heads in zip("qkv", attend_vjp(_split(d @ w["o"].T, x.shape, heads)), strict=True):
                d = _join(d_heads)
                dparams |= {f"w{name}": matmul(rows.T, d), f"b{name}": accurate_sum(d, 0)}
                if need_dx:
                    dx += d @ w[name].T
            return dparams, dx.reshape(x.shape) if need_dx else None

        return (mixed @ w["o"] + b["o"]).reshape(x.shape), vjp

    return Op(init, apply)


def _attend(q: Array, k: Array, v: Array, causal: bool) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """softmax(q kᵀ / sqrt(size)) v, and its vjp to q, k and v."""
    scale = 1 / sqrt(q.shape[-1])
    weights: Array = q @ k.mT
    weights *= scale
    if causal:
        weights += np.triu(np.full(weights.shape[-2:], -np.inf, weights.dtype), 1)
    weights -= weights.max(-1, keepdims=True, initial=-np.inf)
    np.exp(weights, out=weights)
    weights /= accurate_sum(weights, -1, True)

    def vjp(d: Array) -> tuple[Array, Array, Array]:
        ds = weights * (d @ v.mT)
        ds -= weights * accurate_sum(ds, -1, True)
        ds *= scale
        return ds @ k, ds.mT @ q, weights.mT @ d

    return weights @ v, vjp


def _split(rows: Array, shape: Shape, heads: int) -> Array:
    """(batch * time, features) to (batch, heads, time, size), where `shape` is (batch, time, features)."""
    batch, time, features = shape
    return rows.reshape(batch, time, heads, features // heads).swapaxes(1, 2)


def _join(heads_apart: Array) -> Array:
    """(batch, heads, time, size) to (batch * time, features)."""
    batch, heads, time, size = heads_apart.shape
    return heads_apart.swapaxes(1, 2).reshape(batch * time, heads * size)
