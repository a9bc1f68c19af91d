"""Randomness without state: a key is a value, and what is drawn from it is a function of that value alone."""

from operator import index
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

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
        return Key(self.seed, self.path + parts)

    def generator(self) -> "Generator":
        """A fresh NumPy generator at the beginning of this key's stream."""
        words = [word for part in self.path for word in _words(part)]
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(as_key(self.seed).seed, spawn_key=words)))


Rng: TypeAlias = int | Key
"""What is taken wherever randomness is asked for: a seed or a key."""


def as_key(rng: Rng) -> Key:
    """`rng` itself when it is a key, and the key of that seed when it is an int (0 or more)."""
    if isinstance(rng, Key):
        return rng
    try:
        seed = index(rng)
    except TypeError:
        raise TypeError(f"rng must be an int seed or a Key, not {type(rng).__name__}: a generator is state") from None
    if seed < 0:
        raise ValueError(f"a seed must be 0 or more, got {seed}")
    return Key(seed)


def _words(part: str | int) -> tuple[int, ...]:
    """`part` as 32-bit words that no other part, nor any run of parts, spells."""
    if isinstance(part, str):
        letters = part.encode()
        return (1, len(letters), *letters)
    number = index(part)
    if not 0 <= number < 1 << 64:
        raise ValueError(f"a key folds in numbers from 0 up to 2**64, got {number}")
    return (0, number & 0xFFFFFFFF, number >> 32)
