"""Training as a pure function from state to state, with metrics at the end of each epoch.

Every random number depends only on the task's key, the epoch, the batch's number and, for images, the shard's number.
A saved state is therefore enough to continue with identical results.
"""

from collections.abc import Callable, Iterator
from math import isfinite
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fnn.data import Dataset, Examples, as_float, batches
from fnn.data.augment import Augmentation
from fnn.losses import Loss
from fnn.mpi import Comm, part, spread_loss
from fnn.mpi.ranks import ALONE
from fnn.op import Array, Op, Params
from fnn.ops.normalisation import calibrate
from fnn.optim import Optimizer, average
from fnn.optim.schedules import Schedule as Schedule
from fnn.random import Key
from fnn.run.faults import NotFiniteError, all_finite, describe_non_finite, find_fault, on_this_rank
from fnn.transforms import shard_slices

CALIBRATION = 2000  # the minimum number of training examples that calibrate batch_norm; all if there are fewer

State: TypeAlias = dict[str, Any]
"""A tree with `params`, the state of the `optimizer`, the `best` accuracy of all epochs (-1 before the first) on the
validation examples, or on the test examples if there are none, the `seconds` of all steps and tests, the number of
updates (`step`) and the `epoch`, from 1. Of this epoch: the number of the next `batch`, the images `seen`, their
`loss_sum`, how many are correct (`hits`) and the `epoch_seconds` of steps.
"""

Metrics: TypeAlias = dict[str, float]
"""Of one epoch: epoch, step, train_loss, train_accuracy, test_loss, test_accuracy (accuracies are fractions), rate of
the last step, images_per_second in training, and seconds since the run began, without pauses and repeated steps. With
validation examples also validation_loss and validation_accuracy."""


Step: TypeAlias = Callable[[Params, dict[str, Any], Array, Array, Key], tuple[Params, dict[str, Any], Any, Array]]
"""A training step: (params, optimizer's state, x, y, key) to (params, optimizer's state, loss, outputs)."""


class Task(NamedTuple):
    """Everything that determines the result, plus the ranks (`comm`), which do not. `rate` is used for metrics only.

    `make_step` gets the net, loss and optimizer, and returns the training step.
    """

    net: Op
    loss: Loss
    optimizer: Optimizer
    make_step: Callable[[Op, Loss, Optimizer], Step]
    rate: Schedule
    data: Dataset
    augment: Augmentation
    epochs: int
    batch_size: int
    shard_size: int
    key: Key
    comm: Comm = ALONE


def start(task: Task) -> State:
    """Returns the state before the first step."""
    params = task.net.init(task.key.fold("init"), (1, *task.data.train.images.shape[1:]))
    state = {"params": params, "optimizer": task.optimizer.init(params), "best": -1.0, "seconds": 0.0, "step": 0}
    return state | _start_epoch(1)


def steps(task: Task, state: State) -> Iterator[tuple[State, Metrics | None]]:
    """Yields the state after every update, and after the test at the end of every epoch, then with metrics.

    Raises NotFiniteError on nan or infinity.
    """
    step = task.make_step(task.net, spread_loss(task.loss, task.comm), task.optimizer)
    for epoch in range(state["epoch"], task.epochs + 1):
        for batch in _order(task, epoch)[state["batch"] :]:
            state = _take_step(task, step, state, batch)
            yield state, None
        state, metrics = _end_epoch(task, state)
        yield state, metrics


def inputs(task: Task, epoch: int, number: int, batch: Array) -> Array:
    """Returns this rank's part of the batch's images, augmented; each shard has its own key, on any rank."""
    key, images = task.key.fold("augment", epoch, number), task.data.train.images
    own, parts = part(len(batch), task.shard_size, task.comm), []
    for i, shard in enumerate(shard_slices(len(batch), task.shard_size)):
        begin, end = max(own.start, shard.start), min(own.stop, shard.stop)
        if begin < end:
            changed = task.augment(as_float(images[batch[shard]]), key.fold(i))
            parts.append(changed[begin - shard.start : end - shard.start])
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else as_float(images[:0])


def evaluate(task: Task, params: Params, examples: Examples | None = None) -> tuple[float, int]:
    """Returns the mean loss over the examples (default: for testing), and how many are predicted correctly."""
    (images, labels), loss, loss_sum, correct = examples or task.data.test, spread_loss(task.loss, task.comm), 0.0, 0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(labels), 500):
            rows = np.arange(start, min(start + 500, len(labels)))
            own = rows[part(len(rows), task.shard_size, task.comm)]
            out, _ = task.net.apply(params, as_float(images[own]))
            loss_sum += float(loss(out, labels[own])[0]) * len(rows)
            correct += _count_correct(out, labels[own])
    return loss_sum / len(labels), sum(task.comm.allgather(correct))


def calibrate_state(task: Task, state: State) -> State:
    """Returns the state at an epoch's end with calibrated `final` params, for nets with batch_norm.

    Statistics come from that epoch's first batches of full size, augmented, with at least CALIBRATION examples if there
    are that many. Training does not use them.
    """
    if not task.net.statistics:
        return state
    task = task._replace(net=on_this_rank(task.net), comm=ALONE)  # all ranks do the same instead of communicating
    epoch, batch_size = state["epoch"], min(task.batch_size, len(task.data.train.labels))
    order = [batch for batch in _order(task, epoch) if len(batch) == batch_size][: -(-CALIBRATION // batch_size)]
    some = (inputs(task, epoch, number, batch) for number, batch in enumerate(order))
    with np.errstate(over="ignore", invalid="ignore"):  # the test's loss shows what they lead to
        params = calibrate(task.net, final(state), some, task.key.fold("calibrate", epoch))
    if "average" in state["optimizer"]:
        return state | {"optimizer": state["optimizer"] | {"average": params}}
    return state | {"params": params}


def final(state: State) -> Params:
    """Returns the params to predict with: their average if the optimizer keeps one, calibrated at each epoch's end."""
    params: Params = average(state["optimizer"]) if "average" in state["optimizer"] else state["params"]
    return params


def _order(task: Task, epoch: int) -> list[Array]:
    return list(batches(len(task.data.train.labels), task.batch_size, task.key.fold("epoch", epoch)))


def _count_correct(out: Array, labels: Array) -> int:
    return int(np.count_nonzero(out.argmax(1) == labels))


def _take_step(task: Task, step: Step, state: State, batch: Array) -> State:
    began, epoch, number = perf_counter(), state["epoch"], state["batch"]
    x = inputs(task, epoch, number, batch)
    y = task.data.train.labels[batch[part(len(batch), task.shard_size, task.comm)]]
    key = task.key.fold("draw", epoch, number)
    with np.errstate(over="ignore", invalid="ignore"):  # the error below is clearer than NumPy's warnings
        params, optimizer, loss, out = step(state["params"], state["optimizer"], x, y, key)
        if not all_finite(loss, params):
            found = task.comm.allgather(find_fault(task.net, task.loss, state["params"], x, y, key))
            reason = next(filter(None, found), describe_non_finite("the updated ", params) or f"the loss is {loss}")
            raise NotFiniteError(f"step {state['step'] + 1} (epoch {epoch}, batch {number + 1}): {reason}")
    seconds = perf_counter() - began
    return state | {
        "params": params,
        "optimizer": optimizer,
        "seconds": state["seconds"] + seconds,
        "step": state["step"] + 1,
        "batch": number + 1,
        "seen": state["seen"] + len(batch),
        "loss_sum": state["loss_sum"] + float(loss) * len(batch),
        "hits": state["hits"] + sum(task.comm.allgather(_count_correct(out, y))),
        "epoch_seconds": state["epoch_seconds"] + seconds,
    }


def _end_epoch(task: Task, state: State) -> tuple[State, Metrics]:
    began, epoch = perf_counter(), state["epoch"]
    state = calibrate_state(task, state)
    results: Metrics = {}
    for name, examples in (("test", task.data.test), ("validation", task.data.validation)):
        if examples:
            loss, correct = evaluate(task, final(state), examples)
            if not isfinite(loss):
                raise NotFiniteError(f"step {state['step']} (end of epoch {epoch}): the {name} loss is {loss}")
            results |= {f"{name}_loss": loss, f"{name}_accuracy": correct / len(examples.labels)}
    best = max(state["best"], results.get("validation_accuracy", results["test_accuracy"]))
    seconds = state["seconds"] + perf_counter() - began
    metrics = {
        "epoch": epoch,
        "step": state["step"],
        "train_loss": state["loss_sum"] / state["seen"],
        "train_accuracy": state["hits"] / state["seen"],
        **results,
        "rate": task.rate(state["step"] - 1),
        "images_per_second": state["seen"] / state["epoch_seconds"],
        "seconds": seconds,
    }
    return state | {"best": best, "seconds": seconds} | _start_epoch(epoch + 1), metrics


def _start_epoch(epoch: int) -> State:
    return {"epoch": epoch, "batch": 0, "seen": 0, "loss_sum": 0.0, "hits": 0, "epoch_seconds": 0.0}
