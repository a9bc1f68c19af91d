"""Randomness without state: a key is a value, and the numbers drawn from it depend on this value alone."""

from typing import NamedTuple, TypeAlias

import numpy as np

from fnn.checks.values import check_part, check_seed


class Key(NamedTuple):
    """An immutable source of randomness: a seed, and the names and numbers folded into it.

    `Key(0).fold("dropout1", 3)` is another key, and its numbers are independent of those of `Key(0)`. Equal keys draw
    equal numbers, on every machine and in every version: PCG64 starts from `SeedSequence(seed, spawn_key=words)`.
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def fold(self, *parts: str | int) -> "Key":
        """Returns a new key for `parts`: names, or numbers from 0 to 2**64 - 1."""
        for part in parts:
            if type(part) is not str and type(part) is not int:
                _encode(part)  # raises SeedError unless it is a name or a number of another type
        return Key(self.seed, self.path + parts)

    def generator(self) -> "np.random.Generator":
        """Returns a new NumPy generator at the start of this key's random numbers."""
        words = [word for part in self.path for word in _encode(part)]
        sequence = np.random.SeedSequence(check_seed("seed", self.seed), spawn_key=words)
        return np.random.Generator(np.random.PCG64(sequence))


Rng: TypeAlias = int | Key
"""A seed or a key, for every function that needs random numbers."""


def as_key(rng: Rng, name: str = "rng") -> Key:
    """Returns `rng` if it is a key, or the key of an int seed of at least 0.

    Raises SeedError, with `name` in front, for anything else. Bools are no seeds, and NumPy Generators have state.
    """
    if not isinstance(rng, Key):
        return Key(check_seed(name, rng))
    if type(rng.seed) is not int:
        check_seed(name, rng.seed)
    return rng


def _encode(part: str | int) -> tuple[int, ...]:
    """Encodes `part` as 32-bit words. No other part, and no sequence of parts, has the same words."""
    if isinstance(part, str):
        letters = part.encode(errors="surrogatepass")  # any text is a name
        return (1, len(letters), *letters)
    number = check_part(part)
    return (0, number & 0xFFFFFFFF, number >> 32)
