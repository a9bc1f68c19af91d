"""Hypothesis strategies: operators with valid hyper-parameters, each with an input shape that it takes."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from fnn import Op, avgpool, conv, dense, flatten, log_softmax, maxpool, relu, serial, sigmoid, softmax, tanh
from fnn.op import Array, Shape
from fnn.testing.case import ORDERS

Example = tuple[Op, Shape]

seeds = st.integers(0, 2**32)
orders = st.sampled_from(list(ORDERS.values()))
activations = st.sampled_from([tanh, relu, sigmoid, softmax, log_softmax])


def slow_unless(seed: int) -> list[str]:
    """Returns the slowest properties, to leave out for three of four examples."""
    return ["accuracy", "threads"] if seed % 4 else []


def both(value: Any) -> tuple[Any, Any]:
    """Returns the pair for height and width."""
    return (value, value) if isinstance(value, int) else tuple(value)


def sizes(least: int, most: int) -> st.SearchStrategy[int | tuple[int, int]]:
    """Draws an int or a pair of ints."""
    return st.integers(least, most) | st.tuples(st.integers(least, most), st.integers(least, most))


def numbers(rng: np.random.Generator, shape: Shape, ties: bool = False) -> Array:
    """Returns random numbers; with `ties`, many are equal."""
    return rng.integers(-2, 3, shape) / 2 if ties else rng.standard_normal(shape)


@st.composite
def convolutions(draw: st.DrawFn) -> Example:
    """Draws any convolution: all kinds of padding, leftover pixels, windows wider than the image."""
    groups = draw(st.integers(1, 3))
    kernel, stride, dilation = draw(sizes(1, 4)), draw(sizes(1, 4)), draw(sizes(1, 3))
    padding = draw(sizes(0, 3) | st.sampled_from(["same", "valid"]))
    margins = (0, 0) if padding == "valid" else (9, 9) if padding == "same" else both(padding)
    spans = [(k - 1) * d + 1 - 2 * p for k, d, p in zip(both(kernel), both(dilation), margins, strict=True)]
    height, width = (draw(st.integers(max(1, span), max(1, span) + 5)) for span in spans)
    out, channels = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    op = conv(out, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    return op, (channels, height, width)


@st.composite
def poolings(draw: st.DrawFn) -> Example:
    """Draws any pooling: windows that overlap or leave gaps, leftover pixels, padding."""
    kernel = draw(sizes(1, 4))
    stride = draw(st.none() | sizes(1, 5))
    padding = tuple(draw(st.integers(0, k // 2)) for k in both(kernel))
    least = [max(1, k - 2 * p) for k, p in zip(both(kernel), padding, strict=True)]
    height, width = (draw(st.integers(n, n + 5)) for n in least)
    make = draw(st.sampled_from([maxpool, avgpool]))
    return make(kernel, stride, padding), (draw(st.integers(1, 3)), height, width)


@st.composite
def denses(draw: st.DrawFn) -> Example:
    """Draws any dense layer, for inputs of any shape."""
    shape = draw(st.lists(st.integers(1, 4), max_size=3).map(tuple))
    return dense(draw(st.integers(1, 5)), bias=draw(st.booleans())), shape


@st.composite
def shapeless(draw: st.DrawFn) -> Example:
    """Draws an operator that takes any shape."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple))
    return draw(activations | st.just(flatten)), shape


@st.composite
def nets(draw: st.DrawFn) -> Example:
    """Draws a chain of operators with a nested chain."""
    op, shape = draw(convolutions() | poolings() | denses() | shapeless())
    more = draw(st.lists(st.builds(dense, st.integers(1, 4)) | activations | st.just(serial()), max_size=3))
    nested = serial(op, *more[:1])
    return draw(st.sampled_from([serial(nested, *more[1:]), serial(op, serial(*more))])), shape


operators = convolutions() | poolings() | denses() | shapeless() | nets()
