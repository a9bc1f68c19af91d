import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import fnn
from fnn import OpError, dense, named, parallel, repeat, residual, run, serial, tanh
from fnn.mpi import spread
from fnn.op import Shape
from fnn.run import loop
from fnn.run.faults import all_finite, find_fault, watch
from fnn.testing.table import TABLE
from tests.support.runs import bits, make_task, no_log, stop_after


def broken(forward: bool) -> fnn.Op:
    """Returns an operator with an infinite output, or an infinite gradient of its parameter."""

    def apply(params: fnn.Params, x: fnn.Array) -> tuple[fnn.Array, Any]:
        def vjp(dy: fnn.Array, need_dx: bool = True) -> tuple[fnn.Params, fnn.Array]:
            return {"v": np.full(1, np.float32(1 if forward else np.inf))}, dy

        return (x + np.float32(np.inf) if forward else x), vjp

    return fnn.Op(lambda key, shape: {"v": np.zeros(1, np.float32)}, apply, kind="broken")


def put_nan_in_batch(number: int) -> Callable[[fnn.Array, fnn.Key], fnn.Array]:
    """Returns an augmentation that puts a nan into each shard of the batch with this number."""

    def spoil(images: fnn.Array, key: fnn.Key) -> fnn.Array:
        images[0, 0, 3, 3] = np.nan if key.path[2] == number else 0
        return images

    return spoil


def test_train_stops_at_a_nan_and_keeps_the_state_before_it(tmp_path: Path) -> None:
    task = make_task(augment=put_nan_in_batch(4), epochs=1)
    message = r"(?m)^step 5 \(epoch 1, batch 5\): the input has 4 nan and 0 infinite of 7840 numbers$"
    with pytest.raises(run.NotFiniteError, match=message):
        run.train(task, run.start(task), tmp_path, 1e9, log=no_log)
    state = run.read_state(tmp_path, task)
    assert (state["step"], state["batch"]) == (4, 4)
    assert bits(state) == bits(run.train(task, run.start(task), None, 1e9, stop_after(4), no_log))


def elementwise(f: Callable[[fnn.Array], fnn.Array]) -> fnn.Op:
    """Returns an operator without parameters; its vjp is wrong and never called."""
    return fnn.Op(
        lambda key, shape: {}, lambda params, x: (f(x), lambda dy, need_dx=True: ({}, dy)), kind="elementwise"
    )


class Pair(NamedTuple):
    """A user-defined tuple of operators."""

    first: fnn.Op
    second: fnn.Op


@fnn.operator
def twice(pair: Pair, more: dict[str, list[fnn.Op]]) -> fnn.Op:
    """A user-defined combinator with its own names for parts; it does not add these names to errors."""
    ops = [*pair, *more["more"]]
    parts = {f"{op.kind}-{i}": op for i, op in enumerate(ops)}

    def init(key: fnn.Key, shape: Shape) -> fnn.Params:
        return {name: op.init(key.fold(name), shape) for name, op in parts.items()}

    def apply(params: fnn.Params, x: fnn.Array, key: fnn.Key | None) -> tuple[fnn.Array, Any]:
        vjps = {}
        for name, op in parts.items():
            x, vjps[name] = op.apply(params[name], x, key)

        def vjp(dy: fnn.Array, need_dx: bool = True) -> tuple[fnn.Params, fnn.Array]:
            dparams = {}
            for name in reversed(parts):
                dparams[name], dy = vjps[name](dy)
            return dparams, dy

        return x, vjp

    return fnn.Op(init, apply, parts=parts, takes_key=True)


@fnn.operator
def pass_through(op: fnn.Op) -> fnn.Op:
    """A user-defined combinator with the params of its part; it does not declare its parts."""
    return fnn.Op(op.init, op.apply, takes_key=True)


@fnn.operator
def block(width: int, *, last: fnn.Op) -> fnn.Op:
    """A user-defined block of the library's combinators."""
    return residual(serial(dense(width), last))


@fnn.operator
def broken_block(forward: bool) -> fnn.Op:
    """A user-defined block without operators in its arguments."""
    return serial(tanh, broken(forward))


COMBINATORS: dict[str, Callable[[fnn.Op], fnn.Op]] = {
    "check_finite": fnn.check_finite,
    "freeze": fnn.freeze,
    "microbatch": lambda op: fnn.microbatch(op, 2),
    "named": lambda op: named("mine", op),
    "parallel": lambda op: parallel(tanh, op),
    "positionwise": lambda op: serial(fnn.reshape(1, 12), fnn.positionwise(op), fnn.flatten),
    "remat": fnn.remat,
    "repeat": lambda op: repeat(op, 2),
    "residual": residual,
    "serial": lambda op: serial(tanh, op, tanh),
    "shard": lambda op: fnn.shard(op, 2, 2),
    "shared": lambda op: fnn.shared(op, 2),
    "spread": lambda op: spread(op, workers=1, size=2),
    "twice": lambda op: twice(Pair(tanh, op), more={"more": [dense(12)]}),
    "pass_through": pass_through,
    "block": lambda op: block(12, last=op),
}
"""Functions that put a combinator around an operator with inputs and outputs of shape (12,)."""


def error_of(net: fnn.Op, forward: bool) -> str:
    """Returns the error of the watched net about its broken operator, in the forward pass or in the vjp."""
    params, x = net.init(0, (12,)), np.ones((4, 12), np.float32)

    def step() -> None:
        y, vjp = watch(net).apply(params, x)
        assert not forward
        vjp(np.ones_like(y))

    with pytest.raises(OpError) as raised:
        step()
    return str(raised.value)


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize(
    "inner", ["serial", *(pytest.param(name, marks=pytest.mark.slow) for name in COMBINATORS if name != "serial")]
)
@pytest.mark.parametrize("outer", COMBINATORS)
def test_watch_names_the_full_path_inside_two_combinators(outer: str, inner: str, forward: bool) -> None:
    net = serial(dense(12), COMBINATORS[outer](COMBINATORS[inner](broken(forward))), tanh)
    paths = [path.removesuffix("/v") for path, _ in fnn.tree_items(net.init(0, (12,))) if path.endswith("/v")]
    path, expected = (
        (paths[0], "output: expected finite numbers") if forward else (paths[-1], "gradient v: expected finite numbers")
    )
    assert error_of(net, forward).startswith(f"{path}: {expected}, got 0 nan and ")


def test_watch_is_tested_inside_every_combinator_of_the_table() -> None:
    combinators = {
        name for name, rows in TABLE.items() if any(row.op.kind == name and row.op.is_composite for row in rows)
    }
    assert len(combinators) > 9
    assert combinators <= COMBINATORS.keys()


@pytest.mark.parametrize("forward", [True, False])
def test_watch_names_the_path_inside_a_block_without_operator_arguments(forward: bool) -> None:
    assert error_of(serial(dense(12), broken_block(forward)), forward).startswith("broken_block1/broken1: ")


def test_watch_names_an_operator_without_a_maker_without_its_parts() -> None:
    inner = serial(tanh, broken(True))
    net = serial(dense(12), fnn.Op(inner.init, inner.apply, kind="mine", parts={"inner": inner}))
    assert error_of(net, True).startswith("mine1: output: expected finite numbers, got 0 nan and 48 ")


def test_watch_names_a_single_operator_by_its_kind() -> None:
    assert error_of(broken(True), True).startswith("broken: output: expected finite numbers, got 0 nan and 48 ")


def test_watch_names_a_combinator_if_its_own_sum_overflows() -> None:
    huge = elementwise(lambda x: np.full_like(x, 3e38))
    with np.errstate(over="ignore"):
        assert error_of(serial(parallel(huge, huge), tanh), True).startswith(
            "parallel1: output: expected finite numbers, got 0 nan and 48 "
        )


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
def test_train_error_names_the_path_of_the_operator(
    path: str, around: Callable[[fnn.Op], fnn.Op], forward: bool
) -> None:
    net = fnn.shard(serial(fnn.flatten, around(broken(forward)), dense(10)), 1, 4)
    if path.startswith("repeat") and not forward:
        path = "repeat1/broken2"  # gradients are computed from the end
    task = make_task(net=net)
    what = (
        "output: expected finite numbers, got 0 nan and"
        if forward
        else "gradient v: expected finite numbers, got 0 nan and 1 infinite of 1"
    )
    with pytest.raises(run.NotFiniteError, match=rf"^step 1 \(epoch 1, batch 1\): {path}: {what}"):
        run.train(task, run.start(task), log=no_log)


def test_watch_does_not_change_results() -> None:
    net = fnn.shard(
        serial(fnn.remat(dense(9)), fnn.dropout(0.5), residual(repeat(tanh, 2)), fnn.freeze(dense(3))), 2, 4
    )
    params, x = net.init(0, (5,)), np.ones((10, 5), np.float32)
    (y, vjp), (z, watched_vjp) = net.apply(params, x, 1), watch(net).apply(params, x, 1)
    assert y.tobytes() == z.tobytes()
    for ours, theirs in zip(*(fnn.tree_leaves(pull(y)[0]) for pull in (vjp, watched_vjp)), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_find_fault_describes_the_loss_or_the_params() -> None:
    net, x, y = dense(2), np.ones((3, 4), np.float32), np.zeros(3, np.int64)
    params = net.init(0, (4,))

    def infinite(out: fnn.Array, labels: fnn.Array) -> tuple[Any, Any]:
        return np.float32(np.inf), lambda: out

    message = str(find_fault(net, infinite, params, x, y, fnn.Key(0)))
    assert re.fullmatch(r"the loss is inf for outputs from -?[\d.]+ to -?[\d.]+", message)
    bad = {**params, "b": np.array([1, np.nan], np.float32)}
    message = "the parameter b has 1 nan and 0 infinite of 2 numbers"
    assert find_fault(net, fnn.cross_entropy, bad, x, y, fnn.Key(0)) == message
    assert find_fault(net, fnn.cross_entropy, params, x, y, fnn.Key(0)) is None


def test_train_error_names_the_updated_param() -> None:
    def update(params: fnn.Params, grads: fnn.Params, state: fnn.Params) -> tuple[fnn.Params, fnn.Params]:
        return params | {"dense2": {"w": params["dense2"]["w"], "b": np.full(10, np.inf, np.float32)}}, state

    task = make_task(optimizer=fnn.Optimizer(lambda params: {}, update))
    message = r"^step 1 \(epoch 1, batch 1\): the updated dense2/b has 0 nan and 10 infinite of 10 numbers"
    with pytest.raises(run.NotFiniteError, match=message):
        run.train(task, run.start(task), log=no_log)


def test_all_finite_accepts_large_numbers_and_rejects_nan_and_infinity() -> None:
    large = np.full((3, 4), 1e30, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        assert all_finite(np.float32(1), {"a": {"w": large.T}, "b": np.ones(0, np.float32)})
        for wrong in (np.nan, np.inf, -np.inf):
            assert not all_finite(np.float32(wrong), {"w": large})
            changed = large.copy()
            changed[1, 2] = wrong
            assert not all_finite(1.0, {"v": large, "w": changed.T})
            assert not all_finite(1.0, {"w": np.array(wrong)})


def test_train_stops_at_a_test_loss_that_is_not_finite(tmp_path: Path) -> None:
    def loss(out: fnn.Array, labels: fnn.Array) -> tuple[Any, Any]:
        value, vjp = fnn.cross_entropy(out, labels)
        return (np.float32(np.nan) if len(out) == 30 else value), vjp

    task = make_task(loss=loss)
    with pytest.raises(run.NotFiniteError, match=r"(?m)^step 7 \(end of epoch 1\): the test loss is nan$"):
        run.train(task, run.start(task), tmp_path, log=no_log)
    assert run.read_state(tmp_path, task)["step"] == 7
    assert run.read_metrics(tmp_path) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EFBIG])
@pytest.mark.parametrize("file", ["state.pkl", "metrics.jsonl"])
def test_train_keeps_the_last_good_state_if_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, file: str
) -> None:
    task = make_task()
    stopped = run.train(task, run.start(task), tmp_path, 1e9, stop_after(10), no_log)
    files = {name: (tmp_path / name).read_bytes() for name in ("state.pkl", "params.pkl")}

    def refuse(path: Path, tree: Any) -> None:
        raise OSError(error, "refused", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save", refuse)
        if file == "metrics.jsonl":
            patched.setattr(loop, "write_metrics", refuse)
        with pytest.raises(OSError, match=rf"(?m)^\[Errno {error}\] refused: '.*\.pkl'$"):
            run.train(task, run.read_state(tmp_path, task), tmp_path, 1e9, log=no_log)
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    assert bits(run.read_state(tmp_path, task)) == bits(stopped)
    run.train(task, run.read_state(tmp_path, task), tmp_path, 1e9, lambda: True, no_log)
    assert [line["epoch"] for line in run.read_metrics(tmp_path)] == [1]
