"""Params from files have no empty dicts: nets, optimizers, summaries, exports and files take them unchanged."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import (
    Key,
    Op,
    OpError,
    adam,
    average,
    averaged,
    batch_norm,
    calibrate,
    clip_by_global_norm,
    conv,
    cross_entropy,
    dense,
    dropout,
    finite,
    flatten,
    freeze,
    from_torch,
    load,
    masked,
    maxpool,
    microbatch,
    named,
    parallel,
    per_example,
    relu,
    remat,
    repeat,
    residual,
    save,
    serial,
    sgd,
    shard,
    shared,
    softmax,
    summary,
    tanh,
    to_torch,
    tree_items,
    tree_leaves,
    tree_map,
    value_and_grad,
)
from fnn.mpi import spread
from fnn.op import Array, Params, Shape, Vjp
from fnn.testing.compare import check_equal
from fnn.testing.table import TABLE
from fnn.testing.table import Example as Row
from fnn.tree import Tree
from tests.support.strategies import Example, nets
from tests.test_nesting import KINDS, drawn

safetensors = pytest.importorskip("safetensors")

SUFFIXES = (".pkl", ".npz", ".safetensors")
FLAT = SUFFIXES[1:]


@pytest.fixture(autouse=True, scope="module")
def no_sync() -> Iterator[None]:
    """Skips fsync, which takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("params")


def without_empty(tree: Tree) -> Tree:
    """Removes dicts without leaves."""
    if not isinstance(tree, dict):
        return tree
    return {name: without_empty(child) for name, child in tree.items() if tree_leaves(child)}


def with_leaves(like: Tree, loaded: Tree) -> Tree:
    """Puts the leaves of `loaded` into the dicts of `like`."""
    leaves = dict(tree_items(loaded))
    paths = iter([path for path, _ in tree_items(like)])
    return tree_map(lambda _: leaves[next(paths)], like)


def structure(tree: Tree) -> Tree:
    """Replaces each leaf by a number."""
    return tree_map(lambda _: 0, tree)


def moved(params: Params) -> Params:
    """Adds 0.1 to the params, so that batch_norm counts as calibrated."""
    added: Params = tree_map(lambda a: a + np.asarray(0.1, a.dtype), params)
    return added


def assert_loads(op: Op, shape: Shape, x: Array, key: Key | None, folder: Path) -> None:
    """Asserts that `op` gives the same bits with loaded params and with complete ones."""
    params = moved(op.init(0, shape))
    for suffix in SUFFIXES:
        save(folder / f"params{suffix}", params)
        loaded = load(folder / f"params{suffix}")
        complete = with_leaves(params, loaded)
        y, vjp = op.apply(complete, x, key)
        y_loaded, vjp_loaded = op.apply(loaded, x, key)
        grads, dx = vjp(np.cos(y))
        grads_loaded, dx_loaded = vjp_loaded(np.cos(y))
        check_equal({"y": y_loaded, "dx": dx_loaded}, {"y": y, "dx": dx}, "with loaded params")
        assert structure(grads_loaded) == structure(loaded)
        check_equal(without_empty(grads_loaded), without_empty(grads), "with loaded params")
        again, _ = vjp_loaded(np.cos(y), False)
        check_equal(again, grads_loaded, "without need_dx")
        assert summary(op, shape, loaded) == summary(op, shape, params)
        optimizer = averaged(sgd(0.1, 0.9), 0.9)
        stepped, _ = optimizer.update(loaded, grads_loaded, optimizer.init(loaded))
        save(folder / f"stepped{suffix}", stepped)
        check_equal(load(folder / f"stepped{suffix}", stepped), stepped, "saved again")
        check_equal(load(folder / f"stepped{suffix}", params), with_leaves(params, stepped), "loaded with a template")


@pytest.mark.parametrize("row", [row for rows in TABLE.values() for row in rows], ids=lambda row: repr(row.op)[:50])
def test_operators_take_loaded_params(row: Row, folder: Path) -> None:
    shape = (row.batch, *row.shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) if row.x is None else row.x
    assert_loads(row.op, row.shape, x, None if row.key is None else Key(1), folder)


@given(nets(), st.integers(0, 3))
def test_random_chains_take_loaded_params(folder: Path, example: Example, batch: int) -> None:
    op, shape = example
    assert_loads(op, shape, np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32), None, folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:shard:RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_random_nets_take_loaded_params(folder: Path, kind: str) -> None:
    for one in drawn(kind, 3):
        x = one.x if one.net.op.integers else one.x.astype(np.float32)
        assert_loads(one.net.op, one.shape, x, None if one.key is None else Key(one.key), folder)


NET = serial(
    *(conv(4, 3, padding=1), batch_norm(), relu, maxpool(2)),
    *(residual(serial(conv(4, 3, padding=1), tanh)), parallel(relu, serial(tanh, relu), conv(4, 1))),
    *(flatten, named("head", serial(dropout(0.5), dense(8))), shared(serial(tanh, dense(8)), 2), repeat(tanh, 2)),
    *(dense(3), softmax),
)
SHAPE = (1, 6, 6)
X = np.random.default_rng(0).standard_normal((6, *SHAPE)).astype(np.float32)
Y = np.arange(6) % 3


@pytest.fixture(params=FLAT)
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> Params:
    """The calibrated params of NET from a file."""
    path = tmp_path / f"params{request.param}"
    save(path, calibrate(NET, NET.init(0, SHAPE), [X]))
    return load(path)  # type: ignore[no-any-return]


def test_load_drops_empty_dicts(loaded: Params) -> None:
    assert structure(loaded) == structure(without_empty(NET.init(0, SHAPE)))
    assert not loaded.keys() & {"relu1", "maxpool1", "flatten1", "tanh1", "softmax1"}


OPTIMIZERS = {
    "sgd": sgd(0.1, weight_decay=0.1),
    "momentum": sgd(0.1, momentum=0.9),
    "adam": adam(),
    "averaged": averaged(adam(), 0.9),
    "masked": masked(adam(), lambda path: path.endswith("/w")),
    "masked others": averaged(masked(adam(), lambda path: path.startswith("head/"), sgd(0.1)), 0.9),
    "clipped": clip_by_global_norm(averaged(sgd(0.1), 0.5), 0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_train_loaded_params(loaded: Params, name: str, tmp_path: Path) -> None:
    step, optimizer = value_and_grad(NET, cross_entropy), OPTIMIZERS[name]
    complete = with_leaves(NET.init(0, SHAPE), loaded)
    state, complete_state = optimizer.init(loaded), optimizer.init(complete)
    for i in range(3):
        (loss, _), grads = step(loaded, X, Y, i)
        loaded, state = optimizer.update(loaded, grads, state)
        (wanted, _), grads = step(complete, X, Y, i)
        complete, complete_state = optimizer.update(complete, grads, complete_state)
        assert loss == pytest.approx(wanted, rel=1e-6)  # clipping adds up the norm in the order of the leaves
    check_equal(loaded, without_empty(complete), "after 3 steps", 1e-6)
    if "average" in state:
        check_equal(average(state), without_empty(average(complete_state)), "after 3 steps", 1e-6)
    save(tmp_path / "again.npz", loaded)
    check_equal(load(tmp_path / "again.npz", loaded), loaded, "saved again")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net,
        lambda net: shard(net, 1, 3),
        lambda net: shard(net, 2, 3),
        lambda net: spread(net, workers=1, size=3),
        remat,
        finite,
        freeze,
        lambda net: microbatch(net, 3),
        lambda net: serial(remat(named("net", net))),
    ],
    ids=["net", "shard", "shard by two threads", "spread", "remat", "finite", "freeze", "microbatch", "named"],
)
def test_wrapped_nets_train_loaded_params(loaded: Params, wrap: Callable[[Op], Op]) -> None:
    net = wrap(NET)
    params = {"net": loaded} if net.kind == "serial" and "net" in net.parts else loaded
    complete = with_leaves(net.init(0, SHAPE), params)
    (loss, out), grads = value_and_grad(net, cross_entropy)(params, X, Y, 1)
    (wanted, wanted_out), wanted_grads = value_and_grad(net, cross_entropy)(complete, X, Y, 1)
    assert loss == wanted
    check_equal({"out": out}, {"out": wanted_out}, "with loaded params")
    assert structure(grads) == structure(params)
    check_equal(grads, without_empty(wanted_grads), "with loaded params")
    check_equal(calibrate(net, params, [X]), without_empty(calibrate(net, complete, [X])), "calibrated")


def test_per_example_takes_loaded_params(loaded: Params) -> None:
    _, grads = per_example(NET, cross_entropy)(loaded, X, Y, None)
    assert structure(grads) == structure(loaded)


def test_to_torch_and_from_torch_take_loaded_params(loaded: Params) -> None:
    net = serial(conv(4, 3), relu, serial(tanh, dense(8)), tanh, dense(3))
    params = net.init(0, SHAPE)
    state, some = to_torch(params), without_empty(params)
    assert to_torch(some, state).keys() == state.keys()
    check_equal(dict(to_torch(some, state)), dict(state), "from params without empty dicts")
    check_equal(from_torch(state, some), some, "like params without empty dicts")


@pytest.mark.parametrize("suffix", FLAT)
def test_export_takes_loaded_params(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("onnx")
    from fnn.onnx import export

    params = calibrate(NET, NET.init(0, SHAPE), [X])
    save(tmp_path / f"params{suffix}", params)
    loaded = load(tmp_path / f"params{suffix}")
    export(NET, loaded, SHAPE, tmp_path / "loaded.onnx")
    export(NET, with_leaves(params, loaded), SHAPE, tmp_path / "complete.onnx")
    assert (tmp_path / "loaded.onnx").read_bytes() == (tmp_path / "complete.onnx").read_bytes()


def _both(first: Op, second: Op) -> Op:
    """A user's combinator that looks up params by name: the product of two operators."""
    parts = {"first": first, "second": second}

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        (y, vjp), (z, vjp_z) = (parts[name].apply(params[name], x, key) for name in parts)

        def pull(dy: Array, need_dx: bool = True) -> Any:
            (grads, dx), (grads_z, dx_z) = vjp(dy * z, need_dx), vjp_z(dy * y, need_dx)
            return {"first": grads, "second": grads_z}, dx + dx_z if need_dx else None

        return y * z, pull

    def init(key: Key, shape: Shape) -> Params:
        return {name: op.init(key.fold(name), shape) for name, op in parts.items()}

    return Op(init, apply, parts=parts, takes_key=True, kind="both")


def test_user_combinators_take_loaded_params(folder: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    assert_loads(serial(_both(dense(3), serial(tanh, dense(3))), relu), (4,), x, None, folder)
    assert_loads(_both(tanh, serial(relu, tanh)), (4,), x, None, folder)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "serial: expected params 'dense1', 'tanh1', 'serial1', got none; .* are missing"),
        (
            {"dense1": dense(4).init(0, (4,))},
            "serial: expected params 'dense1', .*, got 'dense1'; .*'serial1' are missing",
        ),
        (
            {"dense1": dense(4).init(0, (4,)), "serial1": {}},
            "serial1: expected params 'tanh1', 'dense1', got none; 'tanh1', 'dense1' are missing",
        ),
    ],
)
def test_serial_names_missing_params_of_parts_that_have_some(params: Params, message: str) -> None:
    net = serial(dense(4), tanh, serial(tanh, dense(2)))
    with pytest.raises(OpError, match=f"^{message}$"):
        net.apply(params, np.ones((2, 4), np.float32))


def test_serial_with_loaded_params_passes_errors_of_parts_on() -> None:
    with pytest.raises(OpError, match=r"^maxpool1: expected at least 9 pixels for a window of 9"):
        serial(maxpool(9)).apply({}, np.ones((2, 1, 4, 4), np.float32))
