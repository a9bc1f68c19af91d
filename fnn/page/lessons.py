"""Teaching as a pure function: a lesson gives new params, and undo returns to the old ones."""

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fnn.data import Dataset, as_float, shift
from fnn.files.checkpoint import save
from fnn.grad import value_and_grad
from fnn.losses import cross_entropy
from fnn.op import Op, Params
from fnn.ops.softmaxes import softmax
from fnn.optim import sgd
from fnn.page.answers import Answer, answer
from fnn.random import Key
from fnn.run.folder import RunError
from fnn.tree import tree_leaves

COPIES, STORED = 24, 256  # in the batch of a lesson: copies of the drawing, shifted by up to a pixel; training images
RATES = [2.0**n for n in range(-12, 1)]  # the learning rates that a lesson tries
SAMPLE = 500  # test images that show what a lesson costs
MAX_BYTES = 64_000_000  # of params before lessons, which are kept so that the lessons can be undone


def teach(net: Op, params: Params, image: NDArray[np.uint8], label: int, data: Dataset, key: Key) -> Params:
    """Takes one step of gradient descent on the drawing (height, width), mixed with random training images.

    The training images are there so that the net does not forget. The learning rate is the lowest of RATES that halves
    the doubt, 1 minus the probability of the label. If there is none, or if it raises the loss of the batch, it is the
    one with the lowest loss.
    """
    chosen = key.fold("images").generator().integers(len(data.train.labels), size=STORED)
    copies = shift(1)(as_float(np.repeat(image[None], COPIES, 0)), key.fold("shift"))
    x = np.concatenate([as_float(image[None]), copies, as_float(data.train.images[chosen])])
    y = np.concatenate([np.full(1 + COPIES, label), data.train.labels[chosen]])
    _, grads = value_and_grad(net, cross_entropy)(params, x, y, None)

    def step(rate: float) -> Params:
        optimizer = sgd(rate)
        new: Params = optimizer.update(params, grads, optimizer.init(params))[0]
        return new

    def doubt(params: Params) -> float:
        return 1 - float(softmax.apply({}, net.apply(params, x[:1])[0])[0][0, label])

    def loss(params: Params) -> float:
        return float(cross_entropy(net.apply(params, x)[0], y)[0])

    wanted = doubt(params) / 2  # the steps are computed again and again, because several would need much memory
    rate = next((rate for rate in RATES if doubt(step(rate)) <= wanted), None)
    if rate is None or loss(step(rate)) > loss(params):
        rate = min(RATES, key=lambda rate: loss(step(rate)))
    return step(rate)


class Pupil:
    """A net with its params before each lesson. All methods may be called from any thread."""

    def __init__(self, net: Op, params: Params, classes: list[str], folder: Path, data: Dataset | None) -> None:
        self.net, self.classes, self.folder, self.data = net, classes, folder, data
        self._history, self._lock, self._lessons = [params], Lock(), 0
        size = sum(leaf.nbytes for leaf in tree_leaves(params))
        self._kept = max(1, MAX_BYTES // max(1, size))

    @property
    def lessons(self) -> int:
        """The number of lessons that can be undone."""
        return len(self._history) - 1

    def answer(self, image: NDArray[np.uint8], chosen: int | None) -> Answer:
        """Returns the answer with the params after the last lesson."""
        return answer(self.net, self._history[-1], image, chosen)

    def teach(self, image: NDArray[np.uint8], label: int) -> dict[str, Any]:
        """Gives a lesson. Returns the accuracies before and after it, and the number of lessons that can be undone."""
        if self.data is None:
            raise RunError("teaching needs the training images of the run; start again with --data")
        with self._lock:
            before = self._history[-1]
            after = teach(self.net, before, image, label, self.data, Key(0).fold(self._lessons))
            self._lessons += 1
            self._history = [*self._history[-self._kept :], after]
            return {"before": self._accuracy(before), "after": self._accuracy(after), "lessons": self.lessons}

    def undo(self) -> dict[str, Any]:
        """Returns to the params before the last lesson."""
        with self._lock:
            self._history = self._history[:-1] or self._history
            return {"lessons": self.lessons}

    def save(self) -> dict[str, Any]:
        """Writes the params to a new file in the folder of the run, and returns its name."""
        with self._lock:
            number = 1
            while (path := self.folder / f"taught-{number}.pkl").exists():
                number += 1
            save(path, self._history[-1])
            return {"file": str(path)}

    def _accuracy(self, params: Params) -> float:
        assert self.data
        images, labels = self.data.test
        scores, _ = self.net.apply(params, as_float(images[:SAMPLE]))
        return float((scores.argmax(1) == labels[:SAMPLE]).mean())
