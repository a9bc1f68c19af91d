"""The transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence

from fnn.checks.arrays import get_params
from fnn.checks.images import check_channels_and_groups, check_image_shape, check_images, check_pair
from fnn.init import Initialiser, glorot_uniform, init_affine, zeros
from fnn.kernels.correlation import (
    Axis,
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
def conv_transpose(
    out_channels: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    w_init: Initialiser = glorot_uniform,
    b_init: Initialiser = zeros,
) -> Op:
    """Transposed convolution: computes the input gradient of `conv` with the same arguments, and adds a bias.

    Maps (batch, in_channels, height, width) to `out_channels` channels of (size - 1) * stride - 2 * padding +
    (kernel_size - 1) * dilation + 1 + output_padding pixels in height and width, as PyTorch does. Params: `w`
    (in_channels, out_channels / groups, kh, kw) and, with bias, `b` (out_channels,). Dumoulin & Visin, "A guide to
    convolution arithmetic for deep learning", 2016.
    """
    kernel, steps = check_pair("kernel_size", kernel_size, 1), check_pair("stride", stride, 1)
    gaps = check_pair("dilation", dilation, 1)
    margins, extras = check_pair("padding", padding, 0), check_pair("output_padding", output_padding, 0)
    if not all(extra < max(step, gap) for extra, step, gap in zip(extras, steps, gaps, strict=True)):
        raise OpError(f"output_padding: expected less than the stride {steps} or the dilation {gaps}, got {extras}")
    out_channels, groups = check_channels_and_groups(out_channels, groups)
    shapes = {"w": (None, out_channels // groups, *kernel), "b": (out_channels,) if bias else None}

    def init(key: Key, shape: Shape) -> Params:
        check_image_shape(shape, groups)
        taps = kernel[0] * kernel[1]
        size = (shape[0], out_channels // groups, *kernel)
        fans = (shape[0] // groups * taps, size[1] * taps)
        return init_affine(key, size, (out_channels,) if bias else None, fans, w_init, b_init)

    def apply(params: Params, x: Array) -> tuple[Array, Vjp]:
        w, b = get_params(params, shapes)
        if len(w) % groups:
            raise OpError(f"w: expected a multiple of groups={groups} input channels, got {len(w)}")
        check_images(x, w.dtype, len(w))
        windows = Windows(*map(Axis.spread, x.shape[2:], kernel, steps, gaps, margins, extras))
        x = fast_order(x)
        y = correlate_input(x, w, windows, groups)
        if b is not None:
            y += b[:, None, None]

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dy = fast_order(dy)
            dw, dx = run_both(
                lambda: correlate_weights(dy, x, w.shape, windows, groups),
                lambda: correlate(dy, w, None, windows, groups) if need_dx else None,
                x.size * w[0].size,
            )
            return {"w": dw, "b": accurate_sum(dy, (0, 2, 3))} if bias else {"w": dw}, dx

        return y, vjp

    return Op(init, apply)
