import numpy as np
import pytest

from fnn.data import as_float
from tests.support.programs import python


def test_grey_levels_become_minus_one_to_one() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    pixels = as_float(levels)
    assert pixels.dtype == np.float32
    assert pixels.shape == (4, 1, 8, 8)
    assert pixels.min() == -1
    assert pixels.max() == 1
    np.testing.assert_allclose(pixels[:, 0], levels / 127.5 - 1, rtol=0, atol=6e-8)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_the_batch_is_innermost_in_memory(n: int) -> None:
    pixels = as_float(np.zeros((n, 28, 28), np.uint8))
    assert pixels.shape == (n, 1, 28, 28)
    assert pixels.transpose(3, 1, 2, 0).flags.c_contiguous


def test_any_memory_order_is_read_and_none_changed() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    before = levels.copy()
    assert np.array_equal(as_float(levels[::2]), as_float(levels)[::2])
    assert np.array_equal(as_float(np.asfortranarray(levels)), as_float(levels))
    assert np.array_equal(levels, before)


@pytest.mark.parametrize("images", [np.zeros((2, 28, 28), np.float32), np.zeros((28, 28), np.uint8)])
def test_anything_else_is_refused(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"^images: expected uint8 .*, got {images.dtype} "):
        as_float(images)


def test_importing_the_package_is_light() -> None:
    heavy = ["urllib.request", "gzip", "hashlib", "numpy.random", "http.client", "tempfile"]
    code = f"import sys, numpy; had = {{*sys.modules}}; import fnn.data; print({{*{heavy}}} & {{*sys.modules}} - had)"
    done = python("-c", code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "set()", "")
