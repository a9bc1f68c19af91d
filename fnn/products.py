"""Matrix products of the sizes that BLAS is fastest at."""

from functools import lru_cache

import numpy as np

from fnn.op import Array
from fnn.threads import each, spare

SMALL = 1_000_000
"""A product of at most so many multiplications OpenBLAS makes without packing its factors first, which pays."""

LARGE = 16_000_000
"""From so many multiplications on, it pays to hand a part of a stack of products to another thread."""


def product(a: Array, b: Array) -> Array:
    """The product of two matrices.

    It is made of products of so many rows of `a` that these are small: for a layer of some hundred features and a batch
    of some dozen examples, 5 to 20 % faster. An outer product is not BLAS's affair at all: a quarter of the time.
    """
    rows, inner = a.shape
    y: Array
    if inner == 1:
        y = a * b
    elif (count := parts(rows, b.size, 8)) == 1:
        y = a @ b
    else:
        y = np.empty((count, rows // count, b.shape[1]), a.dtype)
        stack(a.reshape(count, rows // count, inner), np.ascontiguousarray(b)[np.newaxis], y, 0)
        y = y.reshape(rows, -1)
    return y


def stack(a: Array, b: Array, out: Array, axis: int) -> None:
    """Puts the products of the matrices in `a` and `b` into `out`: by all threads that are spare, along an axis of it.

    All have as many axes; along this one, a factor that is the same for all of `out` is 1 long.
    """
    length = out.shape[axis]
    threads = min(spare(), length) if out.size * a.shape[-1] >= LARGE else 1

    def some(i: int) -> None:
        part = (*[slice(None)] * axis, slice(length * i // threads, length * (i + 1) // threads))
        left, right = (m if m.shape[axis] == 1 else m[part] for m in (a, b))
        np.matmul(left, right, out=out[part])

    if threads > 1:
        each(some, threads, threads)
    else:
        np.matmul(a, b, out=out)


@lru_cache(maxsize=1000)
def parts(length: int, work: int, least: int) -> int:
    """In how many equal parts to make a product that takes `work` multiplications for each unit of `length`.

    As few as are small, where such parts hold `least` units and more; one otherwise.
    """
    few = -(-length * work // SMALL)
    return next((n for n in range(max(few, 1), length // least + 1) if length % n == 0), 1)
