"""Normalisation: numbers less their mean, over their standard deviation, then scaled and shifted by parameters."""

from collections.abc import Callable, Iterable
from math import prod
from typing import TypeAlias

import numpy as np

from fnn.init import Initialiser, ones, zeros
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, fitting, operator, told
from fnn.random import Key, Rng, as_key
from fnn.tree import tree_map

Axes: TypeAlias = tuple[int, ...]
Pull: TypeAlias = Callable[[Array], Array]


@operator
def layer_norm(axes: int = 1, eps: float = 1e-5, w_init: Initialiser = ones, b_init: Initialiser = zeros) -> Op:
    """Normalises over the last `axes` axes of (batch, *shape), as PyTorch's LayerNorm over `shape[-axes:]` does.

    The variance is the mean square, plus `eps`. Params `w` and `b` have the shape of the axes that are normalised over.
    Ba, Kiros & Hinton, "Layer Normalization", 2016.
    """
    if not (type(axes) is int and axes > 0):
        raise OpError(f"axes is {axes!r}, wanted the number of last axes, an int of at least 1")
    eps = _positive(eps)

    def init(key: Key, shape: Shape) -> Params:
        if len(shape) < axes:
            raise OpError(f"shape is {shape}, wanted at least {axes} axes")
        return _affine(key, shape[-axes:], w_init, b_init)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        w = fitting(params, "w", (None,) * axes)
        fitting(params, "b", w.shape, w.dtype)
        if x.ndim <= axes or x.shape[-axes:] != w.shape or x.dtype != w.dtype:
            raise OpError(f"input is {told(x)}, wanted {w.dtype} (batch, ...), the last axes {w.shape}")
        normal, pull = _normalise(x, tuple(range(-axes, 0)), eps)
        return _scale(params, normal, pull, tuple(range(x.ndim - axes)))

    return Op(init, apply)


@operator
def group_norm(groups: int, eps: float = 1e-5, w_init: Initialiser = ones, b_init: Initialiser = zeros) -> Op:
    """Normalises each example of (batch, channels, ...) over each of `groups` runs of channels and all further axes.

    As PyTorch's GroupNorm: the variance is the mean square, plus `eps`. Params `w` and `b` (channels,). Wu & He, "Group
    Normalization", 2018.
    """
    if not (type(groups) is int and groups > 0):
        raise OpError(f"groups is {groups!r}, wanted an int of at least 1")
    eps = _positive(eps)

    def init(key: Key, shape: Shape) -> Params:
        if not shape or shape[0] % groups:
            raise OpError(f"shape is {shape}, wanted (channels, ...), channels a multiple of {groups}")
        return _affine(key, shape[:1], w_init, b_init)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        _check_channels(params, x, "b")
        if x.shape[1] % groups:
            raise OpError(f"input is {told(x)}, wanted a number of channels that is a multiple of {groups}")
        apart = x.reshape(len(x), groups, x.shape[1] // groups, *x.shape[2:])
        normal, pull = _normalise(apart, tuple(range(2, apart.ndim)), eps)

        def pull_together(d: Array) -> Array:
            return pull(d.reshape(apart.shape)).reshape(x.shape)

        return _scale(params, normal.reshape(x.shape), pull_together, _all_but_channels(x))

    return Op(init, apply)


@operator
def batch_norm(eps: float = 1e-5, w_init: Initialiser = ones, b_init: Initialiser = zeros) -> Op:
    """Normalises each channel of (batch, channels, ...): with a key by its statistics in the batch, without by params.

    With a key it trains: by the batch's own mean and mean square. Without, it predicts: by `mean` and `var` (channels,)
    from params, 0 and 1 until `calibrate` puts statistics there. Their gradients are zeros in both forms, and only what
    heeds no gradient, such as weight decay, changes them in training: calibrate after it. `eps` is added to either
    variance. Params `w` and `b` (channels,) are learnt. In a `shard` or `microbatch`, the batch is the piece. Ioffe &
    Szegedy, "Batch Normalization", 2015.
    """
    eps = _positive(eps)

    def init(key: Key, shape: Shape) -> Params:
        if not shape:
            raise OpError("shape is (), wanted (channels, ...)")
        statistics = {"mean": np.zeros(shape[0], np.float32), "var": np.ones(shape[0], np.float32)}
        return _affine(key, shape[:1], w_init, b_init) | statistics

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        _check_channels(params, x, "b", "mean", "var")
        axes = _all_but_channels(x)
        if key is None:
            mean, var = (np.expand_dims(params[name], axes) for name in ("mean", "var"))
            std = np.sqrt(var + eps)
            normal, pull = (x - mean) / std, lambda d: d / std
        else:
            normal, pull = _normalise(x, axes, eps)
        y, pull_all = _scale(params, normal, pull, axes)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dparams, dx = pull_all(dy, need_dx)
            if isinstance(key, _Calibration):
                return _statistics(x, axes), dx
            return dparams | {name: np.zeros_like(params[name]) for name in ("mean", "var")}, dx

        return y, vjp

    return Op(init, apply, draws=True)


def calibrate(net: Op, params: Params, batches: Iterable[Array], rng: Rng = 0) -> Params:
    """`params` with the statistics of `batches` in every batch_norm of `net`, wherever it is: those it predicts by.

    They are the means, over the batches, of each batch's mean and unbiased variance in the training form, as PyTorch's
    running statistics are with `momentum=None`. What draws in the net does so from `rng`. Raises ValueError if there
    are no batches or an empty one.

    Keys go down to every operator, and cotangents come up to the place of the parameter that they belong to, however
    combinators are nested. So the net is applied with a key by which a batch_norm knows that its vjp is asked for
    statistics in the place of cotangents. Where one is used several times, as in `shared` or `shard`, all count alike;
    where gradients do not come up, as out of `freeze`, the statistics stay as they are.
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
    """A batch's statistics in the place of cotangents. They may be added up: `b` counts how many there are."""
    numbers = prod(x.shape[axis] for axis in axes)
    mean: Array = x.mean(axes, keepdims=True)
    var = np.square(x - mean).sum(axes) / max(1, numbers - 1)
    return {"w": np.zeros_like(var), "b": np.ones_like(var), "mean": mean.reshape(var.shape), "var": var}


def _placed(params: Params, sums: Params) -> Params:
    """`params` with the means of the statistics in `sums`; in it all else is zeros, the cotangents of zeros."""
    if {"w", "b", "mean", "var"} == params.keys() and np.all(sums["b"]):
        return {**params, **{name: sums[name] / sums["b"] for name in ("mean", "var")}}
    return {name: _placed(child, sums[name]) if isinstance(child, dict) else child for name, child in params.items()}


def _positive(eps: float) -> float:
    """`eps` as Python has it: a scalar of NumPy's would make float64 of float32."""
    if not (isinstance(eps, int | float) and 0 < eps < np.inf):
        raise OpError(f"eps is {eps!r}, wanted a number greater than 0")
    return float(eps)


def _affine(key: Key, shape: Shape, w_init: Initialiser, b_init: Initialiser) -> Params:
    return {"w": w_init(key.fold("w"), shape, 1, 1), "b": b_init(key.fold("b"), shape, 1, 1)}


def _all_but_channels(x: Array) -> Axes:
    return 0, *range(2, x.ndim)


def _check_channels(params: Params, x: Array, *names: str) -> None:
    w = fitting(params, "w", (None,))
    for name in names:
        fitting(params, name, w.shape, w.dtype)
    if x.ndim < 2 or x.shape[1] != len(w) or x.dtype != w.dtype:
        raise OpError(f"input is {told(x)}, wanted {w.dtype} (batch, {len(w)}, ...)")


def _normalise(x: Array, axes: Axes, eps: float) -> tuple[Array, Pull]:
    """`x` less its mean over `axes`, over its standard deviation there; and the adjoint."""
    count = max(1, prod(x.shape[axis] for axis in axes))
    normal = x - x.sum(axes, keepdims=True) / count
    std = np.sqrt(np.square(normal).sum(axes, keepdims=True) / count + eps)
    normal /= std

    def pull(d: Array) -> Array:
        dx: Array = d - d.sum(axes, keepdims=True) / count
        dx -= normal * ((d * normal).sum(axes, keepdims=True) / count)
        dx /= std
        return dx

    return normal, pull


def _scale(params: Params, normal: Array, pull: Pull, axes: Axes) -> tuple[Array, Vjp]:
    """`normal` times `w` plus `b`, the same all over `axes`; `pull` takes the cotangent of `normal` to the input's."""
    w, b = (np.expand_dims(params[name], axes) for name in "wb")
    y = normal * w
    y += b

    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
        dparams = {"w": (dy * normal).sum(axes), "b": dy.sum(axes)}
        return dparams, pull(dy * w) if need_dx else None

    return y, vjp
