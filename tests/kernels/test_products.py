from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn.kernels import products
from fnn.kernels.products import batched_matmul, map_features, matmul
from fnn.kernels.threads import MIN_SHARED_MACS, parallel_map


def ordered(matrix: np.ndarray, turned: bool) -> np.ndarray:
    return np.asarray(matrix, order="F" if turned else "C")


SHAPES = [
    *[(512, 588, 100), (512, 588, 1), (7, 3000, 90), (97, 784, 75), (40, 3136, 60), (9, 5000, 30)],
    *[(512, 1, 4), (512, 0, 4), (0, 5, 4), (512, 588, 0)],
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("turned", ["", "a", "b", "ab"])
def test_matmul_in_any_memory_order(shape: tuple[int, int, int], turned: str) -> None:
    (rows, inner, columns), rng = shape, np.random.default_rng(0)
    a = ordered(rng.standard_normal((rows, inner)), "a" in turned)
    b = ordered(rng.standard_normal((inner, columns)), "b" in turned)
    y = matmul(a, b)
    np.testing.assert_allclose(y, a @ b, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(matmul(a[::-1], b[:, ::-1]), y[::-1, ::-1], rtol=1e-10, atol=1e-10)


@given(st.integers(1, 200), st.integers(100, 400), st.integers(1, 300), st.booleans(), st.booleans(), st.booleans())
def test_batched_matmul_equals_each_product(
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


def stacks(turned: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1, 100, 300), np.float32), rng.standard_normal((3, 300, 300), np.float32)
    return a, b.swapaxes(-1, -2) if turned else b


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("threads", [2, 3, 9])
def test_batched_matmul_on_idle_threads_gives_the_same_bits(
    turned: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = stacks(turned)
    wanted, out = (np.full((2, 3, 100, 300), np.nan, np.float32) for _ in range(2))
    batched_matmul(a, b, wanted)
    parts = record_parts(monkeypatch)
    with_threads(threads, lambda: batched_matmul(a, b, out))
    np.testing.assert_array_equal(out, wanted)
    assert parts == [2]


@pytest.mark.slow
@pytest.mark.parametrize("turned", ["", "a", "b", "ab"])
@pytest.mark.parametrize("threads", [2, 3, 9])
@pytest.mark.parametrize("shape", [(100, 700, 900), (1000, 64, 1000), (333, 4000, 64)])
def test_matmul_on_idle_threads_gives_the_same_bits(
    shape: tuple[int, int, int], turned: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rows, inner, columns), rng = shape, np.random.default_rng(0)
    a = ordered(rng.standard_normal((rows, inner), np.float32), "a" in turned)
    b = ordered(rng.standard_normal((inner, columns), np.float32), "b" in turned)
    wanted = matmul(a, b)
    parts = record_parts(monkeypatch)
    np.testing.assert_array_equal(with_threads(threads, lambda: matmul(a, b)), wanted)
    assert parts == [min(threads, rows // products.ROWS, rows * inner * columns // MIN_SHARED_MACS)]
    assert parts[0] > 1


def record_parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records into how many parts products are split."""
    parts: list[int] = []

    def recorded(f: Any, n: int, workers: int) -> list[Any]:
        parts.append(n)
        return parallel_map(f, n, workers)

    monkeypatch.setattr(products, "parallel_map", recorded)
    return parts


@pytest.mark.parametrize("order", ["C", "F"])
def test_map_features_keeps_the_memory_order_of_its_input(order: Any) -> None:
    x, w = np.ones((5, 7), np.float32, order=order), np.ones((7, 3), np.float32)
    y = map_features(x, w)
    np.testing.assert_array_equal(y, x @ w)
    assert (y.flags.c_contiguous, y.flags.f_contiguous) == (x.flags.c_contiguous, x.flags.f_contiguous)


@pytest.mark.parametrize("inner", [256, 384, 512, 1000, 4000, 9000])
@pytest.mark.parametrize("sizes", [(6, 4), (12, 54), (64, 64), (1, 5), (5, 1)])
@pytest.mark.parametrize("turned", ["", "a", "b", "ab"])
def test_matmul_of_equal_numbers_is_exact(inner: int, sizes: tuple[int, int], turned: str) -> None:
    rows, columns = sizes
    a, b = (np.full(shape, 0.1, np.float32) for shape in ((rows, inner), (inner, columns)))
    y = matmul(ordered(a, "a" in turned), ordered(b, "b" in turned))
    np.testing.assert_allclose(y, inner * np.float64(np.float32(0.1)) ** 2, rtol=4e-6)
