"""Training as a fold: a state, a pure function of it for every batch, and the metrics that an epoch ends with.

Every draw is a function of the task's key, the epoch, the batch's number in it and, for what is drawn for images, the
number of the shard. A state is therefore all that there is to keep, and whoever goes on from it ends in the same bits.
"""

from collections.abc import Callable, Iterator
from math import isfinite
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fnn.data import Dataset, as_float, batches
from fnn.data.augment import Augmentation
from fnn.grad import value_and_grad
from fnn.losses import Loss
from fnn.op import Array, Op, Params
from fnn.ops import calibrate
from fnn.optim import Optimizer, average
from fnn.optim.schedules import Schedule
from fnn.random import Key
from fnn.run.faults import NotFiniteError, fault, not_finite, sound
from fnn.transforms import shard_slices

CALIBRATION = 2000
"""At least so many training examples are used to calibrate batch_norm before a test, or all if there are fewer."""

State: TypeAlias = dict[str, Any]
"""A tree: `params`; the optimizer's state as `optimizer`; the `best` test accuracy of all epochs, -1 before the first;
the `seconds` that all steps and tests took; the number of updates so far as `step`; the `epoch`, from 1, and in it the
number of the next `batch`, the images `seen`, their `loss_sum`, how many were `hits`, and its steps' `epoch_seconds`.
"""

Metrics: TypeAlias = dict[str, float]
"""An epoch's: epoch, step, train_loss, train_accuracy, test_loss, test_accuracy, rate (that of the epoch's last step),
images_per_second (trained on, the test's not counted) and seconds (since the run began, all that was done twice or
between a stop and going on not counted). Accuracies are fractions."""


class Ranks(NamedTuple):
    """How processes share a task, all of which do the same steps; as it stands, one process that has no others."""

    part: Callable[[int], slice] = lambda n: slice(0, n)
    """Which of a batch of n examples this one has."""

    gather: Callable[[Any], list[Any]] = lambda mine: [mine]
    """What everyone has, the same for all."""

    whole: Callable[[Loss], Loss] = lambda loss: loss
    """The loss whose value is the mean over the whole batch."""


class Task(NamedTuple):
    """What is trained, on what and how: all that decides a run's bits, and by whom, which does not."""

    net: Op
    loss: Loss
    optimizer: Optimizer
    rate: Schedule
    """The optimizer's learning rate, for the metrics."""

    data: Dataset
    augment: Augmentation
    epochs: int
    batch_size: int
    shard_size: int
    key: Key
    ranks: Ranks = Ranks()


def start(task: Task) -> State:
    """The state before the first step."""
    params = task.net.init(task.key.fold("init"), (1, *task.data.train.images.shape[1:]))
    state = {"params": params, "optimizer": task.optimizer.init(params), "best": -1.0, "seconds": 0.0, "step": 0}
    return state | _beginning(1)


def steps(task: Task, state: State) -> Iterator[tuple[State, Metrics | None]]:
    """Each state that follows from `state`: one after every update, and one after every epoch's test, with its metrics.

    Raises NotFiniteError in the place of a state that would hold, or come of, a number that is not finite.
    """
    gradient = value_and_grad(task.net, task.ranks.whole(task.loss))
    for epoch in range(state["epoch"], task.epochs + 1):
        for batch in _order(task, epoch)[state["batch"] :]:
            state = _step(task, gradient, state, batch)
            yield state, None
        state, metrics = _end(task, state)
        yield state, metrics


def inputs(task: Task, epoch: int, number: int, batch: Array) -> Array:
    """This rank's part of the batch's images as the net gets them.

    They are changed shard by shard, so that it does not matter who has which.
    """
    key, images = task.key.fold("augment", epoch, number), task.data.train.images
    own, parts = task.ranks.part(len(batch)), []
    for i, shard in enumerate(shard_slices(len(batch), task.shard_size)):
        begin, end = max(own.start, shard.start), min(own.stop, shard.stop)
        if begin < end:
            changed = task.augment(as_float(images[batch[shard]]), key.fold(i))
            parts.append(changed[begin - shard.start : end - shard.start])
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else as_float(images[:0])


def tested(task: Task, params: Params) -> tuple[float, int]:
    """The mean loss over the examples to test on, and how many of them the net gets right."""
    (images, labels), loss, loss_sum, right = task.data.test, task.ranks.whole(task.loss), 0.0, 0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(labels), 500):
            rows = np.arange(start, min(start + 500, len(labels)))
            own = rows[task.ranks.part(len(rows))]
            out, _ = task.net.apply(params, as_float(images[own]))
            loss_sum += float(loss(out, labels[own])[0]) * len(rows)
            right += hits(out, labels[own])
    return loss_sum / len(labels), sum(task.ranks.gather(right))


def hits(out: Array, labels: Array) -> int:
    """For how many examples the largest output is the label's."""
    return int(np.count_nonzero(out.argmax(1) == labels))


def calibrated(task: Task, state: State) -> State:
    """The state at an epoch's end with `final` params that are calibrated, for nets with batch_norm.

    Statistics come from the first batches of that epoch, with the same order and augmentation as in training:
    CALIBRATION examples or more if there are so many, and no smaller last batch unless it is the only one. They
    replace the old ones in the state's params, or in their average if the optimizer keeps one. Training does not use
    them.
    """
    if not task.net.statistics:
        return state
    epoch, batch_size = state["epoch"], min(task.batch_size, len(task.data.train.labels))
    order = [batch for batch in _order(task, epoch) if len(batch) == batch_size][: -(-CALIBRATION // batch_size)]
    some = (inputs(task, epoch, number, batch) for number, batch in enumerate(order))
    with np.errstate(over="ignore", invalid="ignore"):  # the test's loss shows what they lead to
        params = calibrate(task.net, final(state), some, task.key.fold("calibrate", epoch))
    if "average" in state["optimizer"]:
        return state | {"optimizer": state["optimizer"] | {"average": params}}
    return state | {"params": params}


def final(state: State) -> Params:
    """The params to predict with: the averaged ones, if the optimizer keeps an average.

    Their batch_norms are calibrated at the end of each epoch.
    """
    params: Params = average(state["optimizer"]) if "average" in state["optimizer"] else state["params"]
    return params


def _order(task: Task, epoch: int) -> list[Array]:
    return list(batches(len(task.data.train.labels), task.batch_size, task.key.fold("epoch", epoch)))


def _step(task: Task, gradient: Callable[..., Any], state: State, batch: Array) -> State:
    began, epoch, number = perf_counter(), state["epoch"], state["batch"]
    x, y = inputs(task, epoch, number, batch), task.data.train.labels[batch[task.ranks.part(len(batch))]]
    key = task.key.fold("draw", epoch, number)
    with np.errstate(over="ignore", invalid="ignore"):  # what they lead to is told
        (loss, out), grads = gradient(state["params"], x, y, key)
        params, optimizer = task.optimizer.update(state["params"], grads, state["optimizer"])
        if not sound(loss, params):
            found = task.ranks.gather(fault(task.net, task.loss, state["params"], x, y, key))
            reason = next(filter(None, found), not_finite("the updated ", params) or f"the loss is {loss}")
            raise NotFiniteError(f"step {state['step'] + 1} (epoch {epoch}, batch {number + 1}): {reason}")
    seconds = perf_counter() - began
    return {
        "params": params,
        "optimizer": optimizer,
        "best": state["best"],
        "seconds": state["seconds"] + seconds,
        "step": state["step"] + 1,
        "epoch": epoch,
        "batch": number + 1,
        "seen": state["seen"] + len(batch),
        "loss_sum": state["loss_sum"] + float(loss) * len(batch),
        "hits": state["hits"] + sum(task.ranks.gather(hits(out, y))),
        "epoch_seconds": state["epoch_seconds"] + seconds,
    }


def _end(task: Task, state: State) -> tuple[State, Metrics]:
    began, epoch = perf_counter(), state["epoch"]
    state = calibrated(task, state)
    test_loss, right = tested(task, final(state))
    if not isfinite(test_loss):
        raise NotFiniteError(f"step {state['step']} (the end of epoch {epoch}): the test's loss is {test_loss}")
    accuracy, seconds = right / len(task.data.test.labels), state["seconds"] + perf_counter() - began
    metrics = {
        "epoch": epoch,
        "step": state["step"],
        "train_loss": state["loss_sum"] / state["seen"],
        "train_accuracy": state["hits"] / state["seen"],
        "test_loss": test_loss,
        "test_accuracy": accuracy,
        "rate": task.rate(state["step"] - 1),
        "images_per_second": state["seen"] / state["epoch_seconds"],
        "seconds": seconds,
    }
    return state | {"best": max(state["best"], accuracy), "seconds": seconds} | _beginning(epoch + 1), metrics


def _beginning(epoch: int) -> State:
    return {"epoch": epoch, "batch": 0, "seen": 0, "loss_sum": 0.0, "hits": 0, "epoch_seconds": 0.0}
