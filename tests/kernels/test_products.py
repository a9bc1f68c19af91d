from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fnn.kernels import products
from fnn.kernels.products import MAX_SMALL_MACS, MAX_SMALL_TRANSPOSED, batched_matmul, depth, matmul, tile
from fnn.kernels.threads import parallel_map


@pytest.fixture(params=[True, False], ids=["small kernels", "no small kernels"], scope="module", autouse=True)
def small_kernels(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Both kinds of OpenBLAS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "HAS_SMALL_KERNELS", request.param)
        tile.cache_clear()
        depth.cache_clear()
        yield request.param
    tile.cache_clear()
    depth.cache_clear()


SIZES = st.one_of(st.integers(0, 40), st.integers(41, 3000))


@given(SIZES, SIZES, SIZES, st.booleans())
@example(100, 0, 100, True)
def test_tiles_are_small_products_where_the_whole_is_not(rows: int, inner: int, columns: int, turned: bool) -> None:
    def small(high: int, wide: int) -> bool:
        return high * inner * wide <= MAX_SMALL_MACS and (high * wide <= MAX_SMALL_TRANSPOSED or not turned)

    high, wide = tile(rows, inner, columns, turned)
    if not products.HAS_SMALL_KERNELS:
        assert (high, wide) == (rows, columns)
        return
    assert high <= rows
    assert wide <= columns
    hopeless = 1 in (rows, columns) or (turned and inner < 32)
    assert small(high, wide) or hopeless
    assert (high, wide) == (rows, columns) or not small(rows, columns)


def test_tile_fills_registers_and_cuts_evenly(small_kernels: bool) -> None:
    if not small_kernels:
        assert tile(100, 784, 512, False) == (100, 512)
        return
    assert tile(100, 784, 512, False) == (16, 64)
    assert tile(100, 128, 512, True) == (52, 16)
    assert tile(64, 291, 700, False) == (32, 64)
    assert tile(100, 100, 100, False) == (100, 100)
    assert tile(40, 100, 100, True) == (40, 16)


def test_depth_cuts_long_and_large_products_evenly(small_kernels: bool) -> None:
    if not small_kernels:
        assert depth(50, 3136, 128) == 1
        return
    assert [depth(50, inner, 128) for inner in (3136, 1568, 3001, 8192)] == [7, 4, 1, 16]
    assert depth(1, 3136, 1000) == depth(2, 3136, 100) == 1


def ordered(matrix: np.ndarray, turned: bool) -> np.ndarray:
    return np.asarray(matrix, order="F" if turned else "C")


SHAPES = [
    *[(512, 588, 100), (512, 588, 1), (7, 3000, 90), (97, 784, 75), (40, 3136, 60), (9, 5000, 30)],
    *[(512, 1, 4), (512, 0, 4), (0, 5, 4), (512, 588, 0)],
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("turned", ["", "a", "b", "ab"])
def test_a_product_is_the_matrices_product_in_any_memory_order(shape: tuple[int, int, int], turned: str) -> None:
    (rows, inner, columns), rng = shape, np.random.default_rng(0)
    a = ordered(rng.standard_normal((rows, inner)), "a" in turned)
    b = ordered(rng.standard_normal((inner, columns)), "b" in turned)
    y = matmul(a, b)
    np.testing.assert_allclose(y, a @ b, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(matmul(a[::-1], b[:, ::-1]), y[::-1, ::-1], rtol=1e-10, atol=1e-10)


@given(st.integers(1, 200), st.integers(100, 400), st.integers(1, 300), st.booleans(), st.booleans(), st.booleans())
def test_a_stack_of_products_is_the_matrices_products(
    rows: int, inner: int, columns: int, a_turned: bool, b_turned: bool, one: bool
) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((1 if one else 3, 2, rows, inner)), rng.standard_normal((3, 1, inner, columns))
    a = a.swapaxes(-1, -2).copy().swapaxes(-1, -2) if a_turned else a
    b = b.swapaxes(-1, -2).copy().swapaxes(-1, -2) if b_turned else b
    out = np.full((3, 2, rows, columns), np.nan)
    batched_matmul(a, b, out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-9, atol=1e-9)


def with_threads(n: int, f: Any) -> Any:
    return parallel_map(lambda i: f(), 1, n)[0]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("threads", [2, 3, 9])
def test_idle_threads_change_no_bit(
    turned: bool, threads: int, monkeypatch: pytest.MonkeyPatch, small_kernels: bool
) -> None:
    rng, handed = np.random.default_rng(0), list[int]()
    a = rng.standard_normal((2, 1, 100, 300), np.float32)
    b = rng.standard_normal((3, 300, 300), np.float32)
    b = b.swapaxes(-1, -2) if turned else b
    wanted, out = (np.full((2, 3, 100, 300), np.nan, np.float32) for _ in range(2))
    monkeypatch.setattr(products, "MIN_SPLIT_MACS", 1)

    def watched(f: Any, n: int, workers: int) -> list[Any]:
        handed.append(n)
        return parallel_map(f, n, workers)

    monkeypatch.setattr(products, "parallel_map", watched)
    batched_matmul(a, b, wanted)
    with_threads(threads, lambda: batched_matmul(a, b, out))
    np.testing.assert_array_equal(out, wanted)
    batched_matmul(a, b, out)
    shared = min(threads, -(-300 // (64 if small_kernels and not turned else 16)))
    assert handed == ([1, shared, 1] if small_kernels else [shared])
