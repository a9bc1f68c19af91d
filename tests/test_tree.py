import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn.tree import TreeError, tree_items, tree_leaves, tree_map, tree_size, tree_sum

TREE = {"dense2": {"w": 1, "b": 2}, "tanh1": {}, "dense1": {"w": 3}, "scale": 4}

trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.text("abc", min_size=1), inner, max_size=4), max_leaves=12
)


def reordered(tree: Any) -> Any:
    return {name: reordered(tree[name]) for name in reversed(tree)} if isinstance(tree, dict) else tree


# tree_map


def test_tree_map_maps_each_leaf_in_order() -> None:
    doubled = tree_map(lambda leaf: 2 * leaf, TREE)
    assert doubled == {"dense2": {"w": 2, "b": 4}, "tanh1": {}, "dense1": {"w": 6}, "scale": 8}
    assert list(tree_items(doubled)) == [("dense2/w", 2), ("dense2/b", 4), ("dense1/w", 6), ("scale", 8)]
    assert list(doubled) == list(TREE)


@given(trees)
def test_tree_map_copies_the_dicts(tree: Any) -> None:
    copy = tree_map(lambda leaf: leaf, tree)
    assert copy == tree
    assert not isinstance(tree, dict) or copy is not tree


@given(trees)
def test_tree_map_matches_several_trees_by_name(tree: Any) -> None:
    assert tree_map(lambda a, b, c: (a, b, c), tree, reordered(tree), tree) == tree_map(lambda a: (a, a, a), tree)
    assert list(tree_items(tree_map(lambda a, b: a, tree, reordered(tree)))) == list(tree_items(tree))


def test_tree_map_of_a_bare_leaf() -> None:
    assert tree_map(lambda a, b: a - b, 5, 3) == 2


def test_tree_map_takes_none_and_tuples_as_leaves() -> None:
    assert tree_map(lambda leaf: leaf, {"a": None, "b": (1, 2)}) == {"a": None, "b": (1, 2)}


def test_tree_map_passes_errors_of_the_function_on() -> None:
    def fail(leaf: object) -> object:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        tree_map(fail, TREE)


MISMATCHES = [
    ({"a": {"w": 1}}, {"a": {"v": 1}}, "'a/w' as in tree 1, got 'a/v' in tree 2"),
    ({"a": {"w": 1}}, {"a": {"w": 1, "b": 2}}, "nothing as in tree 1, got 'a/b' in tree 2"),
    ({"a": {"w": 1, "b": 2}}, {"a": {"w": 1}}, "'a/b' as in tree 1, got nothing in tree 2"),
    ({"a": 1}, {"a": {"w": 1}}, "'a' as in tree 1, got 'a/w' in tree 2"),
    ({"a": {"w": 1}}, {"a": 1}, "'a/w' as in tree 1, got 'a' in tree 2"),
    ({"w": 1}, 1, "'w' as in tree 1, got '' in tree 2"),
    (1, {"w": 1}, "'' as in tree 1, got 'w' in tree 2"),
    ({}, 1, "'{}' as in tree 1, got '' in tree 2"),
    ({"a": {}}, {"a": {}, "b": {}}, "nothing as in tree 1, got 'b/' in tree 2"),
    ({"a": {"b": {}}}, {"a": {"c": {}}}, "'a/b/' as in tree 1, got 'a/c/' in tree 2"),
    (dict.fromkeys("abcdef", 1), {}, "'a', 'b', 'c', 'd' and 2 more as in tree 1, got '{}' in tree 2"),
]


@pytest.mark.parametrize(("first", "second", "message"), MISMATCHES)
def test_tree_map_refuses_another_structure_and_names_both_paths(first: Any, second: Any, message: str) -> None:
    with pytest.raises(TreeError) as caught:
        tree_map(lambda a, b: a, first, second)
    assert str(caught.value) == f"trees differ: expected {message}"


def test_names_that_differ_in_slashes_alone_are_refused() -> None:
    with pytest.raises(TreeError, match="expected names without slashes"):
        tree_map(lambda a, b: a, {"a/b": 1}, {"a": {"b": 1}})


def test_tree_map_numbers_the_tree_that_differs() -> None:
    with pytest.raises(TreeError, match="expected 'a/w' as in tree 1, got 'a/v' in tree 3"):
        tree_map(lambda a, b, c: a, {"a": {"w": 1}}, {"a": {"w": 1}}, {"a": {"v": 1}})


@given(trees, trees)
def test_tree_map_works_exactly_for_equal_structures(first: Any, second: Any) -> None:
    if tree_map(lambda leaf: 0, first) == tree_map(lambda leaf: 0, second):
        tree_map(lambda a, b: a, first, second)
    else:
        with pytest.raises(TreeError):
            tree_map(lambda a, b: a, first, second)


# The others


def test_tree_items_are_paths_and_leaves_in_order() -> None:
    assert list(tree_items(TREE)) == [("dense2/w", 1), ("dense2/b", 2), ("dense1/w", 3), ("scale", 4)]
    assert list(tree_items(7)) == [("", 7)]
    assert list(tree_items({})) == []


@given(trees)
def test_tree_leaves_are_those_of_tree_items(tree: Any) -> None:
    assert tree_leaves(tree) == [leaf for _, leaf in tree_items(tree)]


def test_tree_size_counts_numbers() -> None:
    assert tree_size({"a": {"w": np.zeros((3, 4)), "b": np.zeros(4)}, "c": 1.5, "d": {}, "e": np.float32(2)}) == 18


@given(st.integers(1, 40))
def test_tree_sum_takes_trees_one_by_one_and_adds_in_pairs(n: int) -> None:
    def paired(terms: list[str]) -> str:
        half = 1 << (len(terms) - 1).bit_length() >> 1
        return f"({paired(terms[:half])}+{paired(terms[half:])})" if half else terms[0]

    class Term(str):
        def __add__(self, other: str) -> "Term":
            return Term(f"({self!s}+{other!s})")

    assert tree_sum({"a": Term(k), "b": {}} for k in range(n)) == {"a": paired([str(k) for k in range(n)]), "b": {}}


def test_tree_sum_keeps_at_most_log2_n_trees() -> None:
    alive = weakref.WeakSet["Term"]()
    held = []

    class Term:
        def __init__(self) -> None:
            alive.add(self)
            held.append(len(alive))

        def __add__(self, other: "Term") -> "Term":
            return Term()

    tree_sum({"a": Term()} for _ in range(256))
    assert max(held) <= 8 + 2  # one for each power of two, the new term, and the sum that is being made


def test_tree_sum_refuses_nothing_and_trees_that_differ() -> None:
    with pytest.raises(TreeError, match="expected at least one tree to add, got none"):
        tree_sum([])
    with pytest.raises(TreeError, match="expected 'a' as in tree 1, got 'b' in tree 2"):
        tree_sum([{"a": 1}, {"b": 1}])
