"""The file formats: exact round trips, with `like` and without, mismatches, and compatibility with other programs."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fnn import adam, averaged, conv, cross_entropy, dense, masked, maxpool, relu, serial, sgd, tanh, value_and_grad
from fnn.files.checkpoint import CheckpointError, load, save
from fnn.optim import Optimizer
from fnn.testing.case import ORDERS
from fnn.tree import tree_items, tree_map
from tests.support.programs import python
from tests.support.trees import DTYPES, EXAMPLE_TREE, arrays, assert_same, memory_order, read_only

safetensors = pytest.importorskip("safetensors")

SUFFIXES = (".pkl", ".npz", ".safetensors")
FLAT = SUFFIXES[1:]
COMMON_DTYPES = "?bhilBHILefd"  # all formats support these dtypes

NUMBERS_TREE = {name: leaf for name, leaf in EXAMPLE_TREE.items() if name != "name"}


def number_trees(dtypes: str) -> Any:
    """Returns a strategy for nested dicts of numbers and arrays."""
    scalars = st.sampled_from([np.dtype(char).type(3) for char in dtypes] + [np.float32("nan"), np.float64(-0.0)])
    plain = st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats()
    names = st.text(max_size=6).filter(lambda name: "\0" not in name) | st.sampled_from(
        ["a", "b", "a/b", "/", ".", ".."]
    )

    def dicts(tree: Any) -> Any:
        return st.dictionaries(names, tree, max_size=4)

    return dicts(st.recursive(arrays(dtypes) | scalars | plain, dicts, max_leaves=8))


def other_value(leaf: Any) -> Any:
    """Returns another value of the same type, shape, dtype and memory order."""
    return np.zeros_like(leaf) if isinstance(leaf, np.ndarray) else type(leaf)(1)


def has_distinct_paths(tree: Any) -> bool:
    """Returns whether no two leaves have the same path."""
    paths: list[str] = []

    def visit(node: Any, path: list[str]) -> None:
        for name, child in node.items():
            if isinstance(child, dict):
                visit(child, [*path, name])
            else:
                paths.append("/".join([*path, name]))

    visit(tree, [])
    return len(paths) == len(set(paths))


@pytest.fixture(autouse=True, scope="module")
def no_sync() -> Iterator[None]:
    """Switches fsync off, which is slow; test_checkpoint tests that it is called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


def assert_returns(path: Path, tree: Any, like: Any) -> None:
    """Asserts that load returns the saved tree bit for bit, in writable arrays with the memory order of `like`."""
    save(path, tree)
    loaded = load(path, like)
    assert_same(loaded, tree)
    for (_, before), (_, after) in zip(tree_items(tree), tree_items(loaded), strict=True):
        if isinstance(before, np.ndarray):
            assert after.flags.writeable
            assert after.size == 0 or memory_order(after) == memory_order(before)
    assert not any(name.startswith(".") for name in os.listdir(path.parent))


@pytest.mark.slow
@settings(max_examples=500)
@given(number_trees(COMMON_DTYPES))
def test_load_returns_500_random_trees_bit_for_bit_in_every_format(folder: Path, tree: Any) -> None:
    assume(has_distinct_paths(tree))
    for suffix in SUFFIXES:
        assert_returns(folder / f"tree{suffix}", tree, tree_map(other_value, tree))


@pytest.mark.slow
@settings(max_examples=100)
@given(number_trees(DTYPES))
def test_npz_supports_complex_and_long_numbers(folder: Path, tree: Any) -> None:
    assume(has_distinct_paths(tree))
    assert_returns(folder / "tree.npz", tree, tree_map(other_value, tree))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ORDERS)
def test_load_keeps_floats_in_every_memory_order(tmp_path: Path, suffix: str, dtype: Any, order: str) -> None:
    bits = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 5, np.dtype(dtype).itemsize), np.uint8)
    tree = {
        "w": read_only(ORDERS[order](bits.view(dtype)[..., 0])),
        "b": ORDERS[order](np.arange(12, dtype=dtype).reshape(3, 4)),
    }
    assert_returns(tmp_path / f"tree{suffix}", tree, tree_map(other_value, tree))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_keeps_the_bits_of_nan_and_minus_zero(tmp_path: Path, suffix: str) -> None:
    bits = np.array([0x7FA00001, 0xFFC12345, 0x00000001, 0x80000000, 0xFF800000], np.uint32).view(np.float32)
    tree = {
        "few": bits,
        "swapped": bits.byteswap().view(">f4"),
        "one": bits[0],
        "none": np.array(-0.0),
    }
    assert_returns(tmp_path / f"tree{suffix}", tree, tree_map(other_value, tree))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("tree", [{}, {"relu1": {}}, {"a": {"b": {}}, "w": np.zeros((0, 3))}])
def test_load_returns_empty_trees(tmp_path: Path, suffix: str, tree: Any) -> None:
    assert_returns(tmp_path / f"tree{suffix}", tree, tree)


NET = serial(conv(2, 3), maxpool(2), relu, dense(4), tanh, dense(3))

OPTIMIZERS = {
    "sgd": sgd(0.1),
    "momentum": sgd(0.1, momentum=0.9),
    "adam": adam(),
    "averaged": averaged(adam(), 0.9),
    "masked": masked(adam(), lambda path: path.endswith("/w")),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_from_a_loaded_state_gives_the_same_bits(tmp_path: Path, name: str, suffix: str) -> None:
    rng, optimizer = np.random.default_rng(0), OPTIMIZERS[name]
    batches = [(rng.standard_normal((8, 1, 6, 6)).astype(np.float32), rng.integers(0, 3, 8)) for _ in range(4)]

    def train(params: Any, state: Any, batches: Any) -> Any:
        for x, y in batches:
            _, grads = value_and_grad(NET, cross_entropy)(params, x, y)
            params, state = optimizer.update(params, grads, state)
        return {"params": params, "state": state}

    def start(optimizer: Optimizer) -> Any:
        params = NET.init(0, (1, 6, 6))
        return {"params": params, "state": optimizer.init(params)}

    path = tmp_path / f"run{suffix}"
    save(path, train(**start(optimizer), batches=batches[:2]))
    resumed = load(path, like=start(optimizer))
    assert_same(train(**resumed, batches=batches[2:]), train(**start(optimizer), batches=batches))


# Without a template


@pytest.mark.parametrize("suffix", FLAT)
def test_load_without_like_returns_nested_dicts_of_arrays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tree{suffix}"
    save(path, {**NUMBERS_TREE, "a/b": {"c": 1.5}, "on": True})
    loaded = load(path)
    expected = {
        "conv1": NUMBERS_TREE["conv1"],
        "dense1": NUMBERS_TREE["dense1"],
        "step": np.array(3),
        "rate": np.array(0.1),
    }
    expected |= {"a": {"b": {"c": np.array(1.5)}}, "on": np.array(True)}
    assert loaded.keys() == expected.keys()
    assert_same(dict(sorted(tree_items(loaded))), dict(sorted(tree_items(expected))))
    assert all(leaf.flags.writeable for _, leaf in tree_items(loaded))


@pytest.mark.parametrize("suffix", FLAT)
@pytest.mark.parametrize("tree", [{"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}, {"a": 1, "a/": {"c": 2}}])
def test_load_of_a_path_below_another_leaf_needs_like(tmp_path: Path, suffix: str, tree: Any) -> None:
    path = tmp_path / f"tree{suffix}"
    save(path, tree)
    with pytest.raises(CheckpointError, match=r"tree\.\w+: 'a.*': expected no array above or below this one"):
        load(path)
    assert load(path, like=tree) == tree


@pytest.mark.parametrize("suffix", FLAT)
def test_load_of_a_very_long_path_needs_like(tmp_path: Path, suffix: str) -> None:
    path, tree = tmp_path / f"tree{suffix}", {"a/" * 121: 1}
    save(path, tree)
    with pytest.raises(CheckpointError, match="expected at most 120 nested dicts"):
        load(path)
    assert load(path, like=tree) == tree


# Mismatches

LIKE = {
    "conv1": {"w": np.zeros((6, 1, 3, 3), np.float32), "b": np.zeros(6, np.float32)},
    "relu1": {},
    "dense1": {"w": np.zeros((4, 3), np.float32), "b": np.zeros(3, np.float32)},
    "step": 0,
    "rate": 0.5,
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_lists_all_mismatches_with_like_by_path(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tree{suffix}"
    wrong = {
        "conv1": {"w": np.zeros((6, 3, 1, 3), np.float32)},
        "dense1": {"w": np.zeros((4, 3)), "b": {"c": np.zeros(3, np.float32)}},
        "rate": 1,
        "step": np.float64(3),
        "conv2": {"w": np.zeros(2, bool)},
        "tanh1": {},
    }
    save(path, wrong)
    with pytest.raises(CheckpointError) as raised:
        load(path, like=LIKE)
    start, _, faults = str(raised.value).partition(": does not match like: ")
    assert start == str(path)
    scalar = {".pkl": ("a float64", "an int")}.get(suffix, ("float64 ()", "int64 ()"))
    assert sorted(faults.split("; ")) == sorted(
        [
            "'conv1/w': expected float32 (6, 1, 3, 3), got float32 (6, 3, 1, 3)",
            "'conv1/b': expected float32 (6,), got nothing",
            "'dense1/w': expected float32 (4, 3), got float64 (4, 3)",
            "'dense1/b': expected float32 (3,), got nothing",
            "'dense1/b/c': expected nothing, got float32 (3,)",
            f"'step': expected an int, got {scalar[0]}",
            f"'rate': expected a float, got {scalar[1]}",
            "'conv2/w': expected nothing, got bool (2,)",
        ]
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_names_a_leaf_in_place_of_a_dict_and_the_reverse(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tree{suffix}"
    save(path, {"conv1": np.zeros(3)})
    with pytest.raises(CheckpointError) as raised:
        load(path, like={"conv1": {"w": np.zeros(2)}})
    assert "'conv1': expected nothing, got float64 (3,); 'conv1/w': expected float64 (2,), got nothing" in str(
        raised.value
    )
    with pytest.raises(
        CheckpointError, match=r"the tree: expected float64 \(3,\), got nothing; 'conv1': expected nothing"
    ):
        load(path, like=np.zeros(3))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_lists_at_most_50_mismatches(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tree{suffix}"
    save(path, {f"{n}" * 100: n for n in range(1000)})
    with pytest.raises(CheckpointError, match=r"; and more$") as raised:
        load(path, like={})
    assert str(raised.value).count("expected nothing") == 50
    assert len(str(raised.value)) < 10_000


@pytest.mark.parametrize(
    ("leaf", "like"),
    [
        (np.array(3), 0),
        (np.int32(3), 0),
        (3, np.array(0)),
        (np.array(0.5), 1.0),
        (0.5, np.float64(1)),
        (np.array(True), False),
        (np.float32(3), np.array(0, np.float32)),
        (np.array(3, ">f4"), np.float32(0)),
        (np.arange(3, dtype=">i2"), np.zeros(3, "<i2")),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_converts_an_equal_number_to_the_type_of_like(tmp_path: Path, suffix: str, leaf: Any, like: Any) -> None:
    path = tmp_path / f"tree{suffix}"
    save(path, {"a": leaf})
    loaded = load(path, {"a": like})["a"]
    assert type(loaded) is type(like)
    assert np.asarray(loaded).dtype == np.asarray(like).dtype
    assert np.all(loaded == leaf)


@pytest.mark.parametrize(
    ("leaf", "like"),
    [
        *((True, 0), (1, False), (1, 1.0), (1.0, 1), (np.float32(1), 1.0), (np.int32(1), np.int64(1))),
        *((np.zeros(1), 0.0), (np.zeros(1, int), 0), (np.zeros(2, int), 0)),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_refuses_another_kind_of_number_than_like(tmp_path: Path, suffix: str, leaf: Any, like: Any) -> None:
    path = tmp_path / f"tree{suffix}"
    save(path, {"a": leaf})
    with pytest.raises(CheckpointError, match=r"does not match like: 'a': expected .*, got"):
        load(path, {"a": like})


def test_load_of_a_pickle_compares_text_and_none_with_like(tmp_path: Path) -> None:
    tree = {"name": "lenet", "none": None, "big": 1 << 100}
    save(tmp_path / "tree.pkl", tree)
    assert load(tmp_path / "tree.pkl", {"name": "", "none": None, "big": 0}) == tree
    with pytest.raises(
        CheckpointError, match=r"'name': expected a NoneType, got a str; 'big': expected int64 \(\), got an int"
    ):
        load(tmp_path / "tree.pkl", {"name": None, "none": None, "big": np.array(0)})


def test_load_refuses_a_like_that_is_not_a_tree(tmp_path: Path) -> None:
    save(tmp_path / "tree.pkl", {})
    with pytest.raises(CheckpointError, match=r"like: 'a': expected a plain array .*, got a list"):
        load(tmp_path / "tree.pkl", {"a": [1]})


def test_load_of_a_pickle_keeps_its_memory_order_for_any_like(tmp_path: Path) -> None:
    save(tmp_path / "tree.pkl", {"w": np.asfortranarray(np.ones((2, 3)))})
    assert load(tmp_path / "tree.pkl", {"w": np.zeros((2, 3))})["w"].flags.f_contiguous


# Unsupported suffixes and trees


@pytest.mark.parametrize("path", ["params.foo", "params.pt", "params.npy", "epoch.1"])
def test_save_and_load_refuse_an_unknown_suffix_and_list_the_known_ones(tmp_path: Path, path: str) -> None:
    (tmp_path / path).touch()
    for use in (lambda: save(tmp_path / path, {}), lambda: load(tmp_path / path)):
        with pytest.raises(
            CheckpointError, match=rf"{path}: expected a suffix \.pkl, \.npz, \.safetensors or none, got '\.\w+'"
        ):
            use()


def test_save_without_a_suffix_writes_a_pickle_and_ignores_case(tmp_path: Path) -> None:
    for name, begins in (("params", b"\x80"), ("PARAMS.NPZ", b"PK"), ("a.b.Npz", b"PK"), (".npz", b"\x80")):
        save(tmp_path / name, {"a": 1})
        assert (tmp_path / name).read_bytes().startswith(begins)
        assert load(tmp_path / name, {"a": 0}) == {"a": 1}


REFUSED_TREES: dict[str, tuple[Any, str]] = {
    "text": ({"a": {"b": "x"}}, "'a/b': expected numbers that this format supports, got a str; use a .pkl file"),
    "none": ({"a": None}, "'a': expected numbers .*, got a NoneType"),
    "a large int": ({"a": 1 << 64}, "'a': expected numbers .*, got an int of more than 64 bits"),
    "a leaf": (np.zeros(3), r"the tree: expected a dict from names to arrays, got float64 \(3,\)"),
    "zero": ({"a\0b": 1}, "'a\\\\x00b': expected a path"),
    "half a character": ({"a": {"\ud800": 1}}, r"'a/\\ud800': expected a path"),
    "a long path": ({"é" * (1 << 15): 1}, "'é{80}': expected a path of at most 32768 bytes in UTF-8"),
    "a path twice": ({"a": {"b": 1}, "a/b": 2}, "'a/b': expected one leaf with this path, got two"),
    "objects": ({"a": np.array([None])}, r"'a': expected a plain array .*, got object \(1,\)"),
}


@pytest.mark.parametrize("suffix", FLAT)
@pytest.mark.parametrize(("tree", "message"), REFUSED_TREES.values(), ids=REFUSED_TREES)
def test_save_refuses_unsupported_trees_before_it_writes(tmp_path: Path, suffix: str, tree: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"nowhere/tree{suffix}: {message}"):
        save(tmp_path / "nowhere" / f"tree{suffix}", tree)


@pytest.mark.parametrize("char", "FDGg")
def test_save_refuses_complex_and_long_numbers_in_safetensors(tmp_path: Path, char: str) -> None:
    with pytest.raises(CheckpointError, match=rf"'a': expected numbers .*, got {np.dtype(char)} \(2,\)"):
        save(tmp_path / "nowhere" / "tree.safetensors", {"a": np.zeros(2, char)})


def test_save_refuses_the_reserved_name_of_safetensors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'__metadata__': expected another name"):
        save(tmp_path / "tree.safetensors", {"__metadata__": np.zeros(2)})
    assert_returns(
        tmp_path / "tree.safetensors", {"a": {"__metadata__": np.zeros(2)}}, {"a": {"__metadata__": np.ones(2)}}
    )


@pytest.mark.parametrize("use", [lambda path: save(path, {}), load])
def test_save_and_load_without_safetensors_name_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Path], Any]
) -> None:
    path = tmp_path / "tree.safetensors"
    path.write_bytes(b"\2\0\0\0\0\0\0\0{}")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(CheckpointError) as raised:
        use(path)
    assert str(raised.value) == f"{path}: the package safetensors is missing; run pip install '.[safetensors]'"
    assert path.read_bytes() == b"\2\0\0\0\0\0\0\0{}"


def test_import_of_fnn_imports_no_extra() -> None:
    extras = {"safetensors", "torch", "onnx", "mpi4py", "tqdm", "matplotlib"}
    code = f"import sys, fnn; print({extras} & {{*sys.modules}})"
    done = python("-c", code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "set()", "")


# Compatibility


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_save_writes_the_same_bytes_for_the_same_tree(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        save(tmp_path / f"{name}{suffix}", NUMBERS_TREE)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_npz_is_compatible_with_numpy(tmp_path: Path) -> None:
    path = tmp_path / "tree.npz"
    save(path, NUMBERS_TREE)
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file) == ["conv1/b", "conv1/w", "dense1/b", "dense1/w", "rate", "step"]
        for name in ("conv1", "dense1"):
            assert_same({entry: file[f"{name}/{entry}"] for entry in "wb"}, {n: NUMBERS_TREE[name][n] for n in "wb"})
        assert file["dense1/w"].flags.f_contiguous
    content: dict[str, Any] = {
        "a/b": np.arange(600.0).reshape(20, 30).T,
        "c": np.float32(3),
        "é": np.arange(3, dtype=">i2"),
    }
    for write in (np.savez, np.savez_compressed):
        write(path, **content)
        loaded = load(path)
        expected = {"a": {"b": np.arange(600.0).reshape(20, 30).T}, "c": np.array(3, np.float32)}
        assert_same(loaded, expected | {"é": np.arange(3, dtype=">i2")})
        assert loaded["a"]["b"].flags.f_contiguous
    np.savez_compressed(path, zeros=np.zeros(100_000))  # a small file may expand more
    assert_same(load(path), {"zeros": np.zeros(100_000)})


def test_safetensors_is_compatible_with_the_package(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "tree.safetensors"
    save(path, {**NUMBERS_TREE, "swapped": np.arange(3, dtype=">i2")})
    theirs = load_file(path)
    assert sorted(theirs) == ["conv1/b", "conv1/w", "dense1/b", "dense1/w", "rate", "step", "swapped"]
    assert np.array_equal(theirs["dense1/w"], NUMBERS_TREE["dense1"]["w"])
    assert np.array_equal(theirs["swapped"], np.arange(3))
    save_file({"a/b": np.arange(6.0).reshape(2, 3), "c": np.array(3)}, path)
    assert_same(load(path), {"c": np.array(3), "a": {"b": np.arange(6.0).reshape(2, 3)}})


@pytest.mark.skipif(not safetensors.__version__.startswith("0.8."), reason="shows what safetensors 0.8 does")
def test_safetensors_package_writes_fortran_order_wrongly() -> None:
    from safetensors.numpy import load, save

    w = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert not np.array_equal(load(save({"w": w}))["w"], w)


def test_save_writes_fortran_order_correctly_to_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    w = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    save(tmp_path / "tree.safetensors", {"w": w})
    assert np.array_equal(load_file(tmp_path / "tree.safetensors")["w"], w)
    assert_returns(tmp_path / "tree.safetensors", {"w": w}, {"w": np.zeros_like(w)})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_save_keeps_the_old_file_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"tree{suffix}"
    save(path, NUMBERS_TREE)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=rf"No space left on device: '.*tree{suffix}'"):
        save(path, {"a": 1})
    assert os.listdir(tmp_path) == [path.name]
    assert_same(load(path, NUMBERS_TREE), NUMBERS_TREE)
