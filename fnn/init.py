"""Initialisers: functions of a key, a shape and the numbers of inputs and outputs that a unit is wired to."""

from collections.abc import Callable
from math import sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fnn.random import Key

Initialiser: TypeAlias = Callable[[Key, tuple[int, ...], int, int], NDArray[Any]]
"""`(key, shape, fan_in, fan_out)` to a float32 array of `shape`."""


def glorot_uniform(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
    """Uniform of variance 2 / (fan_in + fan_out), to keep signals and gradients at one scale (Glorot, Bengio 2010)."""
    limit = sqrt(6 / max(1, fan_in + fan_out))
    return key.generator().uniform(-limit, limit, shape).astype(np.float32)


def zeros(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[Any]:
    """Nothing but zeros."""
    return np.zeros(shape, np.float32)
