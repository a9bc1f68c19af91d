import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn.data import batches
from fnn.random import Key


@given(st.integers(0, 50), st.integers(1, 60), st.integers(0, 9))
def test_every_index_comes_once_in_batches_of_the_size_and_a_last_shorter_one(n: int, size: int, seed: int) -> None:
    parts = list(batches(n, size, seed))
    assert [len(part) for part in parts] == [size] * (n // size) + [n % size] * (n % size > 0)
    assert sorted(i for part in parts for i in part.tolist()) == list(range(n))
    assert all(part.dtype == np.intp for part in parts)


def test_the_key_alone_decides() -> None:
    def order(rng: int | Key) -> list[int]:
        return [i for part in batches(100, 7, rng) for i in part.tolist()]

    assert order(3) == order(Key(3))
    assert order(3) != order(4)
    assert order(Key(3).fold("epoch", 1)) != order(Key(3).fold("epoch", 2))
    assert order(3) != list(range(100))


def test_the_order_does_not_depend_on_the_size() -> None:
    assert np.array_equal(np.concatenate(list(batches(100, 7, 0))), np.concatenate(list(batches(100, 30, 0))))


@pytest.mark.parametrize(
    ("n", "size", "got"),
    [(-1, 5, "n: expected an int of at least 0, got -1"), (5, 0, "size: expected an int of at least 1, got 0")],
)
def test_bad_numbers_are_refused_at_the_call(n: int, size: int, got: str) -> None:
    with pytest.raises(ValueError, match=got):
        batches(n, size, 0)


def test_a_bad_key_is_refused_at_the_call() -> None:
    with pytest.raises(TypeError, match=r"^rng: expected an int seed or a Key, got a NumPy Generator"):
        batches(5, 2, np.random.default_rng(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "size"), [(5.0, 2), (5, 2.0)])
def test_fractions_are_refused_at_the_call(n: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"^(n|size): expected an int of at least \d, got \d\.0$"):
        batches(n, size, 0)
