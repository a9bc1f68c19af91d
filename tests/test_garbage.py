"""No call leaves reference cycles: its memory is freed when it returns, without the garbage collector."""

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fnn
from fnn import (
    adam,
    averaged,
    batch_norm,
    calibrate,
    check_finite,
    clip_by_global_norm,
    conv,
    cross_entropy,
    dense,
    freeze,
    from_torch,
    load,
    masked,
    microbatch,
    parallel,
    per_example,
    relu,
    remat,
    residual,
    run,
    save,
    serial,
    sgd,
    shard,
    shared,
    summary,
    tanh,
    to_torch,
    tree_map,
    tree_sum,
    value_and_grad,
)
from fnn.data import digits
from fnn.kernels.threads import MIN_SHARED_MACS, run_both
from fnn.mpi import spread, spread_loss
from fnn.testing.table import TABLE, Example
from tests.support.runs import make_task, no_log

SUFFIXES = (".pkl", ".npz", ".safetensors")
NET = serial(conv(4, 3), batch_norm(), relu, dense(3))
X = np.random.default_rng(0).standard_normal((6, 1, 6, 6)).astype(np.float32)
PARAMS = calibrate(NET, NET.init(0, (1, 6, 6)), [X])
Y = np.arange(6) % 3
STATE_DICT = to_torch(PARAMS)
OPTIMIZER = averaged(masked(clip_by_global_norm(adam(), 1.0), lambda path: path.endswith("w"), sgd(0.1, 0.9)), 0.9)
STATE = OPTIMIZER.init(PARAMS)
_, GRADS = value_and_grad(NET, cross_entropy)(PARAMS, X, Y, 0)
LARGE = serial(dense(500), tanh, dense(500), tanh, dense(3))  # its gradients are large enough for a spare thread
LARGE_PARAMS, LARGE_X = LARGE.init(0, (500,)), np.ones((64, 500), np.float32)


@pytest.fixture(autouse=True, scope="module")
def frozen_heap() -> Iterator[None]:
    """Hides the objects of other tests from the garbage collector, which otherwise takes 0.1 s per run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def left_by(call: Callable[[], object]) -> list[str]:
    """Returns the types of the objects that `call` leaves to the garbage collector."""
    call()  # what is made once and kept, such as caches and threads, is made here
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        call()
        gc.collect()
        return [f"{type(thing).__name__} {getattr(thing, '__qualname__', '')}" for thing in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def refused(call: Callable[[], object]) -> Callable[[], None]:
    """Returns a function that calls `call` and expects an error."""

    def expect() -> None:
        try:
            call()
        except (ValueError, TypeError, OSError, ZeroDivisionError):
            return
        raise AssertionError("no error")

    return expect


def step(net: fnn.Op, params: fnn.Params = PARAMS, x: fnn.Array = X) -> Callable[[], object]:
    return lambda: value_and_grad(net, cross_entropy)(params, x, np.arange(len(x)) % 3, 0)


def _faulty(params: fnn.Params, x: fnn.Array) -> tuple[fnn.Array, Any]:
    def pull(dy: fnn.Array, need_dx: bool = True) -> Any:
        return run_both(lambda: 1 // 0, lambda: dy, MIN_SHARED_MACS)

    return x, pull


faulty = fnn.Op(lambda key, shape: {}, _faulty, kind="faulty")


CALLS: dict[str, Callable[[], object]] = {
    "serial": lambda: serial(conv(4, 3), residual(tanh), parallel(dense(3), dense(3)), shared(tanh, 2)),
    "init": lambda: NET.init(0, (1, 6, 6)),
    "repr": lambda: repr(NET),
    "vjp": lambda: NET.apply(PARAMS, X)[1](np.ones((6, 3), np.float32)),
    "value_and_grad": step(NET),
    "shard, one thread": step(shard(NET, 1, 3)),
    "shard": step(shard(NET, 2, 3)),
    "shard with spare threads": step(shard(LARGE, 2, 64), LARGE_PARAMS, LARGE_X),
    "spread": step(spread(NET, workers=1, size=3)),
    "spread_loss": lambda: spread_loss(cross_entropy)(np.zeros((6, 3), np.float32), Y)[1](),
    "remat": step(remat(NET)),
    "microbatch": step(microbatch(NET, 3)),
    "freeze": step(freeze(NET)),
    "check_finite": step(check_finite(NET)),
    "per_example": lambda: per_example(NET, cross_entropy)(PARAMS, X, Y, None),
    "calibrate": lambda: calibrate(NET, PARAMS, [X, X]),
    "summary": lambda: summary(NET, (1, 6, 6), PARAMS),
    "Optimizer.init": lambda: OPTIMIZER.init(PARAMS),
    "Optimizer.update": lambda: OPTIMIZER.update(PARAMS, GRADS, STATE),
    "tree_sum": lambda: tree_sum([PARAMS, PARAMS, PARAMS]),
    "digits": lambda: digits(20, 0),
    "from_torch": lambda: from_torch(STATE_DICT, PARAMS),
    "to_torch": lambda: to_torch(PARAMS),
    "to_torch like": lambda: to_torch(PARAMS, STATE_DICT),
    "run.train": lambda: run.train(make_task(epochs=1), run.start(make_task(epochs=1)), log=no_log),
}

ERRORS: dict[str, Callable[[], object]] = {
    "maker": lambda: conv(4, 0),
    "init": lambda: NET.init(0, (3,)),
    "other params": lambda: NET.apply({}, X),
    "no params": lambda: NET.apply(None, X),  # type: ignore[arg-type]
    "input": lambda: NET.apply(PARAMS, X[0]),
    "cotangent": lambda: NET.apply(PARAMS, X)[1](np.ones(3)),
    "shard": lambda: shard(NET, 2, 2).apply(PARAMS, X[:, :, :2]),
    "shard, cotangent": lambda: shard(NET, 2, 2).apply(PARAMS, X)[1](np.ones(3)),
    "spare thread": lambda: shard(serial(LARGE, faulty), 2, 64).apply(
        {"serial1": LARGE_PARAMS, "faulty1": {}}, LARGE_X
    )[1](np.ones((64, 3), np.float32)),
    "targets": lambda: value_and_grad(NET, cross_entropy)(PARAMS, X, Y + 9, 0),
    "from_torch": lambda: from_torch({"a.weight": np.ones(3)}, PARAMS),
    "to_torch": lambda: to_torch({"a": {"other": np.ones(3)}}),
    "gradients": lambda: OPTIMIZER.update(PARAMS, {"a": 3}, STATE),
    "tree_map": lambda: tree_map(lambda a, b: a, PARAMS, {"x": 1}),
    "summary": lambda: summary(NET, ("x",)),  # type: ignore[arg-type]
}


def test_left_by_finds_a_reference_cycle() -> None:
    def cycle() -> None:
        found: list[object] = []
        found.append(found)

    assert left_by(cycle) == ["list "]


@pytest.mark.parametrize("name", CALLS)
def test_calls_leave_no_garbage(name: str) -> None:
    assert left_by(CALLS[name]) == []


@pytest.mark.parametrize("name", ERRORS)
def test_errors_leave_no_garbage(name: str) -> None:
    assert left_by(refused(ERRORS[name])) == []


@pytest.mark.parametrize("row", [row for rows in TABLE.values() for row in rows], ids=lambda row: repr(row.op)[:40])
def test_every_operator_leaves_no_garbage(row: Example) -> None:
    params = tree_map(lambda a: a + 0.1, row.op.init(0, row.shape))  # + 0.1: calibrated
    x = np.ones((row.batch, *row.shape)) if row.x is None else row.x

    def call() -> None:
        y, vjp = row.op.apply(params, x.astype(np.int64 if row.op.integers else np.float32), row.key)
        vjp(y)

    assert left_by(call) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_save_and_load_leave_no_garbage(tmp_path: Path, suffix: str) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path, damaged = tmp_path / f"params{suffix}", tmp_path / f"damaged{suffix}"
    save(path, PARAMS)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    weights = tmp_path / f"weights{suffix}"
    save(weights, STATE_DICT)
    for call in (
        partial(save, path, PARAMS),
        partial(load, path),
        partial(load, path, PARAMS),
        partial(from_torch, weights, PARAMS),
        refused(partial(save, path, {"a": object()})),
        refused(partial(save, tmp_path / "none" / path.name, PARAMS)),
        refused(partial(load, path, {"a": 3})),
        refused(partial(load, damaged)),
        refused(partial(load, tmp_path / "none")),
    ):
        assert left_by(call) == []


def test_export_leaves_no_garbage(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from fnn.onnx import export

    other = fnn.Op(NET.init, NET.apply, kind="other")
    assert left_by(lambda: export(NET, PARAMS, (1, 6, 6), tmp_path / "model.onnx")) == []
    assert left_by(refused(lambda: export(NET, PARAMS, (1, 6), tmp_path / "model.onnx"))) == []
    assert left_by(refused(lambda: export(serial(other), {"other1": PARAMS}, (1, 6, 6), tmp_path / "m.onnx"))) == []


def test_run_train_in_a_folder_leaves_no_garbage(tmp_path: Path) -> None:
    task = make_task(epochs=1)

    def call() -> None:
        folder = tmp_path / str(len(os.listdir(tmp_path)))
        folder.mkdir()
        run.train(task, run.read_state(folder, task), folder, log=no_log)

    assert left_by(call) == []


def test_from_torch_frees_what_it_returned() -> None:
    gc.collect()
    gc.disable()
    try:
        params = from_torch(STATE_DICT, PARAMS)
        kept = [weakref.ref(leaf) for leaf in fnn.tree_leaves(params)]
        del params
        assert all(ref() is None for ref in kept)
    finally:
        gc.enable()
