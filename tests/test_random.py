"""`Key`: always the same numbers for the same key, and different numbers for different names."""

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import Key
from fnn.random import as_key

parts = st.lists(st.text(max_size=4) | st.integers(0, 2**64 - 1), max_size=4).map(tuple)


def draws(key: Key) -> list[int]:
    return list(key.generator().integers(0, 2**63, 4).tolist())


@given(st.integers(0, 2**80), parts)
def test_key_draws_the_same_numbers_each_time(seed: int, path: tuple[str | int, ...]) -> None:
    key = Key(seed).fold(*path)
    first = draws(key)
    assert draws(key) == draws(Key(seed, path)) == draws(pickle.loads(pickle.dumps(key))) == first


@given(parts, parts)
def test_key_fold_of_different_paths_differs(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> None:
    assert (draws(Key(0, one)) == draws(Key(0, other))) == (one == other)


def test_key_fold_of_similar_paths_differs() -> None:
    paths: list[tuple[str | int, ...]] = [
        (),
        ("",),
        ("", ""),
        (0,),
        (0, 0),
        ("0",),
        (1,),
        (2**32,),
        (1, 0),
        (0, 1),
        ("a",),
        ("a", "b"),
        ("ab",),
        ("\x00",),
        ("\x01a",),
        (1, 1, 97),
        ("é",),
        ("e\u0301",),
    ]
    numbers = sorted(draws(Key(0, path)) for path in paths)
    assert all(a != b for a, b in pairwise(numbers))


def test_key_of_different_seeds_differs() -> None:
    numbers = sorted(draws(Key(seed)) for seed in (0, 1, 2**32, 2**64, 2**96))
    assert all(a != b for a, b in pairwise(numbers))


def test_key_draws_fixed_numbers_on_every_machine() -> None:
    assert draws(Key(0))[:2] == [5874934615388537135, 2488343231644625808]
    assert draws(Key(1).fold("dropout1", 3))[:2] == [5554850043014893100, 5437758704201620473]


def test_key_fold_is_pure() -> None:
    key = Key(3, ("a",))
    assert key.fold("b", 4) == Key(3, ("a", "b", 4)) == key.fold("b").fold(4)
    assert key == Key(3, ("a",))


def test_as_key_of_a_seed_is_its_key() -> None:
    assert as_key(np.int64(7)) == Key(7)  # type: ignore[arg-type]
    assert as_key(7) == as_key(Key(7)) == Key(7)


@pytest.mark.parametrize("rng", [1.5, None, "7", np.random.default_rng(0), np.array([1, 2]), True, np.False_])
def test_as_key_refuses_what_is_no_seed_and_no_key(rng: object) -> None:
    for error in (TypeError, ValueError):
        with pytest.raises(error, match=r"^rng: expected an int seed or a Key, got .*; pass a seed such as 0$"):
            as_key(rng)  # type: ignore[arg-type]


def test_key_refuses_a_negative_seed() -> None:
    with pytest.raises(ValueError, match=r"^rng: expected a seed of at least 0, got -1$"):
        as_key(-1)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_key_fold_refuses_numbers_out_of_range(number: int) -> None:
    with pytest.raises(ValueError, match=rf"^fold: expected a number from 0 to 2\*\*64 - 1, got {number}$"):
        Key(0).fold(number).generator()


def test_key_does_not_use_numpys_global_generator() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    draws(Key(0, ("a",)))
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index] # noqa: NPY002


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), ("a", TypeError), (1.5, TypeError), (True, TypeError)])
def test_key_generator_refuses_what_is_no_seed(seed: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^seed: expected (a seed of at least 0|an int seed or a Key), got"):
        Key(seed).generator()
