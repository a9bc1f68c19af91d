"""Trees for the tests of files: strategies, exact comparison, and a limit for memory."""

import tracemalloc
from collections.abc import Callable
from struct import pack
from typing import Any

import numpy as np
from hypothesis import strategies as st

DTYPES = "?bhilBHILefdgFDG"


def read_only(array: np.ndarray) -> np.ndarray:
    """Makes the array read-only and returns it."""
    array.flags.writeable = False
    return array


def memory_order(array: np.ndarray) -> list[int]:
    """Returns the axes of more than one entry, outermost in memory first."""
    long_axes = [axis for axis in range(array.ndim) if array.shape[axis] > 1]
    return sorted(long_axes, key=lambda axis: -abs(array.strides[axis]))


def assert_same(one: Any, two: Any) -> None:
    """Asserts that two trees have the same structure, types and bits."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert list(one) == list(two)
        for name in one:
            assert_same(one[name], two[name])
    elif isinstance(one, np.ndarray | np.generic):
        assert (one.dtype, one.shape) == (two.dtype, two.shape)
        if isinstance(one, np.longdouble | np.clongdouble):
            assert repr(one) == repr(two)  # their bytes have unused bits with any values
        else:
            assert one.tobytes() == two.tobytes()
    elif isinstance(one, float):
        assert pack("d", one) == pack("d", two)  # -0.0 and nan are compared as bits, too
    else:
        assert one == two


def is_tree(tree: Any) -> bool:
    """Returns whether this is a tree that a file may contain."""
    if type(tree) is dict:
        return all(type(name) is str and is_tree(child) for name, child in tree.items())
    if isinstance(tree, np.ndarray | np.generic):
        return type(tree) in (np.ndarray, tree.dtype.type) and tree.dtype.kind in "biufc"
    return tree is None or type(tree) in (bool, int, float, str)


@st.composite
def arrays(draw: st.DrawFn, dtypes: str = DTYPES) -> np.ndarray:
    """Draws read-only arrays with any bits, dtype, byte order, shape and strides."""
    dtype = np.dtype(draw(st.sampled_from(dtypes))).newbyteorder(draw(st.sampled_from("<>")))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    steps: Any = [slice(None, None, draw(st.sampled_from([1, 1, 2, -1]))) for _ in shape]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    bits = rng.integers(0, 2 if dtype.char == "?" else 256, (*shape, dtype.itemsize), np.uint8)
    return read_only(bits.view(dtype).reshape(shape).transpose(draw(st.permutations(range(len(shape)))))[*steps, ...])


scalars = st.sampled_from([np.dtype(char).type(3) for char in DTYPES] + [np.float32("nan"), np.float64(-0.0)])
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
trees = st.recursive(arrays() | scalars | plain, lambda tree: st.dictionaries(st.text(max_size=8), tree, max_size=4))


def assert_memory_below(read: Callable[[], object], size: int, factor: float) -> None:
    """Asserts that `read` uses at most `factor` times `size` bytes, plus one MiB."""
    tracemalloc.start()
    try:
        read()
        assert tracemalloc.get_traced_memory()[1] < factor * size + (1 << 20)
    finally:
        tracemalloc.stop()


EXAMPLE_TREE: dict[str, Any] = {
    "conv1": {
        "w": read_only(np.arange(54.0, dtype=np.float32).reshape(6, 1, 3, 3)),
        "b": read_only(np.zeros(6, np.float32)),
    },
    "dense1": {"w": read_only(np.arange(12.0).reshape(3, 4).T), "b": read_only(np.array([True, False]))},
    "tanh1": {},
    "step": np.int64(3),
    "rate": 0.1,
    "name": "lenet",
}
