"""Norm layers that treat each example separately."""

from __future__ import annotations

import numpy as np

from fnn.init import Initialiser, ones, zeros
from fnn.kernels.normalise import normalise_channels, normalise_examples
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, fitting, operator, told
from fnn.random import Key
from fnn.standardise import affine_init, check_channels, positive


@operator
def layer_norm(axes: int = 1, eps: float = 1e-5, w_init: Initialiser = ones, b_init: Initialiser = zeros) -> Op:
    """Normalises over the last `axes` axes of (batch, *shape), as PyTorch's LayerNorm over `shape[-axes:]` does.

    The variance is the mean square, plus `eps`. Params `w` and `b` have the shape of the axes that are normalised over.
    Ba, Kiros & Hinton, "Layer Normalization", 2016.
    """
    if not (type(axes) is int and axes > 0):
        raise OpError(f"axes is {axes!r}, wanted the number of last axes, an int of at least 1")
    eps = positive(eps)

    def init(key: Key, shape: Shape) -> Params:
        if len(shape) < axes:
            raise OpError(f"shape is {shape}, wanted at least {axes} axes")
        return affine_init(key, shape[-axes:], w_init, b_init)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        w = fitting(params, "w", (None,) * axes)
        b = fitting(params, "b", w.shape, w.dtype)
        if x.ndim <= axes or x.shape[-axes:] != w.shape or x.dtype != w.dtype:
            raise OpError(f"input is {told(x)}, wanted {w.dtype} (batch, ...), the last axes {w.shape}")
        first = tuple(range(x.ndim - axes))
        w, b = np.expand_dims(w, first), np.expand_dims(b, first)
        y, pull = normalise_examples(x, w, b, tuple(range(x.ndim - axes, x.ndim)), eps)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dw, db, dx = pull(dy, need_dx)
            return {"w": dw.reshape(w.shape[-axes:]), "b": db.reshape(w.shape[-axes:])}, dx

        return y, vjp

    return Op(init, apply)


@operator
def group_norm(groups: int, eps: float = 1e-5, w_init: Initialiser = ones, b_init: Initialiser = zeros) -> Op:
    """Normalises each example of (batch, channels, ...) over each of `groups` runs of channels and all further axes.

    As PyTorch's GroupNorm: the variance is the mean square, plus `eps`. Params `w` and `b` (channels,). Wu & He, "Group
    Normalization", 2018.
    """
    if not (type(groups) is int and groups > 0):
        raise OpError(f"groups is {groups!r}, wanted an int of at least 1")
    eps = positive(eps)

    def init(key: Key, shape: Shape) -> Params:
        if not shape or shape[0] % groups:
            raise OpError(f"shape is {shape}, wanted (channels, ...), channels a multiple of {groups}")
        return affine_init(key, shape[:1], w_init, b_init)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        check_channels(params, x, "b")
        if x.shape[1] % groups:
            raise OpError(f"input is {told(x)}, wanted a number of channels that is a multiple of {groups}")
        shape = (groups, x.shape[1] // groups) + (1,) * (
            x.ndim - 2
        )  # of the channels, beside (batch, groups, channels, ...)
        grouped = x.reshape(len(x), *shape[:2], *x.shape[2:])
        w, b = params["w"].reshape(1, *shape), params["b"].reshape(1, *shape)
        y, pull = normalise_channels(grouped, w, b, tuple(range(2, grouped.ndim)), eps)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dw, db, dx = pull(dy.reshape(grouped.shape), need_dx)
            return {"w": dw.ravel(), "b": db.ravel()}, None if dx is None else dx.reshape(x.shape)

        return y.reshape(x.shape), vjp

    return Op(init, apply)
