"""Pooling of whole images."""

from __future__ import annotations

import numpy as np

from fnn.checks import check_no_params, input_error
from fnn.kernels.reductions import accurate_mean
from fnn.memory import from_wchn
from fnn.op import Array, Op, OpError, Params, Vjp


def _global_avgpool(params: Params, x: Array) -> tuple[Array, Vjp]:
    check_no_params(params)
    if x.ndim != 4:
        raise input_error(x, None, {"channels": None, "height": None, "width": None})
    if not x.shape[2] * x.shape[3]:
        raise OpError(f"expected at least one pixel, got {x.shape[2]} x {x.shape[3]}")
    batch, channels, height, width = x.shape

    def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array]:
        share = (dy / (height * width)).T[:, None]
        return {}, from_wchn(np.broadcast_to(share, (width, channels, height, batch)).copy())

    return accurate_mean(x, (2, 3)), vjp


global_avgpool = Op(lambda key, shape: {}, _global_avgpool, kind="global_avgpool")
"""The mean of each channel: (batch, channels, height, width) to (batch, channels). Lin, Chen & Yan, 2014."""
