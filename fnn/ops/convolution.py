"""The two-dimensional convolution."""

from __future__ import annotations

from collections.abc import Sequence

from fnn.checks.arrays import get_params, input_error
from fnn.checks.errors import describe_value
from fnn.init import Initialiser, glorot_uniform, zeros
from fnn.kernels.correlation import correlate, correlate_input, correlate_weights
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.kernels.reductions import accurate_sum
from fnn.kernels.threads import later
from fnn.kernels.windows import Axis, check_image_shape, check_out_channels, pair
from fnn.op import Array, Grads, Op, OpError, Params, Pull, Shape, operator
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
    """Cross-correlation of (batch, in_channels, height, width) with `out_channels` kernels, plus a bias.

    Sizes are ints or (height, width) pairs. `padding` may also be "valid" (none) or "same" (as many outputs as inputs
    over the stride, rounded up; an odd pixel of padding goes to the end). Params: `w` (out_channels,
    in_channels / groups, kh, kw) and, with bias, `b` (out_channels,).
    """
    kernel, steps, gaps = pair("kernel_size", kernel_size, 1), pair("stride", stride, 1), pair("dilation", dilation, 1)
    margins: tuple[int | str, int | str]
    if isinstance(padding, str) and padding in ("same", "valid"):
        margins = (padding, padding)
    elif isinstance(padding, str):
        raise OpError(f"padding: expected 'same', 'valid' or a size, got {describe_value(padding)}")
    else:
        margins = pair("padding", padding, 0)
    out_channels, groups = check_out_channels(out_channels, groups)
    shapes = {"w": (out_channels, None, *kernel), "b": (out_channels,) if bias else None}

    def init(key: Key, shape: Shape) -> Params:
        check_image_shape(shape, groups)
        size = (out_channels, shape[0] // groups, *kernel)
        fans = (size[1] * kernel[0] * kernel[1], out_channels // groups * kernel[0] * kernel[1])
        w = w_init(key.fold("w"), size, *fans)
        return {"w": w, "b": b_init(key.fold("b"), (out_channels,), *fans)} if bias else {"w": w}

    def apply(params: Params, x: Array) -> tuple[Array, Pull]:
        w, b = get_params(params, shapes)
        if x.ndim != 4 or x.dtype != w.dtype or x.shape[1] != groups * w.shape[1]:
            raise input_error(x, w.dtype, {"channels": groups * w.shape[1], "height": None, "width": None})
        down, across = Axis.pair(x.shape[2:], kernel, steps, gaps, margins)
        h = to_wchn(x)
        y = correlate(h, w, b, down, across, groups)
        work = y.size * w[0].size

        def vjp(dy: Array, need_dx: bool = True) -> tuple[Grads, Array | None]:
            d = to_wchn(dy)

            def gradients() -> Params:
                dw = correlate_weights(h, d, w.shape, down, across, groups)
                return {"w": dw, "b": accurate_sum(d, (0, 2, 3))} if bias else {"w": dw}

            if not need_dx:
                return gradients(), None
            return later(gradients, work), from_wchn(correlate_input(d, w, down, across, groups))

        return from_wchn(y), vjp

    return Op(init, apply)
