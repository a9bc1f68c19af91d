"""Makes a step of fnn from a workload."""

import fnn
from benchmarks.workloads import RATE, Array, Layer, Step, Workload
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.losses import Loss
from fnn.optim import Optimizer, sgd
from fnn.summaries import layers
from fnn.transforms import shard

SGD = sgd(RATE)
ACTIVATIONS = {"tanh": fnn.tanh, "sigmoid": fnn.sigmoid, "relu": fnn.relu}


def operators(workload: Workload) -> list[fnn.Op]:
    """Returns the network's operators, in order."""
    return [_operator(layer) for layer in workload.layers]


def _operator(layer: Layer) -> fnn.Op:
    if layer.kind == "conv":
        return fnn.conv(layer.size, 3, padding=1)
    if layer.kind == "maxpool":
        return fnn.maxpool(layer.size)
    return fnn.dense(layer.size) if layer.kind == "dense" else ACTIVATIONS[layer.kind]


def flops(workload: Workload) -> int:
    """Returns the multiplications and additions in the products of one step over the whole batch, for any framework.

    Each layer with weights has one product forward and, in training, one of the same size for the weights' gradient
    and one for the input's gradient, except for the first layer, whose input gradient is not needed.
    """
    found = layers(fnn.serial(*operators(workload)), workload.shape)
    forward = [2 * layer.multiply_adds for layer in found if layer.multiply_adds]
    return workload.batch * (3 * sum(forward) - forward[0] if workload.train else sum(forward))


def batch(workload: Workload) -> tuple[Array, Array]:
    """Returns the workload's batch; images have the batch axis innermost in memory, as from `as_float`."""
    x, y = workload.data()
    return from_wchn(to_wchn(x)) if workload.images else x, y


def step(workload: Workload, threads: int) -> Step:
    """Returns a step of the network, with the batch in shards over threads."""
    return step_of(shard(fnn.serial(*operators(workload)), workers=threads), workload)


def step_of(net: fnn.Op, workload: Workload, loss: Loss = fnn.cross_entropy, optimizer: Optimizer = SGD) -> Step:
    """Returns a step of the workload with this network, loss and optimizer."""
    x, y = batch(workload)
    params = net.init(0, workload.shape)
    if not workload.train:
        return lambda: net.apply(params, x)[0]
    gradients, (start, update) = fnn.value_and_grad(net, loss), optimizer
    state = start(params)

    def train() -> None:
        nonlocal params, state
        _, grads = gradients(params, x, y)
        params, state = update(params, grads, state)

    return train
