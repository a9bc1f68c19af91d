"""Set numbers of arrays to zero by their bits, because infinity times zero is nan.

`np.where` does the same, but takes ten times as long for random masks.
"""

from __future__ import annotations

import numpy as np

from fnn.checks.arrays import Array

INTEGERS = {2: np.int16, 4: np.int32, 8: np.int64}


def keep(x: Array, mask: Array, out: Array | None = None) -> Array:
    """Returns `x` where the bools in `mask` are true, and 0 elsewhere, in `out` or in a new array."""
    integer = INTEGERS[x.itemsize]
    bits = np.negative(mask.view(np.int8)).astype(integer)  # all bits are 1 where the mask is true
    np.bitwise_and(x.view(integer), bits, out=bits if out is None else out.view(integer))
    return bits.view(x.dtype) if out is None else out


def drop_kept(x: Array, kept: Array, out: Array) -> Array:
    """Returns `out`, with the numbers of `x` that `keep` has not copied into `kept`, and 0 for the others."""
    integer = INTEGERS[x.itemsize]
    np.bitwise_xor(x.view(integer), kept.view(integer), out=out.view(integer))
    return out
