"""Convolutions and their gradients equal loops over groups and taps, however the work is cut."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import conv, conv_transpose
from fnn.kernels import correlation, products
from fnn.kernels.threads import parallel_map
from fnn.kernels.windows import Axis, Windows
from fnn.op import Array, Shape
from fnn.testing.case import ORDERS
from tests.support.rubbish import rubbish_in_new_arrays
from tests.support.strategies import both, seeds, sizes

Case = tuple[dict[str, Any], Shape, int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draws a convolution, the shape of its images and the size of a batch: also a kernel as large as the stride,
    a larger stride, and a group for each channel."""
    kernel, dilation, padding = draw(sizes(1, 4)), draw(sizes(1, 3)), draw(sizes(0, 2))
    stride = draw(st.just(kernel) | sizes(1, 5))
    groups, inputs, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    if draw(st.booleans()):
        inputs = 1
    spans = [(k - 1) * d + 1 - 2 * p for k, d, p in zip(both(kernel), both(dilation), both(padding), strict=True)]
    height, width = (draw(st.integers(max(1, span), max(1, span) + 9)) for span in spans)
    config = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return {"out_channels": groups * outputs, **config}, (groups * inputs, height, width), draw(st.integers(1, 5))


def by_loops(x: Array, w: Array, dy: Array | None, config: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Returns the output of the convolution, and its gradients with respect to `w` and `x` for the cotangent `dy`."""
    strides, gaps, margins = (both(config[name]) for name in ("stride", "dilation", "padding"))
    (out, channels, *taps), groups = w.shape, config["groups"]
    padded = np.pad(x, ((0, 0), (0, 0), *((margin, margin) for margin in margins)))
    size = [
        (n - (k - 1) * gap - 1) // stride + 1
        for n, k, gap, stride in zip(padded.shape[2:], taps, gaps, strides, strict=True)
    ]
    y, dw, dx = np.zeros((len(x), out, *size)), np.zeros(w.shape), np.zeros(padded.shape)
    dy = y if dy is None else dy
    for group, row, column in product(range(groups), *map(range, taps)):
        to = slice(group * out // groups, (group + 1) * out // groups)
        rows, columns = (
            slice(tap * gap, tap * gap + (n - 1) * stride + 1, stride)
            for tap, gap, n, stride in zip((row, column), gaps, size, strides, strict=True)
        )
        seen = (slice(None), slice(group * channels, (group + 1) * channels), rows, columns)
        weights = w[to, :, row, column]
        y[:, to] += np.einsum("oc,nchw->nohw", weights, padded[seen])
        dw[to, :, row, column] = np.einsum("nohw,nchw->oc", dy[:, to], padded[seen])
        dx[seen] += np.einsum("oc,nohw->nchw", weights, dy[:, to])
    height, width = x.shape[2:]
    return y, dw, dx[:, :, margins[0] : margins[0] + height, margins[1] : margins[1] + width]


@contextmanager
def small_blocks(numbers: int, has_avx512: bool) -> Iterator[None]:
    """In the block, few numbers are copied at a time, and with AVX-512 products are cut into small parts."""
    caches = (correlation._blocks, products._parts)
    changes: dict[str, Any] = {"SMALL_MACS": numbers, "MIN_COLUMNS": 2, "_has_avx512": lambda: has_avx512}
    try:
        with patch.object(correlation, "BLOCK", numbers), patch.multiple(products, **changes):
            for cached in caches:
                cached.cache_clear()
            yield
    finally:
        for cached in caches:
            cached.cache_clear()


def frozen(x: Array, order: Any) -> Array:
    """Returns a read-only copy of `x` in that memory order."""
    copy: Array = order(x)
    copy.flags.writeable = False
    return copy


orders = st.sampled_from(list(ORDERS.values()))


def expect_loops(
    case: Case, order: Any, other: Any, numbers: int, has_avx512: bool, seed: int, workers: int = 1
) -> None:
    """Compares a convolution by `workers` threads with loops."""
    config, shape, batch = case
    op, rng = conv(**config), np.random.default_rng(seed)
    w, x = rng.standard_normal(op.init(0, shape)["w"].shape), rng.standard_normal((batch, *shape))
    b, dy = rng.standard_normal(len(w)), rng.standard_normal(by_loops(x, w, None, config)[0].shape)
    y, dw, dx = by_loops(x, w, dy, config)

    def results() -> tuple[Array, dict[str, Array], Array]:
        found, vjp = op.apply({"w": frozen(w, order), "b": b}, frozen(x, order))
        return found, *vjp(frozen(dy, other))

    with small_blocks(numbers, has_avx512), rubbish_in_new_arrays():
        [(found, grads, found_dx)] = parallel_map(lambda i: results(), 1, workers)
    np.testing.assert_allclose(found, y + b[:, None, None], atol=1e-11)
    np.testing.assert_allclose(grads["w"], dw, atol=1e-11)
    np.testing.assert_allclose(grads["b"], dy.sum((0, 2, 3)), atol=1e-11)
    np.testing.assert_allclose(found_dx, dx, atol=1e-11)


@given(cases(), orders, orders, st.sampled_from([1, 60, 500, 1 << 19]), st.booleans(), seeds)
def test_conv_equals_loops(case: Case, order: Any, other: Any, numbers: int, has_avx512: bool, seed: int) -> None:
    expect_loops(case, order, other, numbers, has_avx512, seed)


@pytest.mark.parametrize("stride", [1, 2, (1, 2), (2, 1), 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, (1, 3), (3, 1)])
def test_conv_of_each_kernel_and_stride_equals_loops(kernel: Any, stride: Any) -> None:
    numbers, padding = cycle([1, 60, 500, 1 << 19]), cycle([0, 1, (1, 0)])
    channels = [(1, 1, 4), (1, 5, 2), (2, 3, 1), (3, 1, 2), (2, 2, 3)]  # groups, and inputs and outputs of each
    for dilation, (groups, inputs, outputs) in product([1, 2, (1, 3)], channels):
        sizes = {"kernel_size": kernel, "stride": stride, "dilation": dilation, "padding": next(padding)}
        case = {"out_channels": groups * outputs, "groups": groups, **sizes}, (groups * inputs, 9, 8), 3
        expect_loops(case, np.array, np.array, next(numbers), False, 0, workers=1 if inputs == 1 else 3)


@given(cases(), orders, orders, st.sampled_from([1, 60, 500, 1 << 19]), st.booleans(), seeds)
def test_conv_transpose_equals_loops(
    case: Case, order: Any, other: Any, numbers: int, has_avx512: bool, seed: int
) -> None:
    config, (channels, height, width), batch = case
    down, rng = conv(**config), np.random.default_rng(seed)
    w = rng.standard_normal(down.init(0, (channels, height, width))["w"].shape)
    x = rng.standard_normal((batch, channels, height, width))  # the output of `conv_transpose` has its shape
    dy = rng.standard_normal(by_loops(x, w, None, config)[0].shape)
    y, dw, dx = by_loops(x, w, dy, config)
    extra = tuple(
        n + 2 * margin - (k - 1) * gap - 1 - (out - 1) * stride
        for n, out, k, margin, gap, stride in zip(
            (height, width),
            dy.shape[2:],
            w.shape[2:],
            *(both(config[name]) for name in ("padding", "dilation", "stride")),
            strict=True,
        )
    )
    op = conv_transpose(**{**config, "out_channels": channels, "output_padding": extra}, bias=False)
    with small_blocks(numbers, has_avx512):
        found, vjp = op.apply({"w": frozen(w, order)}, frozen(dy, order))
        grads, found_dx = vjp(frozen(x, other))
    np.testing.assert_allclose(found, dx, atol=1e-11)
    np.testing.assert_allclose(grads["w"], dw, atol=1e-11)
    np.testing.assert_allclose(found_dx, y, atol=1e-11)


@pytest.mark.parametrize(
    ("groups", "pieces", "wanted"),
    [
        (1, 1, [(1, 64)]),
        (1, 5, [(1, 12), (1, 13), (1, 13), (1, 13), (1, 13)]),
        (1, 64, [(1, 1)] * 64),
        (8, 4, [(2, 64)] * 4),
        (8, 16, [(1, 32)] * 16),
        (8, 12, [(1, 32)] * 16),
    ],
)
@pytest.mark.parametrize(("taps", "stride"), [((1, 1), (1, 1)), ((3, 2), (1, 2)), ((2, 2), (3, 3)), ((1, 3), (1, 2))])
def test_blocks_are_as_large_as_fits(
    groups: int, pieces: int, wanted: list[tuple[int, int]], taps: Any, stride: Any
) -> None:
    windows = Windows(*(Axis.over(63 * s + t, t, s, 1, 0) for t, s in zip(taps, stride, strict=True)))
    total = 64 * min(taps[1], stride[1]) * taps[0] * 8 * 64 * 2  # eight channels, two images
    with small_blocks(-(-total // pieces), False):
        blocks = correlation._blocks(windows, groups, (2, 8))
    found = [(some.stop - some.start, part.across.out) for _, some, _, part in blocks]
    if taps[1] <= stride[1]:
        assert sorted(found) == wanted
    assert sum(some * columns for some, columns in found) == 64 * groups


@pytest.mark.parametrize(("taps", "stride"), [(2, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
def test_blocks_copy_few_pixels_twice(taps: int, stride: int) -> None:
    size = 200 * stride
    windows = Windows(Axis.over(4, 3, 1, 1, 0), Axis.over(size, taps, stride, 1, 0))
    with small_blocks(1, False):
        blocks = correlation._blocks(windows, 1, (2, 8))
    spans = [(part.across.out - 1) * stride + taps for _, _, _, part in blocks]
    assert 1.2 * size < sum(spans) <= 1.25 * size
