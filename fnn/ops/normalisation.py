"""Norm layers, and the statistics that batch_norm predicts with."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import get_params, input_error
from fnn.checks.errors import describe
from fnn.checks.values import check_int, check_positive
from fnn.init import Initialiser, ones, zeros
from fnn.kernels.normalise import normalise_channels, normalise_examples
from fnn.kernels.reductions import accurate_sum, wide_mean, wide_sum
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, operator
from fnn.random import Key, Rng, as_key
from fnn.tree import tree_map

Axes: TypeAlias = tuple[int, ...]


def affine_init(key: Key, shape: Shape, w_init: Initialiser, b_init: Initialiser) -> Params:
    """Initial scale `w` and shift `b`. Each number belongs to one input and one output."""
    return {"w": w_init(key.fold("w"), shape, 1, 1), "b": b_init(key.fold("b"), shape, 1, 1)}


def all_but_channels(x: Array) -> Axes:
    """The axes of (batch, channels, ...) without the channels."""
    return 0, *range(2, x.ndim)


def check_channels(params: Params, x: Array, *names: str) -> Params:
    """The params, as plain ndarrays. Raises OpError unless `x` is (batch, channels, ...) and they have that length."""
    arrays = get_params(params, dict.fromkeys(names, ("channels",)))
    w = arrays[0]
    if x.ndim < 2 or x.shape[1] != len(w) or x.dtype != w.dtype:
        raise input_error(x, w.dtype, {"channels": len(w), "...": None})
    return dict(zip(names, arrays, strict=True))


INITIAL = {"mean": 0.0, "var": 1.0}
"""The statistics before `calibrate`."""


@operator
def batch_norm(eps: float = 1e-5, w_init: Initialiser = ones, b_init: Initialiser = zeros) -> Op:
    """Normalises each channel of (batch, channels, ...): with a key by its statistics in the batch, without by params.

    With a key it trains and uses the mean and variance of the batch. A batch of one example is then an OpError; in
    `shard`, `microbatch` and `per_example` the batch is the piece. Without a key it predicts and uses the params `mean`
    and `var` (channels,). These are 0 and 1 until you call `calibrate` after training; predicting before that gives an
    UncalibratedWarning. Their gradients are zeros. Weight decay still changes them.

    `eps` is added to the variance. The params `w` and `b` (channels,) are learnt. Ioffe & Szegedy, "Batch
    Normalization", 2015.
    """
    eps = check_positive("eps", eps, OpError)

    def init(key: Key, shape: Shape) -> Params:
        if not shape:
            raise OpError("expected shape (channels, ...), got ()")
        statistics = {name: np.full(shape[0], value, np.float32) for name, value in INITIAL.items()}
        return affine_init(key, shape[:1], w_init, b_init) | statistics

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        params = check_channels(params, x, "w", "b", "mean", "var")
        axes = all_but_channels(x)
        w, b, mean, var = (np.expand_dims(params[name], axes) for name in ("w", "b", "mean", "var"))
        statistics = {name: np.zeros_like(params[name]) for name in ("mean", "var")}
        if key is None:
            std = np.sqrt(var + eps)
            z = (x - mean) / std

            def vjp_predicting(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
                return {"w": accurate_sum(dy * z, axes), "b": accurate_sum(dy, axes), **statistics}, dy * (w / std)

            return z * w + b, vjp_predicting

        if len(x) == 1 and not isinstance(key, _Calibration):
            raise OpError(
                "expected at least 2 examples in training, got 1, which has no statistics of a batch; use a larger "
                "batch (in shard, microbatch and per_example: larger pieces), leave out a last batch of 1, or use "
                "group_norm"
            )
        y, pull = normalise_channels(x, w, b, axes, eps)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dw, db, dx = pull(dy, need_dx)
            if isinstance(key, _Calibration):
                return _statistics(x, axes), dx
            return {"w": dw.ravel(), "b": db.ravel(), **statistics}, dx

        return y, vjp

    return Op(init, apply, draws=True, statistics=INITIAL)


def calibrate(net: Op, params: Params, batches: Iterable[Array], rng: Rng = 0) -> Params:
    """Returns params with batch_norm's inference statistics estimated from batches; call it once after training.

    The statistics are the means, over the batches, of each batch's mean and unbiased variance in the training form, as
    PyTorch's running statistics are with `momentum=None`. Random operators use `rng`. If a batch_norm is used several
    times, as in `shared` or `shard`, all uses count alike. Inside `freeze`, statistics stay as they are: calibrate the
    net without it. Raises ValueError if there are no batches or an empty one, and OpError if a batch, or a piece of it,
    has one number per channel.

    How: keys reach every operator, and gradients come back at the place of their parameter, however the net is nested.
    So the net is applied with a special key, and a batch_norm that gets it returns statistics as its gradients.
    """
    key = as_key(rng)
    sums: Params | None = None
    for i, x in enumerate(batches):
        if not len(x):
            raise ValueError(f"calibrate: batch {i} is empty, which has no statistics")
        y, vjp = net.apply(params, x, _Calibration(key.seed, (*key.path, i)))
        found, _ = vjp(np.zeros_like(y), False)
        sums = found if sums is None else tree_map(np.add, sums, found)
    if sums is None:
        raise ValueError("calibrate: there are no batches")
    return _placed(params, sums)


class _Calibration(Key):
    """The key that asks each batch_norm for its statistics."""

    __slots__ = ()

    def fold(self, *parts: str | int) -> Key:
        return _Calibration(self.seed, self.path + parts)


def _statistics(x: Array, axes: Axes) -> Params:
    """A batch's statistics as gradients. They may be added up: `b` counts the batches."""
    numbers = prod(x.shape[axis] for axis in axes)
    if not len(x):  # an empty piece of a batch has none, and counts for nothing
        return {name: np.zeros(x.shape[1], x.dtype) for name in ("w", "b", "mean", "var")}
    if numbers < 2:
        raise OpError(f"input is {describe(x)}, wanted at least 2 numbers of each channel: fewer have no variance")
    mean = wide_mean(x, axes, True)
    var = wide_sum(np.square(x - mean.astype(x.dtype)), axes) / (numbers - 1)
    return {"w": np.zeros_like(var), "b": np.ones_like(var), "mean": mean.reshape(var.shape), "var": var}


def _placed(params: Params, sums: Params) -> Params:
    """`params` with the means of the statistics in `sums`; in it all else is zeros, the cotangents of zeros."""
    if {"w", "b", "mean", "var"} == params.keys() and np.all(sums["b"]):
        return {**params, **{name: (sums[name] / sums["b"]).astype(params[name].dtype) for name in ("mean", "var")}}
    return {name: _placed(child, sums[name]) if isinstance(child, dict) else child for name, child in params.items()}


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
