"""Random operators."""

from __future__ import annotations

import numpy as np

from fnn.checks.arrays import check_no_params
from fnn.checks.values import check_fraction
from fnn.kernels.masks import keep
from fnn.op import Array, Op, OpError, Params, Vjp, operator
from fnn.random import Key


@operator
def dropout(rate: float) -> Op:
    """Sets each number to 0 with probability `rate` and divides the others by 1 - rate; the identity without a key.

    The mask of an example depends on the key, the shape of an example and its position in the batch, but not on later
    examples. Srivastava et al., "Dropout", JMLR 2014.
    """
    rate = check_fraction("rate", rate, OpError)

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        check_no_params(params)
        if key is None:
            return x, lambda dy, need_dx=True: ({}, dy)
        kept = np.empty_like(x, bool)  # in the memory order of x; random numbers come example by example
        np.greater_equal(key.generator().random(x.shape, np.float32), rate, out=kept)

        def masked(a: Array) -> Array:
            b = keep(a, kept)
            b /= 1 - rate
            return b

        return masked(x), lambda dy, need_dx=True: ({}, masked(dy))

    return Op(lambda key, shape: {}, apply, takes_key=True)
