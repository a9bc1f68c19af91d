"""Batches: which examples are looked at together, and in what order, as a function of a key."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fnn.random import Rng, as_key


def batches(n: int, size: int, rng: Rng) -> Iterator[NDArray[np.intp]]:
    """The indices 0 to n - 1, shuffled by the key, as arrays of `size` at a time; the last may be shorter.

    Equal keys give equal batches, so fold the epoch's number into the key. Raises ValueError, at the call and not at
    the first batch, for a negative n or a size below 1.
    """
    if n < 0:
        raise ValueError(f"the number of examples must be 0 or more, got {n}")
    if size < 1:
        raise ValueError(f"the size of a batch must be 1 or more, got {size}")
    starts = range(0, n, size)
    order = as_key(rng).generator().permutation(n).astype(np.intp, copy=False)
    return (order[start : start + size] for start in starts)
