"""Matrix products of the sizes that BLAS is fastest at."""

from functools import cache

import numpy as np

from fnn.op import Array

SMALL = 1_000_000
"""A product of at most so many multiplications OpenBLAS makes without packing its factors first, which pays."""


def product(a: Array, b: Array) -> Array:
    """The product of two matrices.

    It is made of products of so many rows of `a` that these are small: for a layer of some hundred features and a batch
    of some dozen examples, 5 to 20 % faster. An outer product is not BLAS's affair at all: a quarter of the time.
    """
    rows, inner = a.shape
    count = parts(rows, b.size, 8)
    y: Array
    if inner == 1:
        y = a * b
    elif count == 1:
        y = a @ b
    else:
        y = (a.reshape(count, rows // count, inner) @ np.ascontiguousarray(b)).reshape(rows, -1)
    return y


@cache
def parts(length: int, work: int, least: int) -> int:
    """In how many equal parts to make a product that takes `work` multiplications for each unit of `length`.

    As few as are small, where such parts hold `least` units and more; one otherwise.
    """
    few = -(-length * work // SMALL)
    return next((n for n in range(max(few, 1), length // least + 1) if length % n == 0), 1)
