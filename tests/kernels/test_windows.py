"""Windows along an axis: their number, the pixel that each tap reads, and the windows that read each pixel."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fnn import OpError
from fnn.checks.images import check_pair
from fnn.kernels.windows import Axis, cut

sizes, taps, strides, dilations = st.integers(1, 12), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)
paddings = st.integers(0, 4) | st.sampled_from(["same", "valid"])


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    size, tap, stride, dilation = draw(st.tuples(sizes, taps, strides, dilations))
    padding = draw(paddings)
    low = padding if isinstance(padding, int) else 0
    assume(padding == "same" or size + 2 * low >= (tap - 1) * dilation + 1)
    return Axis.over(size, tap, stride, dilation, padding)


def reads(axis: Axis) -> set[tuple[int, int, int]]:
    """Returns (window, tap, pixel) for all taps inside the image, by definition."""
    found = set()
    for window in range(axis.out):
        for tap in range(axis.taps):
            pixel = window * axis.stride + tap * axis.dilation - axis.low
            if 0 <= pixel < axis.size:
                found.add((window, tap, pixel))
    return found


@given(axes())
@example(Axis.over(2, 2, 1, 8, 4))  # a tap reads only padding
def test_windows_taps_read_their_pixels_and_nothing_outside(axis: Axis) -> None:
    found = set()
    for tap in range(axis.taps):
        windows, pixels = axis.reads(tap)
        inside = range(axis.out)[windows]
        seen = range(axis.size)[pixels]
        assert len(inside) == len(seen)
        found |= {(window, tap, pixel) for window, pixel in zip(inside, seen, strict=True)}
    assert found == reads(axis)


@given(axes())
def test_phases_map_pixels_to_their_windows(axis: Axis) -> None:
    found = set()
    for pixels, taps, back in axis.phases():
        assert (back.size, back.out) == (axis.out, len(range(axis.size)[pixels]))
        for place, nth, window in reads(back):
            found.add((window, range(axis.taps)[taps][-1 - nth], range(axis.size)[pixels][place]))
    assert found == reads(axis)


@given(axes())
@example(Axis.over(20, 2, 2, 2, 0))
def test_undilated_windows_read_the_same_pixels(axis: Axis) -> None:
    found = set()
    for windows, pixels, part in axis.undilated():
        assert (part.size, part.out) == (len(range(axis.size)[pixels]), len(range(axis.out)[windows]))
        assert part.dilation == 1
        for window, tap, pixel in reads(part):
            found.add((range(axis.out)[windows][window], tap, range(axis.size)[pixels][pixel]))
    assert found == reads(axis)


@given(axes(), st.integers(0, 12), st.integers(0, 12))
def test_part_of_windows_reads_the_same_pixels(axis: Axis, start: int, stop: int) -> None:
    start, stop = sorted((start % (axis.out + 1), stop % (axis.out + 1)))
    found = {(window + start, tap, pixel) for window, tap, pixel in reads(axis.part(start, stop))}
    assert found == {each for each in reads(axis) if start <= each[0] < stop}


@given(sizes, taps, strides, dilations, st.integers(0, 4))
def test_windows_count_ends_with_the_last_that_fits(size: int, tap: int, stride: int, dilation: int, low: int) -> None:
    span = (tap - 1) * dilation + 1
    assume(size + 2 * low >= span)
    out = Axis.over(size, tap, stride, dilation, low).out
    assert (out - 1) * stride + span <= size + 2 * low < out * stride + span


def test_windows_refuse_a_kernel_larger_than_the_image() -> None:
    with pytest.raises(OpError, match=r"^expected at least 3 pixels for a window of 5, got 2$"):
        Axis.over(2, 3, 1, 2, 1)


@pytest.mark.parametrize("value", [3, (3, 3), [3, 3], np.int64(3), (np.int8(3), 3), np.array([3, 3])])
def test_check_pair_of_an_int_is_height_and_width(value: Any) -> None:
    assert repr(check_pair("n", value, 1)) == "(3, 3)"


@pytest.mark.parametrize("value", [0, (1, 0), 1.0, (1,), (1, 1, 1), "11", "same", None, True, (True, 1)])
def test_check_pair_refuses_other_values(value: Any) -> None:
    with pytest.raises(OpError) as caught:
        check_pair("n", value, 1)
    assert str(caught.value) == f"n: expected an int or a pair of ints of at least 1, got {value!r}"


@pytest.mark.parametrize(("size", "n"), [(7, 1), (7, 3), (8, 4), (3, 5), (0, 2)])
def test_cut_makes_even_parts_of_a_range(size: int, n: int) -> None:
    parts = cut(size, n)
    assert [i for part in parts for i in range(1000)[part]] == list(range(size))
    assert len(parts) == max(1, min(n, size))
    assert max(part.stop - part.start for part in parts) <= -(-size // len(parts))


def test_same_padding_is_never_negative() -> None:
    assert Axis.over(5, 1, 3, 1, "same") == Axis(5, 2, 1, 3, 1, 0)
