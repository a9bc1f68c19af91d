"""Randomness without state: a key is a value, and what is drawn from it is a function of that value alone."""

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from fnn.checks.errors import describe_value
from fnn.checks.values import as_int

if TYPE_CHECKING:
    from numpy.random import Generator


class Key(NamedTuple):
    """An immutable source of randomness: a seed, and the names and numbers folded into it.

    `Key(0).fold("dropout1", 3)` is another key, whose draws have nothing to do with `Key(0)`'s. Equal keys draw equal
    numbers, on every machine and for ever: `SeedSequence(seed, spawn_key=...)` feeding PCG64.
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def fold(self, *parts: str | int) -> "Key":
        """The key that belongs to `parts` (names, or numbers from 0 up to 2**64) under this one."""
        for part in parts:
            if type(part) is not str and type(part) is not int:
                _words(part)  # raises for what is neither
        return Key(self.seed, self.path + parts)

    def generator(self) -> "Generator":
        """A fresh NumPy generator at the beginning of this key's stream."""
        words = [word for part in self.path for word in _words(part)]
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_seed("seed", self.seed), spawn_key=words)))


Rng: TypeAlias = int | Key
"""What is taken wherever randomness is asked for: a seed or a key."""


class SeedError(TypeError, ValueError):
    """Neither a seed nor a key, or a part of a key that is neither a name nor a number."""


def as_key(rng: Rng, name: str = "rng") -> Key:
    """`rng` itself if it is a key, and the key of that seed if it is an int of at least 0.

    Raises SeedError, which calls it `name`, for anything else: a bool is not a seed, and a NumPy Generator has state.
    """
    if not isinstance(rng, Key):
        return Key(_seed(name, rng))
    if type(rng.seed) is not int:
        _seed(name, rng.seed)
    return rng


def _seed(name: str, value: int) -> int:
    number = as_int(value)
    if number is None:
        raise SeedError(f"{name}: expected an int seed or a Key, got {describe_value(value)}; pass a seed such as 0")
    if number < 0:
        raise ValueError(f"a seed must be 0 or more, got {number}")
    return number


def _words(part: str | int) -> tuple[int, ...]:
    """`part` as 32-bit words, different from those of any other part or run of parts."""
    if isinstance(part, str):
        letters = part.encode()
        return (1, len(letters), *letters)
    number = as_int(part)
    if number is None:
        raise SeedError(f"fold: expected a name or a number, got {describe_value(part)}")
    if not 0 <= number < 1 << 64:
        raise ValueError(f"a key folds in numbers from 0 up to 2**64, got {number}")
    return (0, number & 0xFFFFFFFF, number >> 32)
