"""Pooling: the maximum or the mean of each window, or of a whole image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from fnn.checks.arrays import check_no_params
from fnn.checks.images import check_images, check_pair
from fnn.kernels.pooling import Windows, image_mean, pool_max, pool_mean
from fnn.op import Array, Op, OpError, Params, Vjp, operator

Sizes: TypeAlias = int | Sequence[int]


@operator
def maxpool(kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> Op:
    """The maximum of each window of (batch, channels, height, width). `stride` defaults to `kernel_size`.

    Padding, at most half a window, is less than any number. The gradient goes to the first maximum in reading order.
    Leftover pixels at the edge are dropped.
    """
    return _pool(pool_max, kernel_size, stride, padding)


@operator
def avgpool(kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> Op:
    """The mean of each window of (batch, channels, height, width). Padding counts as zeros; else like `maxpool`."""
    return _pool(pool_mean, kernel_size, stride, padding)


def _pool(pool: Callable[..., Any], kernel_size: Sizes, stride: Sizes | None, padding: Sizes) -> Op:
    kernel = check_pair("kernel_size", kernel_size, 1)
    steps = kernel if stride is None else check_pair("stride", stride, 1)
    margins = check_pair("padding", padding, 0)
    if 2 * margins[0] > kernel[0] or 2 * margins[1] > kernel[1]:
        raise OpError(f"padding: expected at most half of the kernel size {kernel}, got {margins}")

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        check_no_params(params)
        check_images(x)
        y, adjoint = pool(x, Windows.over(x.shape[2:], kernel, steps, (1, 1), margins))
        return y, lambda dy, need_dx=True: ({}, adjoint(dy))

    return Op(lambda key, shape: {}, apply)


def _global_avgpool(params: Params, x: Array) -> tuple[Array, Vjp]:
    check_no_params(params)
    check_images(x)
    if not x.shape[2] * x.shape[3]:
        raise OpError(f"expected at least one pixel, got {x.shape[2]} x {x.shape[3]}")
    y, adjoint = image_mean(x)
    return y, lambda dy, need_dx=True: ({}, adjoint(dy))


global_avgpool = Op(
    lambda key, shape: {},
    _global_avgpool,
    kind="global_avgpool",
    doc="The mean of each channel: (batch, channels, height, width) to (batch, channels). Lin, Chen & Yan, 2014.",
)
