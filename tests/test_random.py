"""Keys: values that draw the same numbers for ever, and never the same ones for two names."""

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
def test_equal_keys_draw_equal_numbers_as_often_as_one_likes(seed: int, path: tuple[str | int, ...]) -> None:
    key = Key(seed).fold(*path)
    first = draws(key)
    assert draws(key) == draws(Key(seed, path)) == draws(pickle.loads(pickle.dumps(key))) == first


@given(parts, parts)
def test_different_paths_draw_different_numbers(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> None:
    assert (draws(Key(0, one)) == draws(Key(0, other))) == (one == other)


def test_paths_that_look_alike_draw_different_numbers() -> None:
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


def test_seeds_draw_different_numbers() -> None:
    numbers = sorted(draws(Key(seed)) for seed in (0, 1, 2**32, 2**64, 2**96))
    assert all(a != b for a, b in pairwise(numbers))


def test_what_is_drawn_is_the_same_on_every_machine_and_for_ever() -> None:
    assert draws(Key(0))[:2] == [5874934615388537135, 2488343231644625808]
    assert draws(Key(1).fold("dropout1", 3))[:2] == [5554850043014893100, 5437758704201620473]


def test_folding_makes_another_key_and_changes_none() -> None:
    key = Key(3, ("a",))
    assert key.fold("b", 4) == Key(3, ("a", "b", 4)) == key.fold("b").fold(4)
    assert key == Key(3, ("a",))


def test_a_seed_stands_for_its_key() -> None:
    assert as_key(np.int64(7)) == Key(7)  # type: ignore[arg-type]
    assert as_key(7) == as_key(Key(7)) == Key(7)


@pytest.mark.parametrize("rng", [1.5, None, "7", np.random.default_rng(0), np.array([1, 2]), True, np.False_])
def test_what_is_no_seed_and_no_key_is_refused(rng: object) -> None:
    for error in (TypeError, ValueError):
        with pytest.raises(error, match=r"^rng: expected an int seed or a Key, got .*; pass a seed such as 0$"):
            as_key(rng)  # type: ignore[arg-type]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^rng: expected a seed of at least 0, got -1$"):
        as_key(-1)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=rf"^fold: expected a number from 0 to 2\*\*64 - 1, got {number}$"):
        Key(0).fold(number).generator()


def test_numpys_own_generator_is_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    draws(Key(0, ("a",)))
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index] # noqa: NPY002


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), ("a", TypeError), (1.5, TypeError), (True, TypeError)])
def test_a_key_of_what_is_no_seed_says_so_when_it_draws(seed: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^seed: expected (a seed of at least 0|an int seed or a Key), got"):
        Key(seed).generator()
