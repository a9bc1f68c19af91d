import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn.kernels.masks import drop_kept, keep
from fnn.op import Array


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@given(st.integers(0, 1000), st.booleans())
def test_keep_and_drop_kept_split_numbers_by_mask(dtype: type, seed: int, transposed: bool) -> None:
    rng = np.random.default_rng(seed)
    x: Array = rng.choice(np.array([0.0, -0.0, 1.5, -2, np.inf, -np.inf, np.nan, 1e-7]), (3, 5)).astype(dtype)
    mask = rng.random((3, 5)) < 0.5
    if transposed:
        x, mask = x.T, mask.T
    kept = keep(x, mask)
    np.testing.assert_array_equal(kept, np.where(mask, x, dtype(0)))
    part, rest = np.empty_like(x), np.empty_like(x)
    drop_kept(x, keep(x, mask, out=part), out=rest)
    np.testing.assert_array_equal(part, kept)
    np.testing.assert_array_equal(rest, np.where(mask, dtype(0), x))
