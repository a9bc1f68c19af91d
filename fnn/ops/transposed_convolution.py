"""The transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence

from fnn.checks.arrays import get_params, input_error
from fnn.init import Initialiser, glorot_uniform, zeros
from fnn.kernels.correlation import correlate, correlate_input, correlate_weights
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.kernels.reductions import accurate_sum
from fnn.kernels.threads import later
from fnn.kernels.windows import Axis, check_image_shape, check_out_channels, pair
from fnn.op import Array, Grads, Op, OpError, Params, Pull, Shape, operator
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
    """The adjoint of the convolution with the same arguments, plus a bias: spreads each pixel through the kernels.

    Takes (batch, in_channels, height, width) to `out_channels` images of (size - 1) * stride - 2 * padding +
    (kernel_size - 1) * dilation + 1 + output_padding pixels down and across, as PyTorch does. Params: `w` (in_channels,
    out_channels / groups, kh, kw) and, with bias, `b` (out_channels,). Dumoulin & Visin, "A guide to convolution
    arithmetic for deep learning", 2016.
    """
    kernel, steps, gaps = pair("kernel_size", kernel_size, 1), pair("stride", stride, 1), pair("dilation", dilation, 1)
    margins, extras = pair("padding", padding, 0), pair("output_padding", output_padding, 0)
    if not all(extra < max(step, gap) for extra, step, gap in zip(extras, steps, gaps, strict=True)):
        raise OpError(f"output_padding: expected less than the stride {steps} or the dilation {gaps}, got {extras}")
    out_channels, groups = check_out_channels(out_channels, groups)
    shapes = {"w": (None, out_channels // groups, *kernel), "b": (out_channels,) if bias else None}

    def init(key: Key, shape: Shape) -> Params:
        check_image_shape(shape, groups)
        size = (shape[0], out_channels // groups, *kernel)
        fans = (shape[0] // groups * kernel[0] * kernel[1], size[1] * kernel[0] * kernel[1])
        w = w_init(key.fold("w"), size, *fans)
        return {"w": w, "b": b_init(key.fold("b"), (out_channels,), *fans)} if bias else {"w": w}

    def apply(params: Params, x: Array) -> tuple[Array, Pull]:
        w, b = get_params(params, shapes)
        if len(w) % groups:
            raise OpError(f"w: expected a multiple of groups={groups} input channels, got {len(w)}")
        if x.ndim != 4 or x.dtype != w.dtype or x.shape[1] != len(w):
            raise input_error(x, w.dtype, {"channels": len(w), "height": None, "width": None})
        windows = zip(x.shape[2:], kernel, steps, gaps, margins, extras, strict=True)
        down, across = (_spread(*axis) for axis in windows)
        h = to_wchn(x)
        y = correlate_input(h, w, down, across, groups)
        if b is not None:
            y += b[:, None, None]

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Grads, Array | None]:
            d = to_wchn(dy)

            def gradients() -> Params:
                dw = correlate_weights(d, h, w.shape, down, across, groups)
                return {"w": dw, "b": accurate_sum(d, (0, 2, 3))} if bias else {"w": dw}

            if not need_dx:
                return gradients(), None
            return later(gradients, h.size * w[0].size), from_wchn(correlate(d, w, None, down, across, groups))

        return from_wchn(y), vjp

    return Op(init, apply)


def _spread(size: int, taps: int, stride: int, dilation: int, padding: int, extra: int) -> Axis:
    """The windows of the convolution whose adjoint takes `size` pixels to its input."""
    out = (size - 1) * stride + (taps - 1) * dilation + 1 - 2 * padding + extra
    if size < 1 or out < 1:
        raise OpError(f"{size} pixels spread to {out}, wanted at least one of both")
    return Axis(out, size, taps, stride, dilation, padding)
