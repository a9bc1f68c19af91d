"""Trains a residual net with batch normalisation on generated digits: `python examples/residual.py`."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported: faster for small matrix products
sys.path.append(str(Path(__file__).parents[1]))  # finds the library without installing it

import numpy as np

import fnn
from fnn import batch_norm, conv, dense, global_avgpool, maxpool, relu, residual, serial
from fnn.data import as_float, batches, digits


def block(channels: int) -> fnn.Op:
    """A residual block with two convolutions. He et al., 2016."""
    first = conv(channels, 3, padding=1, bias=False), batch_norm(), relu
    return residual(serial(*first, conv(channels, 3, padding=1, bias=False), batch_norm()))


net = serial(
    *(conv(8, 3, padding=1), maxpool(2), block(8), relu),
    *(conv(16, 3, padding=1), maxpool(2), block(16), relu),
    *(conv(32, 3, padding=1), block(32), relu, global_avgpool, dense(10)),
)


def main(n: int = 6000, epochs: int = 4, seed: int = 0) -> float:
    """Trains on `n` digits; returns the accuracy on 1000 others."""
    key = fnn.Key(seed)
    train, test = digits(n, key.fold("train")), digits(1000, key.fold("test"))
    params = net.init(key.fold("init"), (1, 28, 28))
    optimizer = fnn.adam(fnn.one_cycle(0.01, epochs * -(-n // 100)))
    state, step = optimizer.init(params), fnn.value_and_grad(net, fnn.cross_entropy)
    accuracy = 0.0
    for epoch in range(epochs):
        losses = []
        for i, batch in enumerate(batches(n, 100, key.fold("batches", epoch))):
            x, y = as_float(train.images[batch]), train.labels[batch]
            (loss, _), grads = step(params, x, y, key.fold("step", epoch, i))  # with a key: training
            params, state = optimizer.update(params, grads, state)
            losses.append(loss)
        sample = (as_float(train.images[i : i + 100]) for i in range(0, min(n, 2000), 100))
        out, _ = net.apply(fnn.calibrate(net, params, sample), as_float(test.images))  # no key: prediction
        accuracy = float((out.argmax(1) == test.labels).mean())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, test accuracy {accuracy:.1%}", flush=True)
    return accuracy


if __name__ == "__main__":
    main()
