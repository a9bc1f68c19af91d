"""Arrays with some numbers set to zero, by bits: multiplying with zero would turn infinity into nan.

`np.where` does the same, but takes ten times as long for masks without a pattern.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

INTEGERS = {2: np.int16, 4: np.int32, 8: np.int64}


def keep(x: Array, mask: Array, out: Array | None = None) -> Array:
    """`x` where the bools in `mask` are true, and 0 elsewhere, in an array of its own or in `out`."""
    integer = INTEGERS[x.itemsize]
    bits = np.negative(mask.view(np.int8)).astype(integer)  # all bits of a number to be kept
    if out is None:
        np.bitwise_and(x.view(integer), bits, out=bits)
        return bits.view(x.dtype)
    np.bitwise_and(x.view(integer), bits, out=out.view(integer))
    return out


def drop_kept(x: Array, kept: Array) -> None:
    """Sets the numbers of `x` to 0, in place, that `keep` has taken from it into `kept`."""
    integer = INTEGERS[x.itemsize]
    np.bitwise_xor(x.view(integer), kept.view(integer), out=x.view(integer))
