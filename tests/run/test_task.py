import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fnn
from fnn import (
    adamw,
    averaged,
    batch_norm,
    clip_by_global_norm,
    conv,
    dense,
    dropout,
    maxpool,
    relu,
    run,
    serial,
    sgd,
    tanh,
    tree_items,
)
from fnn.data import Dataset, as_float, batches, compose, shift
from fnn.run import folder, loop, training
from fnn.run.task import calibrate_state, inputs
from fnn.transforms import shard_slices
from tests.support.runs import DATA, RATE, bits, make_task, metrics_without_times, no_log, stop_after


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("full_run")
    run.train(make_task(), run.start(make_task()), folder, log=no_log)
    return folder


def test_train_writes_state_metrics_and_params(full_run: Path) -> None:
    assert sorted(os.listdir(full_run)) == ["metrics.jsonl", "params.pkl", "state.pkl"]
    task, state, lines = make_task(), fnn.load(full_run / "state.pkl"), run.read_metrics(full_run)
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 7), (2, 14), (3, 21)]
    assert (state["step"], state["epoch"], state["batch"], state["optimizer"]["step"]) == (21, 4, 0, 21)
    last = lines[-1]
    assert list(last) == [
        *("epoch", "step", "train_loss", "train_accuracy", "test_loss", "test_accuracy"),
        *("rate", "images_per_second", "seconds"),
    ]
    assert last["rate"] == RATE(20)
    assert state["seconds"] == last["seconds"] > lines[0]["seconds"] > 0
    averaged = fnn.average(state["optimizer"])
    loss, right = run.evaluate(task, averaged)
    assert (last["test_loss"], last["test_accuracy"]) == (loss, right / 30)
    assert state["best"] == max(line["test_accuracy"] for line in lines)
    assert bits(fnn.load(full_run / "params.pkl")) == bits(averaged)


def test_train_metrics_are_means_over_the_epoch(tmp_path: Path) -> None:
    task = make_task(net=fnn.shard(serial(dense(10)), 1, 4), optimizer=sgd(0.0), rate=fnn.constant(0.0), epochs=1)
    task = task._replace(augment=compose())
    first = run.start(task)
    run.train(task, first, tmp_path, log=no_log)
    [line] = run.read_metrics(tmp_path)
    loss, right = run.evaluate(task._replace(data=Dataset(DATA.train, DATA.train, "")), first["params"])
    assert line["train_loss"] == pytest.approx(loss, rel=1e-6)
    assert line["train_accuracy"] == right / 70


def test_train_resume_after_any_step_gives_the_same_bits(full_run: Path, tmp_path: Path) -> None:
    task = make_task()
    for n in (1, 5, 7, 8, 9, 14, 16, 20, 23):  # of 21 steps and 3 ends of epochs
        stopped_run = tmp_path / str(n)
        stopped_run.mkdir()
        stopped = run.train(task, run.start(task), stopped_run, 1e9, stop_after(n), no_log)
        assert bits(run.read_state(stopped_run, task)) == bits(stopped)
        run.train(task, run.read_state(stopped_run, task), stopped_run, 1e9, log=no_log)
        assert bits(fnn.load(stopped_run / "state.pkl")) == bits(fnn.load(full_run / "state.pkl"))
        assert bits(fnn.load(stopped_run / "params.pkl")) == bits(fnn.load(full_run / "params.pkl"))
        assert metrics_without_times(stopped_run) == metrics_without_times(full_run)


def test_train_resume_after_every_step_gives_the_same_bits(full_run: Path, tmp_path: Path) -> None:
    task = make_task()
    state = run.read_state(tmp_path, task)
    for _ in range(24):
        assert state["epoch"] <= 3
        run.train(task, state, tmp_path, 1e9, lambda: True, no_log)
        state = run.read_state(tmp_path, task)
    assert bits(state) == bits(fnn.load(full_run / "state.pkl"))
    assert metrics_without_times(tmp_path) == metrics_without_times(full_run)


@pytest.mark.parametrize("crash", ["state.pkl", "params.pkl", "metrics.jsonl"])
def test_train_resume_after_a_kill_before_each_file_gives_the_same_bits(
    full_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    class Killed(BaseException):
        pass

    def save(path: Path, tree: fnn.Params) -> None:
        if path.name == crash and (crash == "params.pkl" or tree["epoch"] == 3):
            raise Killed
        fnn.save(path, tree)

    def write(there: Path, lines: list[run.Metrics]) -> None:
        if crash == "metrics.jsonl" and len(lines) == 2:
            raise Killed
        write_metrics(there, lines)

    task, write_metrics = make_task(), folder.write_metrics
    with monkeypatch.context() as patched:
        patched.setattr(loop, "save", save)
        patched.setattr(loop, "write_metrics", write)
        with pytest.raises(Killed):
            run.train(task, run.start(task), tmp_path, 0, log=no_log)
    (tmp_path / ".fnn-0123456789abcdef").write_bytes(b"part of a state")
    state = run.read_state(tmp_path, task)
    run.train(task, state, tmp_path, 1e9, lambda: True, no_log)
    assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(full_run))
    assert [line["epoch"] for line in run.read_metrics(tmp_path)] == list(
        range(1, fnn.load(tmp_path / "state.pkl")["epoch"])
    )
    run.train(task, run.read_state(tmp_path, task), tmp_path, log=no_log)
    assert bits(fnn.load(tmp_path / "state.pkl")) == bits(fnn.load(full_run / "state.pkl"))
    assert metrics_without_times(tmp_path) == metrics_without_times(full_run)


def test_inputs_of_a_shard_depend_only_on_its_images_and_key() -> None:
    task = make_task()
    batch = np.arange(10)
    x = inputs(task, 2, 5, batch)
    key = fnn.Key(0).fold("augment", 2, 5)
    for i, shard in enumerate(shard_slices(10, 4)):
        expected = shift(2)(as_float(DATA.train.images[shard]), key.fold(i).fold(0))
        assert expected.tobytes() == x[shard].tobytes()
    assert x.strides[0] == x.itemsize, "the batch is innermost in memory"
    assert not np.array_equal(x, inputs(task, 2, 6, batch))
    assert not np.array_equal(x, inputs(task, 3, 5, batch))


@pytest.mark.parametrize("has_validation", [True, False])
def test_train_saves_the_averaged_params_of_the_epoch_with_the_best_validation_accuracy_or_of_the_last(
    tmp_path: Path, has_validation: bool
) -> None:
    """The optimizer sets averaged params that predict one digit for all images, another digit in each epoch."""

    def predicting(digit: int) -> fnn.Params:
        return {"w": np.zeros((784, 10), np.float32), "b": np.eye(10, dtype=np.float32)[digit]}

    def update(params: fnn.Params, grads: fnn.Params, state: run.State) -> tuple[fnn.Params, run.State]:
        return predicting(9), {"step": state["step"] + 1, "average": predicting([2, 1, 0][state["step"] // 7])}

    labels = np.repeat([0, 1, 2, 3], [5, 15, 9, 1])
    test = DATA.test._replace(labels=np.repeat([0, 2], [10, 20]))
    data = Dataset(DATA.train, test, "", DATA.test._replace(labels=labels) if has_validation else None)
    optimizer = fnn.Optimizer(lambda params: {"step": 0, "average": params}, update)
    task = make_task(net=dense(10), optimizer=optimizer, data=data)
    state = run.train(task, run.start(task), tmp_path, log=no_log)
    lines = run.read_metrics(tmp_path)
    assert [line["test_accuracy"] for line in lines] == [20 / 30, 0, 10 / 30]
    assert run.final(state)["b"].argmax() == 0
    if has_validation:
        assert [line["validation_accuracy"] for line in lines] == [9 / 30, 15 / 30, 5 / 30]
        assert state["best"] == 15 / 30
    assert fnn.load(tmp_path / "params.pkl")["b"].argmax() == (1 if has_validation else 0)


def test_train_with_validation_examples_resumes_with_the_same_bits(tmp_path: Path) -> None:
    task = make_task(data=DATA._replace(validation=DATA.test))
    for name in "a", "b":
        (tmp_path / name).mkdir()
    whole = run.train(task, run.start(task), tmp_path / "a", log=no_log)
    run.train(task, run.start(task), tmp_path / "b", should_stop=stop_after(10), log=no_log)
    resumed = run.train(task, run.read_state(tmp_path / "b", task), tmp_path / "b", log=no_log)
    assert bits(resumed) == bits(whole)
    assert bits(fnn.load(tmp_path / "b" / "params.pkl")) == bits(fnn.load(tmp_path / "a" / "params.pkl"))


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 24), (2.0, 12), (100.0, 3)])
def test_train_saves_the_state_every_few_seconds_and_at_each_epoch_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, count: int
) -> None:
    saved = []

    def save(path: Path, tree: run.State) -> None:
        if path.name == "state.pkl":
            saved.append((tree["epoch"], tree["batch"]))

    clock = iter(range(1000))
    monkeypatch.setattr(loop, "save", save)
    monkeypatch.setattr(loop, "monotonic", lambda: next(clock))  # each call adds a second
    task = make_task()
    run.train(task, run.start(task), tmp_path, seconds, log=no_log)
    assert len(saved) == count
    assert {(2, 0), (3, 0), (4, 0)} <= set(saved)


def test_train_uses_a_new_key_for_each_step_and_shard() -> None:
    used = []

    def apply(params: fnn.Params, x: fnn.Array, key: fnn.Key | None) -> tuple[fnn.Array, Callable[..., Any]]:
        used.append(key)
        return x, lambda dy, need_dx=True: ({}, dy)

    record_key = fnn.Op(lambda key, shape: {}, apply, takes_key=True)
    task = make_task(net=fnn.shard(serial(record_key, dense(10)), 1, 4), epochs=2)
    run.train(task, run.start(task), log=no_log)
    keys = [key for key in used if key is not None]
    assert len(set(keys)) == len(keys) == 2 * 7 * 4  # epochs, batches and shards; tests use no key


NORMED = serial(conv(4, 3), batch_norm(), relu, maxpool(4), dense(8), batch_norm(), dropout(0.2), tanh, dense(10))
OPTIMIZERS = {
    "sgd": sgd(RATE, 0.9),
    "decayed": sgd(RATE, 0.9, weight_decay=0.1),
    "adamw": adamw(RATE),
    "averaged": averaged(sgd(RATE, 0.9), 0.9),
    "averaged and decayed": averaged(clip_by_global_norm(adamw(RATE), 1.0), 0.5),
}


def normed_task(**changes: object) -> run.Task:
    """Returns a task of a net with batch_norm; its shards have at least 2 examples."""
    return make_task(**{"net": fnn.shard(NORMED, 1, 5), "shard_size": 5, "epochs": 2} | changes)


def statistics(params: fnn.Params) -> fnn.Params:
    return {name: {leaf: params[name][leaf] for leaf in ("mean", "var")} for name in ("batch_norm1", "batch_norm2")}


def calibrated_by_hand(task: run.Task, params: fnn.Params, epoch: int, count: int) -> fnn.Params:
    """Returns the params, calibrated with the first batches of that epoch, augmented as in training."""
    order = list(batches(70, task.batch_size, task.key.fold("epoch", epoch)))[:count]
    some = [inputs(task, epoch, number, batch) for number, batch in enumerate(order)]
    return fnn.calibrate(task.net, params, some, task.key.fold("calibrate", epoch))


def have_same_bits(one: fnn.Params, other: fnn.Params) -> bool:
    return bits(one) == bits(other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_train_calibrates_before_each_test(tmp_path: Path, name: str) -> None:
    task = normed_task(optimizer=OPTIMIZERS[name])
    ends = [new for new, metrics in run.steps(task, run.start(task)) if metrics]
    state = run.train(task, run.start(task), tmp_path, log=no_log)
    assert have_same_bits(state, ends[-1])
    for epoch, (end, line) in enumerate(zip(ends, run.read_metrics(tmp_path), strict=True), 1):
        params = run.final(end)
        assert have_same_bits(params, calibrated_by_hand(task, params, epoch, 7))
        assert all(np.ptp(leaf) > 0 and leaf.dtype == np.float32 for _, leaf in tree_items(statistics(params)))
        loss, right = run.evaluate(task, params)
        assert (line["test_loss"], line["test_accuracy"]) == (loss, right / 30)
    assert have_same_bits(fnn.load(tmp_path / "params.pkl"), run.final(ends[-1]))


def test_train_calibration_does_not_change_the_steps(tmp_path: Path) -> None:
    task = normed_task(optimizer=OPTIMIZERS["averaged and decayed"])
    trained = [new for new, _ in run.steps(task, run.start(task))][-1]
    step, state = fnn.value_and_grad(task.net, task.loss), run.start(task)
    params, memory = state["params"], state["optimizer"]
    for epoch in 1, 2:
        for number, batch in enumerate(batches(70, 10, task.key.fold("epoch", epoch))):
            x, y = inputs(task, epoch, number, batch), DATA.train.labels[batch]
            _, grads = step(params, x, y, task.key.fold("draw", epoch, number))
            params, memory = task.optimizer.update(params, grads, memory)
    expected = {name: {k: v for k, v in layer.items() if k in ("w", "b")} for name, layer in params.items()}
    actual = {name: {k: v for k, v in layer.items() if k in ("w", "b")} for name, layer in trained["params"].items()}
    assert have_same_bits(expected, actual)


@pytest.mark.parametrize(
    ("examples", "batch_size", "count"), [(1, 10, 1), (25, 10, 3), (30, 10, 3), (9999, 30, 2), (9999, 99, 1)]
)
def test_train_calibrates_with_a_bounded_number_of_batches(
    monkeypatch: pytest.MonkeyPatch, examples: int, batch_size: int, count: int
) -> None:
    monkeypatch.setattr("fnn.run.task.CALIBRATION", examples)
    task = normed_task(net=NORMED, batch_size=batch_size, epochs=1)  # 70 images: two batches of 30 and one of 10
    *_, (state, metrics) = run.steps(task, run.start(task))
    assert metrics
    params = run.final(state)
    assert have_same_bits(params, calibrated_by_hand(task, params, 1, count))


@pytest.mark.slow
def test_train_resume_with_batch_norm_gives_the_same_bits_for_any_workers(tmp_path: Path) -> None:
    task = normed_task()
    expected = run.train(task, run.start(task), log=no_log)
    for workers, n in ((1, 3), (2, 7), (2, 8), (1, 9), (2, 15)):  # of 14 steps and 2 ends of epochs
        folder = tmp_path / str(n)
        folder.mkdir()
        other = normed_task(net=fnn.shard(NORMED, workers, 5))
        run.train(other, run.start(other), folder, 1e9, stop_after(n), no_log)
        assert bits(run.train(task, run.read_state(folder, task), folder, log=no_log)) == bits(expected)


def test_calibrate_state_skips_a_net_without_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*args: object) -> None:
        raise AssertionError("called")

    monkeypatch.setattr("fnn.run.task.calibrate", called)
    task = make_task(epochs=1)
    *_, (state, metrics) = run.steps(task, run.start(task))
    assert metrics
    assert calibrate_state(task, state) is state


def test_train_refuses_batch_norm_of_one_example() -> None:
    task = normed_task(net=NORMED, batch_size=23)  # 70 images: three batches of 23 and one of 1
    with pytest.raises(fnn.OpError, match=r"^batch_norm1: expected at least 2 examples in training, got 1, "):
        run.train(task, run.start(task), log=no_log)


@pytest.mark.parametrize("validation", [None, DATA.test])
def test_train_writes_lost_params_again_and_continues_without_lost_metrics(
    tmp_path: Path, validation: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(data=DATA._replace(validation=validation))
    settings = {"data": "digits", "data_sha256": None, "limit": None, "validation": 0, "batch_size": 10**12}
    config = run.IMAGES | settings | {"epochs": 3, "shard_size": 4, "schedule": "steps"}
    run.write_config(tmp_path, config)
    run.train(task, run.start(task), tmp_path, 1e9, stop_after(17), no_log)
    for name in ("metrics.jsonl", "params.pkl"):
        (tmp_path / name).unlink()
    monkeypatch.setattr(training, "read_data", lambda *_: task.data)
    monkeypatch.setattr(training, "add_data", lambda config, *_: config)
    args = Namespace(out=None, resume=tmp_path, data=None, workers=1, keep_every=None)
    assert training.run_task(lambda *_: task, config, args) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'params.pkl'}: lost; the end of the next epoch writes it again\n" in out
    assert f"{tmp_path / 'metrics.jsonl'}: the metrics of these epochs are missing: 1, 2\n" in out
    (line,) = run.read_metrics(tmp_path)
    assert f"; test acc: {line['test_accuracy']:.4f}; params: {tmp_path / 'params.pkl'}" in out.splitlines()[-1]
    assert fnn.load(tmp_path / "params.pkl", run.final(fnn.load(tmp_path / "state.pkl")))
