import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import after, bits, silent, task_of

import fnn
from fnn import dense, named, parallel, repeat, residual, run, serial, tanh
from fnn.run import loop
from fnn.run.faults import fault, sound, watched


def broken(forward: bool) -> fnn.Op:
    """An operator that makes an infinity, forward or in the gradient of its parameter."""

    def apply(params: fnn.Params, x: fnn.Array) -> tuple[fnn.Array, Any]:
        def vjp(dy: fnn.Array, need_dx: bool = True) -> tuple[fnn.Params, fnn.Array]:
            return {"w": np.full(1, np.float32(1 if forward else np.inf))}, dy

        return (x + np.float32(np.inf) if forward else x), vjp

    return fnn.Op(lambda key, shape: {"w": np.zeros(1, np.float32)}, apply, kind="broken")


def spoiled(number: int) -> Callable[[fnn.Array, fnn.Key], fnn.Array]:
    """The augmentation that puts a nan into each shard of the batch of that number."""

    def spoil(images: fnn.Array, key: fnn.Key) -> fnn.Array:
        images[0, 0, 3, 3] = np.nan if key.path[2] == number else 0
        return images

    return spoil


def test_a_nan_in_one_batch_ends_the_run_at_that_step_and_keeps_the_state_before_it(tmp_path: Path) -> None:
    task = task_of(augment=spoiled(4), epochs=1)
    told = r"(?m)^step 5 \(epoch 1, batch 5\): the input has 4 nan and 0 infinite of 7840 numbers$"
    with pytest.raises(run.NotFiniteError, match=told):
        run.train(task, run.start(task), tmp_path, 1e9, tell=silent)
    state = run.read_state(tmp_path, task)
    assert (state["step"], state["batch"]) == (4, 4)
    assert bits(state) == bits(run.train(task, run.start(task), None, 1e9, after(4), silent))


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize(
    ("path", "around"),
    [
        ("broken1", lambda op: op),
        ("serial1/broken1", lambda op: serial(dense(4), op, fnn.relu)),
        ("residual1/serial1/broken1", lambda op: residual(serial(dense(784), op))),
        ("parallel1/broken1", lambda op: parallel(tanh, op, join="concat")),
        ("repeat1/broken1", lambda op: repeat(op, 2)),
        ("mine", lambda op: named("mine", op)),
    ],
)
def test_the_operator_at_fault_is_told_by_its_path(
    path: str, around: Callable[[fnn.Op], fnn.Op], forward: bool
) -> None:
    net = fnn.shard(serial(fnn.flatten, around(broken(forward)), dense(10)), 1, 4)
    if path.startswith("repeat") and not forward:
        path = "repeat1/broken2"  # the gradients come from the end
    task = task_of(net=net)
    what = "the output has 0 nan and" if forward else "the gradient of w has 0 nan and 1 infinite of 1 numbers"
    with pytest.raises(run.NotFiniteError, match=rf"^step 1 \(epoch 1, batch 1\): {path}: {what}"):
        run.train(task, run.start(task), tell=silent)


def test_an_operator_watched_does_the_same() -> None:
    net = fnn.shard(
        serial(fnn.remat(dense(9)), fnn.dropout(0.5), residual(repeat(tanh, 2)), fnn.freeze(dense(3))), 2, 4
    )
    params, x = net.init(0, (5,)), np.ones((10, 5), np.float32)
    (y, vjp), (z, watched_vjp) = net.apply(params, x, 1), watched(net).apply(params, x, 1)
    assert y.tobytes() == z.tobytes()
    for ours, theirs in zip(*(fnn.tree_leaves(pull(y)[0]) for pull in (vjp, watched_vjp)), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_a_loss_and_params_at_fault_are_told() -> None:
    net, x, y = dense(2), np.ones((3, 4), np.float32), np.zeros(3, np.int64)
    params = net.init(0, (4,))

    def infinite(out: fnn.Array, labels: fnn.Array) -> tuple[Any, Any]:
        return np.float32(np.inf), lambda: out

    told = str(fault(net, infinite, params, x, y, fnn.Key(0)))
    assert re.fullmatch(r"the loss is inf, of outputs from -?[\d.]+ to -?[\d.]+", told)
    bad = {**params, "b": np.array([1, np.nan], np.float32)}
    told = "the parameter b has 1 nan and 0 infinite of 2 numbers"
    assert fault(net, fnn.cross_entropy, bad, x, y, fnn.Key(0)) == told
    assert fault(net, fnn.cross_entropy, params, x, y, fnn.Key(0)) is None


def test_an_update_at_fault_is_told() -> None:
    def update(params: fnn.Params, grads: fnn.Params, state: fnn.Params) -> tuple[fnn.Params, fnn.Params]:
        return params | {"dense2": {"w": params["dense2"]["w"], "b": np.full(10, np.inf, np.float32)}}, state

    task = task_of(optimizer=fnn.Optimizer(lambda params: {}, update))
    told = r"^step 1 \(epoch 1, batch 1\): the updated dense2/b has 0 nan and 10 infinite of 10 numbers"
    with pytest.raises(run.NotFiniteError, match=told):
        run.train(task, run.start(task), tell=silent)


def test_sound_is_what_is_finite_however_large() -> None:
    large = np.full((3, 4), 1e30, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        assert sound(np.float32(1), {"a": {"w": large.T}, "b": np.ones(0, np.float32)})
        for wrong in (np.nan, np.inf, -np.inf):
            assert not sound(np.float32(wrong), {"w": large})
            spoilt = large.copy()
            spoilt[1, 2] = wrong
            assert not sound(1.0, {"v": large, "w": spoilt.T})
            assert not sound(1.0, {"w": np.array(wrong)})


def test_a_test_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    def loss(out: fnn.Array, labels: fnn.Array) -> tuple[Any, Any]:
        value, vjp = fnn.cross_entropy(out, labels)
        return (np.float32(np.nan) if len(out) == 30 else value), vjp

    task = task_of(loss=loss)
    with pytest.raises(run.NotFiniteError, match=r"(?m)^step 7 \(the end of epoch 1\): the test's loss is nan$"):
        run.train(task, run.start(task), tmp_path, tell=silent)
    assert run.read_state(tmp_path, task)["step"] == 7
    assert run.read_metrics(tmp_path) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EFBIG])
@pytest.mark.parametrize("file", ["state.pkl", "metrics.jsonl"])
def test_a_folder_that_can_no_longer_be_written_to_keeps_what_was_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, file: str
) -> None:
    task = task_of()
    stopped = run.train(task, run.start(task), tmp_path, 1e9, after(10), silent)
    files = {name: (tmp_path / name).read_bytes() for name in ("state.pkl", "best.pkl")}

    def refuse(path: Path, tree: Any) -> None:
        raise OSError(error, "refused", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save", refuse)
        if file == "metrics.jsonl":
            patched.setattr(loop, "write_metrics", refuse)
        with pytest.raises(OSError, match=rf"(?m)^\[Errno {error}\] refused: '.*\.pkl'$"):
            run.train(task, run.read_state(tmp_path, task), tmp_path, 1e9, tell=silent)
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    assert bits(run.read_state(tmp_path, task)) == bits(stopped)
    run.train(task, run.read_state(tmp_path, task), tmp_path, 1e9, lambda: True, silent)
    assert [line["epoch"] for line in run.read_metrics(tmp_path)] == [1]
