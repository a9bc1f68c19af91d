"""Initialisers: functions of a key, a shape, fan_in and fan_out, the numbers of inputs and outputs of a unit."""

from collections.abc import Callable
from math import prod, sqrt
from typing import TypeAlias

import numpy as np

from fnn.checks.arrays import Array
from fnn.checks.calls import named_by_call
from fnn.checks.values import check_non_negative, check_real
from fnn.random import Key

Shape: TypeAlias = tuple[int, ...]
Initialiser: TypeAlias = Callable[[Key, Shape, int, int], Array]
"""`(key, shape, fan_in, fan_out)` to a float32 array of `shape`."""


def glorot_uniform(key: Key, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """Uniform of variance 2 / (fan_in + fan_out), to keep signals and gradients at one scale (Glorot, Bengio 2010)."""
    return _uniform(key, shape, sqrt(6 / max(1, fan_in + fan_out)))


def glorot_normal(key: Key, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """Normal of variance 2 / (fan_in + fan_out); see `glorot_uniform`."""
    return _normal(key, shape, sqrt(2 / max(1, fan_in + fan_out)))


def he_uniform(key: Key, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """Uniform of variance 2 / fan_in, to keep signals at one scale through relu (He et al. 2015)."""
    return _uniform(key, shape, sqrt(6 / max(1, fan_in)))


def he_normal(key: Key, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """Normal of variance 2 / fan_in; see `he_uniform`."""
    return _normal(key, shape, sqrt(2 / max(1, fan_in)))


def lecun_uniform(key: Key, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """Uniform of variance 1 / fan_in, to keep signals at one scale through linear maps (LeCun et al. 1998)."""
    return _uniform(key, shape, sqrt(3 / max(1, fan_in)))


def lecun_normal(key: Key, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """Normal of variance 1 / fan_in; see `lecun_uniform`."""
    return _normal(key, shape, sqrt(1 / max(1, fan_in)))


def orthogonal(key: Key, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """A random matrix whose rows, or columns if they are fewer, have length 1 and are orthogonal (Saxe et al. 2014).

    All axes but the first count as columns. Every such matrix is equally likely.
    """
    rows, columns = prod(shape[:1]), prod(shape[1:])
    q, r = np.linalg.qr(key.generator().standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diagonal(r) < 0, -1, 1)  # because QR prefers some signs
    return (q if rows >= columns else q.T).reshape(shape).astype(np.float32)


@named_by_call
def truncated_normal(std: float) -> Initialiser:
    """Makes an initialiser: normal with standard deviation `std`, where numbers beyond two of them are drawn again."""
    std = check_non_negative("std", std)

    def init(key: Key, shape: Shape, fan_in: int, fan_out: int) -> Array:
        generator = key.generator()
        values = generator.standard_normal(shape)
        while np.any(outside := np.abs(values) > 2):
            values[outside] = generator.standard_normal(np.count_nonzero(outside))
        return (std * values).astype(np.float32)

    return init


@named_by_call
def constant(value: float) -> Initialiser:
    """Makes an initialiser that sets every number to `value`."""
    value = check_real("value", value)

    def init(key: Key, shape: Shape, fan_in: int, fan_out: int) -> Array:
        return np.full(shape, value, np.float32)

    return init


def zeros(key: Key, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """All zeros."""
    return np.zeros(shape, np.float32)


def ones(key: Key, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """All ones."""
    return np.ones(shape, np.float32)


def init_affine(
    key: Key, w_shape: Shape, b_shape: Shape | None, fans: tuple[int, int], w_init: Initialiser, b_init: Initialiser
) -> dict[str, Array]:
    """The initial `w` of an operator and, unless its shape is None, its initial `b`. `fans` are fan_in and fan_out."""
    params = {"w": w_init(key.fold("w"), w_shape, *fans)}
    return params if b_shape is None else params | {"b": b_init(key.fold("b"), b_shape, *fans)}


def _uniform(key: Key, shape: Shape, limit: float) -> Array:
    return key.generator().uniform(-limit, limit, shape).astype(np.float32)


def _normal(key: Key, shape: Shape, std: float) -> Array:
    return (std * key.generator().standard_normal(shape)).astype(np.float32)
