from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn.kernels import products
from fnn.kernels.products import batched_matmul, batched_matmul_in_parts, map_features, matmul, sum_products
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


@pytest.mark.parametrize("threads", [2, 3, 9])
@pytest.mark.parametrize("shape", [(96, 5, 7), (480, 2, 3), (205, 30, 40), (600, 3, 1), (47, 80, 20), (150, 300, 30)])
def test_matmul_of_small_matrices_shared_between_threads(
    shape: tuple[int, int, int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "MIN_SHARED_MACS", 1000)
    (rows, inner, columns), rng = shape, np.random.default_rng(0)
    a, b = rng.standard_normal((rows, inner)), rng.standard_normal((inner, columns))
    parts = record_parts(monkeypatch)
    np.testing.assert_allclose(with_threads(threads, lambda: matmul(a, b)), a @ b, rtol=1e-10, atol=1e-10)
    wanted = min(threads, rows // products.ROWS, rows * inner * columns // 1000)
    is_summed = inner > products.MAX_INNER_SMALL
    assert is_summed or parts == ([wanted] if wanted > 1 and columns > 1 else [])


STACKS: list[tuple[tuple[int, ...], tuple[int, ...]]]
STACKS = [((5, 3, 4), (5, 4, 6)), ((1, 3, 4), (5, 4, 6)), ((5, 3, 4), (1, 4, 6)), ((5, 3, 4), (4, 6))]
STACKS += [((3, 4), (5, 4, 6)), ((5, 1, 3, 4), (5, 2, 4, 6)), ((2, 3, 4), (5, 1, 4, 6)), ((1, 20, 4), (5, 4, 6))]
STACKS += [
    ((2, 3, 4), (2, 4, 6)),
    ((1, 20, 4), (1, 4, 6)),
    ((20, 4), (5, 2, 4, 6)),
    ((1, 20, 4), (5, 4, 0)),
    ((1, 0, 4), (5, 4, 6)),
    ((5, 20, 4), (5, 4, 6)),
]


@pytest.mark.parametrize(("a_shape", "b_shape"), STACKS)
@pytest.mark.parametrize("threads", [1, 2, 3, 9])
@pytest.mark.parametrize("least", [1, 150])
def test_batched_matmul_of_stacks_shared_between_threads(
    a_shape: tuple[int, ...], b_shape: tuple[int, ...], threads: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "MIN_SHARED_MACS", least)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(a_shape), rng.standard_normal(b_shape)
    out = np.full((a @ b).shape, np.nan)
    parts = record_parts(monkeypatch)
    with_threads(threads, lambda: batched_matmul(a, b, out))
    np.testing.assert_allclose(out, a @ b, rtol=1e-12, atol=1e-12)
    rows, columns = a_shape[-2], b_shape[-1]
    are_side_by_side = np.prod(a_shape[:-2]) == 1 and len(out) > 1 and rows > 2 * columns > 0
    if not are_side_by_side:
        wanted = min(threads, len(out), out.size * 4 // least)
        assert parts == ([wanted] if wanted > 1 else [])


@pytest.mark.parametrize("columns", [1, 7, 12, 24, 30])
@pytest.mark.parametrize("rows", [1, 5, 9])
@pytest.mark.parametrize("middle", [(), (2,), (2, 3)])
@pytest.mark.parametrize("has_avx512", [False, True])
def test_batched_matmul_in_parts_equals_each_product(
    columns: int, rows: int, middle: tuple[int, ...], has_avx512: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_has_avx512", lambda: has_avx512)
    monkeypatch.setattr(products, "_parts", products._parts.__wrapped__)
    monkeypatch.setattr(products, "MIN_COLUMNS", 3)
    monkeypatch.setattr(products, "SMALL_MACS", 120)
    widths: list[int] = []

    def recorded(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
        widths.append(out.shape[-1])
        batched_matmul(a, b, out)

    monkeypatch.setattr(products, "batched_matmul", recorded)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, *middle, rows, 4)), rng.standard_normal((4, *middle, 4, columns))
    out = np.full((4, *middle, rows, columns), np.nan)
    batched_matmul_in_parts(a, b, out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-12, atol=1e-12)
    fitting = [n for n in range(1, columns + 1) if columns % n == 0 and columns // n >= max(3, rows // 2)]
    small = [columns // n for n in fitting if rows * 4 * columns // n <= 120]  # the widest small enough part is best
    assert widths == [max(small) if has_avx512 and small else columns]


INNERS = [0, 1, 4, 256, 257, 300, 1009]
SIZES = [(3, 5), (40, 30), (1, 6), (6, 1), (5, 60), (1, 1)]


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("at_once", [0, 2, 100])
def test_sum_products_sums_all_products_of_stacks(
    inner: int, rows: int, columns: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for stack, turned in product([(1,), (3,), (1, 1), (2, 1), (2, 2)], ["", "a", "b", "ab"]):
        monkeypatch.setattr(products, "MAX_TERMS", at_once * int(np.prod(stack)) * rows * columns)
        a, b = rng.uniform(0.5, 1, (*stack, inner, rows)), rng.uniform(0.5, 1, (*stack, columns, inner))
        a = a.swapaxes(-1, -2) if "a" in turned else a.swapaxes(-1, -2).copy()
        b = b.swapaxes(-1, -2) if "b" in turned else b.swapaxes(-1, -2).copy()
        np.testing.assert_allclose(sum_products(a, b), (a @ b).sum(0), rtol=1e-10)


@pytest.mark.parametrize(
    ("stack", "inner"), [(stack, n) for stack in ((1,), (2, 2)) for n in (3, 900, 4999)] + [((300,), 3), ((300,), 997)]
)
@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (1, 6), (6, 1), (3, 50)])
def test_sum_products_of_equal_numbers_is_exact(stack: tuple[int, ...], inner: int, rows: int, columns: int) -> None:
    a, b = np.full((*stack, rows, inner), 0.1, np.float32), np.full((*stack, inner, columns), 0.1, np.float32)
    total = sum_products(a, b)
    assert total.shape == (*stack[1:], rows, columns)
    if inner == 3 and stack == (1,):
        assert total.dtype == np.float32
    np.testing.assert_allclose(total, stack[0] * inner * np.float64(np.float32(0.1)) ** 2, rtol=4e-6)


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


def test_batched_matmul_without_inner_axis_gives_zeros() -> None:
    out = np.full((5, 20, 4), np.nan, np.float32)
    batched_matmul(np.empty((5, 20, 0), np.float32), np.empty((1, 0, 4), np.float32), out)
    assert not out.any()


@pytest.mark.parametrize(
    ("shapes", "turned", "longest"),
    [
        (((2, 300), (300, 2)), (False, True), products.MAX_INNER),  # BLAS then adds several products at a time
        (((2, 300), (300, 2)), (False, False), products.MAX_INNER_SMALL),
        (((2, 300), (300, 2)), (True, True), products.MAX_INNER_SMALL),
        (((2, 300), (300, 2)), (True, False), products.MAX_INNER_SMALL),
        (((2, 300_000), (300_000, 2)), (False, False), products.MAX_INNER),  # not small
        (((1, 300), (300, 2)), (False, True), products.MAX_INNER_DOT),
        (((1, 300), (300, 2)), (False, False), products.MAX_INNER_SUM),
        (((2, 300), (300, 1)), (False, True), products.MAX_INNER_DOT),
        (((2, 300), (300, 1)), (True, True), products.MAX_INNER_SUM),
    ],
)
def test_blas_sums_less_by_itself_where_it_adds_number_by_number(
    shapes: tuple[tuple[int, int], tuple[int, int]], turned: tuple[bool, bool], longest: int
) -> None:
    a, b = (ordered(np.ones(shape, np.float32), turn) for shape, turn in zip(shapes, turned, strict=True))
    assert products._max_inner(a, b) == longest


def test_sum_products_without_inner_axis_is_zeros() -> None:
    total = sum_products(np.empty((1, 3, 0), np.float32), np.empty((1, 0, 2), np.float32))
    assert total.tolist() == [[0, 0]] * 3
