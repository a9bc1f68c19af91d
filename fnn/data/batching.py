"""Batches: which examples are looked at together, and in what order, as a function of a key."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fnn.checks.values import check_int
from fnn.random import Rng, as_key


def batches(n: int, size: int, rng: Rng) -> Iterator[NDArray[np.intp]]:
    """The indices 0 to n - 1, shuffled by the key, as arrays of `size` at a time; the last may be shorter.

    Equal keys give equal batches, so fold the epoch's number into the key. Raises ValueError, at the call and not at
    the first batch, unless n is an int of at least 0 and the size one of at least 1.
    """
    n, size = check_int("n", n), check_int("size", size, 1)
    starts = range(0, n, size)
    order = as_key(rng).generator().permutation(n).astype(np.intp, copy=False)
    return (order[start : start + size] for start in starts)
