"""The two-dimensional convolution."""

from __future__ import annotations

from collections.abc import Sequence

from fnn.checks.arrays import get_params
from fnn.checks.errors import describe_value
from fnn.checks.images import check_channels_and_groups, check_image_shape, check_images, check_pair
from fnn.init import Initialiser, glorot_uniform, init_affine, zeros
from fnn.kernels.correlation import (
    Windows,
    accurate_sum,
    correlate,
    correlate_input,
    correlate_weights,
    fast_order,
    run_both,
)
from fnn.op import Array, Op, OpError, Params, Shape, Vjp, operator
from fnn.random import Key


@operator
def conv(
    out_channels: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    w_init: Initialiser = glorot_uniform,
    b_init: Initialiser = zeros,
) -> Op:
    """Convolution (cross-correlation) of (batch, in_channels, height, width) with `out_channels` kernels, plus a bias.

    y[n, o, i, j] = b[o] + sum over c, k, l of w[o, c, k, l] x[n, c, i stride + k dilation, j stride + l dilation],
    where `x` has `padding` zeros at each edge, and c runs over the channels of the group of o.

    Sizes are ints or (height, width) pairs. `padding` may also be "valid" (none) or "same" (ceil(size / stride)
    outputs; if the padding is odd, the end gets one zero more). Params: `w` (out_channels, in_channels / groups, kh,
    kw) and, with bias, `b` (out_channels,).
    """
    kernel, steps = check_pair("kernel_size", kernel_size, 1), check_pair("stride", stride, 1)
    gaps = check_pair("dilation", dilation, 1)
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise OpError(f"padding: expected 'same', 'valid' or a size, got {describe_value(padding)}")
    margins = (padding, padding) if isinstance(padding, str) else check_pair("padding", padding, 0)
    out_channels, groups = check_channels_and_groups(out_channels, groups)
    shapes = {"w": (out_channels, None, *kernel), "b": (out_channels,) if bias else None}

    def init(key: Key, shape: Shape) -> Params:
        check_image_shape(shape, groups)
        taps = kernel[0] * kernel[1]
        size = (out_channels, shape[0] // groups, *kernel)
        fans = (size[1] * taps, out_channels // groups * taps)
        return init_affine(key, size, (out_channels,) if bias else None, fans, w_init, b_init)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        w, b = get_params(params, shapes)
        check_images(x, w.dtype, groups * w.shape[1])
        windows = Windows.over(x.shape[2:], kernel, steps, gaps, margins)
        x = fast_order(x)
        y = correlate(x, w, b, windows, groups)
        macs = y.size * w[0].size

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dy = fast_order(dy)
            dw, dx = run_both(
                lambda: correlate_weights(x, dy, w.shape, windows, groups),
                lambda: correlate_input(dy, w, windows, groups) if need_dx else None,
                macs,
            )
            return {"w": dw, "b": accurate_sum(dy, (0, 2, 3))} if bias else {"w": dw}, dx

        return y, vjp

    return Op(init, apply)
