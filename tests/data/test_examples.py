import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn.data import as_float, batches
from fnn.random import Key
from tests.support.programs import python


def test_as_float_maps_grey_levels_to_minus_one_to_one() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    pixels = as_float(levels)
    assert pixels.dtype == np.float32
    assert pixels.shape == (4, 1, 8, 8)
    assert pixels.min() == -1
    assert pixels.max() == 1
    np.testing.assert_allclose(pixels[:, 0], levels / 127.5 - 1, rtol=0, atol=6e-8)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_as_float_puts_the_batch_innermost_in_memory(n: int) -> None:
    pixels = as_float(np.zeros((n, 28, 28), np.uint8))
    assert pixels.shape == (n, 1, 28, 28)
    assert pixels.transpose(3, 1, 2, 0).flags.c_contiguous


def test_as_float_takes_any_memory_order_and_changes_nothing() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    before = levels.copy()
    assert np.array_equal(as_float(levels[::2]), as_float(levels)[::2])
    assert np.array_equal(as_float(np.asfortranarray(levels)), as_float(levels))
    assert np.array_equal(levels, before)


@pytest.mark.parametrize("images", [np.zeros((2, 28, 28), np.float32), np.zeros((28, 28), np.uint8)])
def test_as_float_refuses_other_dtypes_and_shapes(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"^images: expected uint8 .*, got {images.dtype} "):
        as_float(images)


@given(st.integers(0, 50), st.integers(1, 60), st.integers(0, 9))
def test_batches_contain_every_index_once_and_the_last_may_be_smaller(n: int, size: int, seed: int) -> None:
    parts = list(batches(n, size, seed))
    assert [len(part) for part in parts] == [size] * (n // size) + [n % size] * (n % size > 0)
    assert sorted(i for part in parts for i in part.tolist()) == list(range(n))
    assert all(part.dtype == np.intp for part in parts)


def test_batches_depend_only_on_the_key() -> None:
    def order(rng: int | Key) -> list[int]:
        return [i for part in batches(100, 7, rng) for i in part.tolist()]

    assert order(3) == order(Key(3))
    assert order(3) != order(4)
    assert order(Key(3).fold("epoch", 1)) != order(Key(3).fold("epoch", 2))
    assert order(3) != list(range(100))


def test_batches_have_the_same_order_for_any_size() -> None:
    assert np.array_equal(np.concatenate(list(batches(100, 7, 0))), np.concatenate(list(batches(100, 30, 0))))


@pytest.mark.parametrize(
    ("n", "size", "message"),
    [(-1, 5, "n: expected an int of at least 0, got -1"), (5, 0, "size: expected an int of at least 1, got 0")],
)
def test_batches_refuses_bad_numbers_at_the_call(n: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches(n, size, 0)


def test_batches_refuses_a_generator_at_the_call() -> None:
    with pytest.raises(TypeError, match=r"^rng: expected an int seed or a Key, got a NumPy Generator"):
        batches(5, 2, np.random.default_rng(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "size"), [(5.0, 2), (5, 2.0)])
def test_batches_refuses_floats_at_the_call(n: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"^(n|size): expected an int of at least \d, got \d\.0$"):
        batches(n, size, 0)


def test_import_of_fnn_data_is_light() -> None:
    heavy = ["urllib.request", "gzip", "hashlib", "numpy.random", "http.client", "tempfile"]
    code = f"import sys, numpy; had = {{*sys.modules}}; import fnn.data; print({{*{heavy}}} & {{*sys.modules}} - had)"
    done = python("-c", code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "set()", "")
