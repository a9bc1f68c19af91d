"""New arrays whose memory is not zero, as after the work of a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from fnn.op import Array

_empty = np.empty


def _full_of_rubbish(shape: Any, dtype: Any = float, *args: Any, **kwargs: Any) -> Array:
    array: Array = _empty(shape, dtype, *args, **kwargs)
    array.fill(np.nan if array.dtype.kind == "f" else 77)
    return array


@contextmanager
def rubbish_in_new_arrays() -> Iterator[None]:
    """In the block, `np.empty` returns arrays full of NaN, so that nobody can take what it did not write."""
    with patch.object(np, "empty", _full_of_rubbish):
        yield
