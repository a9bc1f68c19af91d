"""Norm layers that treat each example separately."""

from __future__ import annotations

import numpy as np

from fnn.checks import check_int, check_positive, get_params, input_error
from fnn.init import Initialiser, ones, zeros
from fnn.kernels.normalise import normalise_channels, normalise_examples
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, operator
from fnn.random import Key
from fnn.standardise import affine_init, check_channels


@operator
def layer_norm(axes: int = 1, eps: float = 1e-5, w_init: Initialiser = ones, b_init: Initialiser = zeros) -> Op:
    """Normalises over the last `axes` axes of (batch, *shape), as PyTorch's LayerNorm over `shape[-axes:]` does.

    The variance is the mean square, plus `eps`. Params `w` and `b` have the shape of the axes that are normalised over.
    Ba, Kiros & Hinton, "Layer Normalization", 2016.
    """
    axes, eps = check_int("axes", axes, 1, OpError), check_positive("eps", eps, OpError)
    names = tuple(f"axis {axis}" for axis in range(-axes, 0))
    shapes = {"w": names, "b": names}

    def init(key: Key, shape: Shape) -> Params:
        if len(shape) < axes:
            raise OpError(f"expected a shape of at least {axes} axes, got {shape}")
        return affine_init(key, shape[-axes:], w_init, b_init)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        w, b = get_params(params, shapes)
        if x.ndim <= axes or x.shape[-axes:] != w.shape or x.dtype != w.dtype:
            raise input_error(x, w.dtype, {"...": None, **dict(zip(names, w.shape, strict=True))})
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
    groups = check_int("groups", groups, 1, OpError)
    eps = check_positive("eps", eps, OpError)

    def init(key: Key, shape: Shape) -> Params:
        if not shape or shape[0] % groups:
            multiple = f" with a multiple of {groups} channels" if groups > 1 else ""
            raise OpError(f"expected shape (channels, ...){multiple}, got {shape}")
        return affine_init(key, shape[:1], w_init, b_init)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        params = check_channels(params, x, "w", "b")
        if x.shape[1] % groups:
            raise OpError(f"expected a multiple of {groups} channels, got {x.shape[1]}")
        # The channels of (batch, groups, channels / groups, ...).
        shape = (groups, x.shape[1] // groups) + (1,) * (x.ndim - 2)
        grouped = x.reshape(len(x), *shape[:2], *x.shape[2:])
        w, b = params["w"].reshape(1, *shape), params["b"].reshape(1, *shape)
        y, pull = normalise_channels(grouped, w, b, tuple(range(2, grouped.ndim)), eps)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dw, db, dx = pull(dy.reshape(grouped.shape), need_dx)
            return {"w": dw.ravel(), "b": db.ravel()}, None if dx is None else dx.reshape(x.shape)

        return y.reshape(x.shape), vjp

    return Op(init, apply)
