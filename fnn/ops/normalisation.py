"""Norm layers, and `calibrate`, which estimates the statistics that batch_norm predicts with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from math import fsum, prod
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import get_params, input_error
from fnn.checks.errors import describe, describe_value
from fnn.checks.values import check_int, check_positive
from fnn.init import Initialiser, init_affine, ones, zeros
from fnn.kernels.normalise import normalise_channels, normalise_examples, wide_mean, wide_sum
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, operator
from fnn.random import Key, Rng, as_key
from fnn.tree import tree_map, widen

Axes: TypeAlias = tuple[int, ...]
Observer: TypeAlias = Callable[[Array, Array, Axes], None]

MAX_AXES = 64  # of an array in NumPy
INITIAL = {"mean": 0.0, "var": 1.0}  # the statistics before `calibrate`


@operator
def batch_norm(eps: float = 1e-5, w_init: Initialiser = ones, b_init: Initialiser = zeros) -> Op:
    """Normalises each channel of (batch, channels, ...): (x - mean) / sqrt(var + eps) * w + b.

    With a key (training), mean and variance are those of the batch. A batch of one example is then an OpError; in
    `microbatch` and `per_example` the batch is the piece. Without a key (prediction), they are the params
    `mean` and `var`, which are 0 and 1 until you call `calibrate` after training; predicting before that gives an
    UncalibratedWarning. The gradients of `mean` and `var` are zeros, but weight decay still changes them.

    Params: `w`, `b`, `mean` and `var` (channels,). Ioffe & Szegedy, "Batch Normalization", 2015.
    """
    eps = check_positive("eps", eps, OpError)

    def init(key: Key, shape: Shape) -> Params:
        if not shape:
            raise OpError("expected shape (channels, ...), got ()")
        statistics = {name: np.full(shape[0], value, np.float32) for name, value in INITIAL.items()}
        return init_affine(key, shape[:1], shape[:1], (1, 1), w_init, b_init) | statistics

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        arrays = _get_channels(params, x, "w", "b", "mean", "var")
        axes = (0, *range(2, x.ndim))
        w, b, mean, var = (a.reshape(1, -1, *(1 for _ in axes[1:])) for a in arrays)
        statistics = (mean, var) if key is None else None
        observe = _observer.get()
        if key is not None and observe:
            observe(arrays[2], x, axes)
        elif key is not None and len(x) == 1:
            raise OpError(
                "expected at least 2 examples in training, got 1, which has no variance; use a larger batch (in "
                "microbatch and per_example: larger pieces), leave out a last batch of 1, or use group_norm"
            )
        y, adjoint = normalise_channels(x, w, b, axes, eps, statistics)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dw, db, dx = adjoint(dy, need_dx)
            no_gradients = {"mean": np.zeros_like(arrays[2]), "var": np.zeros_like(arrays[3])}
            return {"w": dw.ravel(), "b": db.ravel(), **no_gradients}, dx

        return y, vjp

    return Op(init, apply, takes_key=True, statistics=INITIAL)


_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)
"""While `calibrate` runs: the function to which each batch_norm reports its params' `mean`, its input and its axes."""


@contextmanager
def keep_statistics() -> Iterator[None]:
    """In the block, `calibrate` does not change the statistics of the batch_norms that are applied."""
    token = _observer.set(_observer.get() and (lambda mean, x, axes: None))
    try:
        yield
    finally:
        _observer.reset(token)


def calibrate(net: Op, params: Params, batches: Iterable[Array], rng: Rng = 0) -> Params:
    """Returns params with batch_norm's inference statistics estimated from batches; call it once after training.

    They are the averages, over the batches, of each batch's mean and unbiased variance in training, as PyTorch's
    running statistics with `momentum=None`. If a batch_norm is used several times, as in `shared` or `microbatch`, all
    uses count alike. Random operators use `rng`. Statistics inside `freeze` do not change. Raises ValueError if there
    is no batch or an empty one, and OpError if a batch, or a piece of it, has one number per channel.
    """
    key, count = as_key(rng), 0
    copies = tree_map(copy, widen(params))  # each array then stands for one place in params
    found: dict[int, list[tuple[Array, Array]]] = {}

    def observe(mean: Array, x: Array, axes: Axes) -> None:
        if len(x):
            found.setdefault(id(mean), []).append(_batch_statistics(x, axes))

    token = _observer.set(observe)
    try:
        for x in batches:
            if not len(x):
                raise ValueError(f"calibrate: expected batches of at least one example, got {describe(x)}")
            net.apply(copies, widen(x), key.fold(count))
            count += 1
    finally:
        _observer.reset(token)
    if not count:
        raise ValueError("calibrate: expected at least one batch, got none")
    return _with_statistics(params, copies, found)


def _batch_statistics(x: Array, axes: Axes) -> tuple[Array, Array]:
    """The mean and the unbiased variance over `axes`, in float64."""
    numbers = prod(x.shape[axis] for axis in axes)
    if numbers < 2:
        raise OpError(f"expected at least 2 numbers of each channel to estimate a variance, got {describe(x)}")
    mean = wide_mean(x, axes, True)
    return mean.ravel(), wide_sum(np.square(x - mean.astype(x.dtype)), axes) / (numbers - 1)


def _with_statistics(params: Params, copies: Params, found: dict[int, list[tuple[Array, Array]]]) -> Params:
    """`params` with the averages of the statistics found. Threads report in any order: `fsum` is exact in each."""
    if uses := found.get(id(copies.get("mean"))):
        averages = {}
        for name, values in zip(INITIAL, zip(*uses, strict=True), strict=True):
            averages[name] = np.array([fsum(a) / len(uses) for a in zip(*values, strict=True)], params[name].dtype)
        return params | averages
    return {
        name: _with_statistics(child, copies[name], found) if isinstance(child, dict) else child
        for name, child in params.items()
    }


@operator
def layer_norm(axes: int = 1, eps: float = 1e-5, w_init: Initialiser = ones, b_init: Initialiser = zeros) -> Op:
    """Normalises each example over its last `axes` axes: (x - mean) / sqrt(var + eps) * w + b, var the mean square.

    Params: `w` and `b`, with the shape of these axes. As PyTorch's LayerNorm over `shape[-axes:]`. Ba, Kiros & Hinton,
    "Layer Normalization", 2016.
    """
    axes, eps = check_int("axes", axes, 1, OpError), check_positive("eps", eps, OpError)
    if axes > MAX_AXES:
        raise OpError(f"axes: expected an int of at most {MAX_AXES}, got {describe_value(axes)}")
    last = tuple(range(-axes, 0))
    names = tuple(f"axis {axis}" for axis in last)

    def init(key: Key, shape: Shape) -> Params:
        if len(shape) < axes:
            raise OpError(f"expected a shape of at least {axes} axes, got {shape}")
        return init_affine(key, shape[-axes:], shape[-axes:], (1, 1), w_init, b_init)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        w, b = get_params(params, {"w": names, "b": names})
        if x.ndim <= axes or x.shape[-axes:] != w.shape or x.dtype != w.dtype:
            raise input_error(x, w.dtype, {"...": None, **dict(zip(names, w.shape, strict=True))})
        kept = tuple(range(x.ndim - axes))
        y, adjoint = normalise_examples(x, np.expand_dims(w, kept), np.expand_dims(b, kept), last, eps)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dw, db, dx = adjoint(dy, need_dx)
            return {"w": dw.reshape(w.shape), "b": db.reshape(w.shape)}, dx

        return y, vjp

    return Op(init, apply)


@operator
def group_norm(groups: int, eps: float = 1e-5, w_init: Initialiser = ones, b_init: Initialiser = zeros) -> Op:
    """Normalises each example of (batch, channels, ...) over each of `groups` groups of channels and all later axes.

    (x - mean) / sqrt(var + eps) * w + b, var the mean square, as PyTorch's GroupNorm. Params: `w` and `b` (channels,).
    Wu & He, "Group Normalization", 2018.
    """
    groups, eps = check_int("groups", groups, 1, OpError), check_positive("eps", eps, OpError)

    def init(key: Key, shape: Shape) -> Params:
        if not shape or shape[0] % groups:
            multiple = f" with a multiple of {groups} channels" if groups > 1 else ""
            raise OpError(f"expected shape (channels, ...){multiple}, got {shape}")
        return init_affine(key, shape[:1], shape[:1], (1, 1), w_init, b_init)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        w, b = _get_channels(params, x, "w", "b")
        if x.shape[1] % groups:
            raise OpError(f"expected a multiple of {groups} channels, got {x.shape[1]}")
        size = x.shape[1] // groups
        grouped = x.reshape(len(x), groups, size, *x.shape[2:])
        affine = (1, groups, size) + (1,) * (x.ndim - 2)
        axes = tuple(range(2, grouped.ndim))
        y, adjoint = normalise_channels(grouped, w.reshape(affine), b.reshape(affine), axes, eps)

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dw, db, dx = adjoint(dy.reshape(grouped.shape), need_dx)
            return {"w": dw.ravel(), "b": db.ravel()}, None if dx is None else dx.reshape(x.shape)

        return y.reshape(x.shape), vjp

    return Op(init, apply)


def _get_channels(params: Params, x: Array, *names: str) -> list[Array]:
    """The params of these names. Raises OpError unless they are (channels,) and `x` is (batch, channels, ...)."""
    arrays: list[Array] = get_params(params, dict.fromkeys(names, ("channels",)))
    w = arrays[0]
    if x.ndim < 2 or x.shape[1] != len(w) or x.dtype != w.dtype:
        raise input_error(x, w.dtype, {"channels": len(w), "...": None})
    return arrays
