"""Initialisers: functions of a key, a shape and the numbers of inputs and outputs that a unit is wired to."""

from collections.abc import Callable
from math import prod, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fnn.checks.values import check_non_negative
from fnn.random import Key

Initialiser: TypeAlias = Callable[[Key, tuple[int, ...], int, int], NDArray[Any]]
"""`(key, shape, fan_in, fan_out)` to a float32 array of `shape`."""


def glorot_uniform(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
    """Uniform of variance 2 / (fan_in + fan_out), to keep signals and gradients at one scale (Glorot, Bengio 2010)."""
    return _uniform(key, shape, sqrt(6 / max(1, fan_in + fan_out)))


def glorot_normal(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
    """Normal of variance 2 / (fan_in + fan_out); see `glorot_uniform`."""
    return _normal(key, shape, sqrt(2 / max(1, fan_in + fan_out)))


def he_uniform(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
    """Uniform of variance 2 / fan_in, to keep signals at one scale through relu (He et al. 2015)."""
    return _uniform(key, shape, sqrt(6 / max(1, fan_in)))


def he_normal(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
    """Normal of variance 2 / fan_in; see `he_uniform`."""
    return _normal(key, shape, sqrt(2 / max(1, fan_in)))


def lecun_uniform(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
    """Uniform of variance 1 / fan_in, to keep signals at one scale through linear maps (LeCun et al. 1998)."""
    return _uniform(key, shape, sqrt(3 / max(1, fan_in)))


def lecun_normal(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
    """Normal of variance 1 / fan_in; see `lecun_uniform`."""
    return _normal(key, shape, sqrt(1 / max(1, fan_in)))


def orthogonal(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
    """A random matrix whose rows, or columns if they are fewer, are of length 1 and orthogonal (Saxe et al. 2014).

    Of more than two axes, all but the first count as the columns. Every such matrix is equally likely.
    """
    rows, columns = prod(shape[:1]), prod(shape[1:])
    q, r = np.linalg.qr(key.generator().standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diagonal(r) < 0, -1, 1)  # without it, QR's own choice of signs would favour some
    return (q if rows >= columns else q.T).reshape(shape).astype(np.float32)


def truncated_normal(std: float) -> Initialiser:
    """The initialiser that draws from a normal distribution of deviation `std`, cut off at two of them either side."""
    std = check_non_negative("std", std)

    def init(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
        generator = key.generator()
        drawn = generator.standard_normal(shape)
        while np.any(outside := np.abs(drawn) > 2):
            drawn[outside] = generator.standard_normal(np.count_nonzero(outside))
        return (std * drawn).astype(np.float32)

    return _named(init, f"truncated_normal({std!r})")


def constant(value: float) -> Initialiser:
    """The initialiser that sets every number to `value`."""
    value = float(value)  # so that `repr` shows a number of Python's

    def init(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
        return np.full(shape, value, np.float32)

    return _named(init, f"constant({value!r})")


def zeros(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
    """Nothing but zeros."""
    return np.zeros(shape, np.float32)


def ones(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
    """Nothing but ones."""
    return np.ones(shape, np.float32)


def init_affine(
    key: Key,
    w_shape: tuple[int, ...],
    b_shape: tuple[int, ...] | None,
    fans: tuple[int, int],
    w_init: Initialiser,
    b_init: Initialiser,
) -> dict[str, NDArray[Any]]:
    """The initial `w` of an operator and, unless its shape is None, its initial `b`. `fans` are fan_in and fan_out."""
    params = {"w": w_init(key.fold("w"), w_shape, *fans)}
    return params if b_shape is None else params | {"b": b_init(key.fold("b"), b_shape, *fans)}


def _uniform(key: Key, shape: tuple[int, ...], limit: float) -> NDArray[Any]:
    return key.generator().uniform(-limit, limit, shape).astype(np.float32)


def _normal(key: Key, shape: tuple[int, ...], std: float) -> NDArray[Any]:
    return (std * key.generator().standard_normal(shape)).astype(np.float32)


def _named(init: Initialiser, call: str) -> Initialiser:
    """`init`, shown in a `repr` as the call that made it."""
    init.__name__ = call
    return init
