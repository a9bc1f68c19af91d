from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import products
from fnn.products import SMALL, parts, product, stack
from fnn.threads import each


@given(st.integers(0, 3000), st.integers(0, 10**6), st.integers(1, 64))
def test_parts_are_equal_and_as_few_as_are_small(length: int, work: int, least: int) -> None:
    n = parts(length, work, least)
    assert n == 1 or (length % n == 0 and length // n >= least and length // n * work <= SMALL)
    fewer = [m for m in range(1, n) if length % m == 0]
    assert all(length // m * work > SMALL for m in fewer)


@pytest.mark.parametrize(
    "shape", [(512, 588, 100), (512, 588, 1), (7, 3000, 90), (512, 0, 4), (0, 5, 4), (512, 588, 0)]
)
@pytest.mark.parametrize("turned", ["", "a", "b", "ab"])
def test_a_product_is_the_matrices_product_in_any_memory_order(shape: tuple[int, int, int], turned: str) -> None:
    (rows, inner, columns), rng = shape, np.random.default_rng(0)
    a, b = rng.standard_normal((rows, inner)), rng.standard_normal((inner, columns))
    a, b = np.asarray(a, order="F" if "a" in turned else "C"), np.asarray(b, order="F" if "b" in turned else "C")
    np.testing.assert_allclose(product(a, b), a @ b, rtol=1e-10, atol=1e-10)


def with_threads(n: int, f: Any) -> Any:
    return each(lambda i: f(), 1, n)[0]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("threads", [2, 3, 9])
def test_spare_threads_change_no_bit(axis: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, handed = np.random.default_rng(0), list[int]()
    a = rng.standard_normal((1, 1, 3, 40) if axis else (5, 1, 3, 40), np.float32)
    b = rng.standard_normal((2, 7, 40, 11) if axis else (1, 2, 40, 11), np.float32)
    out = np.empty((2, 7, 3, 11) if axis else (5, 2, 3, 11), np.float32)
    monkeypatch.setattr(products, "LARGE", 1)

    def watched(f: Any, n: int, workers: int) -> list[Any]:
        handed.append(n)
        return each(f, n, workers)

    monkeypatch.setattr(products, "each", watched)
    with_threads(threads, lambda: stack(a, b, out, axis))
    np.testing.assert_array_equal(out, a @ b)
    assert handed == [min(threads, out.shape[axis])]
    stack(a, b, out, axis)
    assert len(handed) == 1
