"""Makes a step of fnn from a workload."""

import fnn
from benchmarks.workloads import RATES, Array, Results, Step, Workload
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.losses import Loss
from fnn.optim import Optimizer
from fnn.summaries import layers
from fnn.transforms import shard

OPTIMIZERS = {"sgd": fnn.sgd(RATES["sgd"]), "adam": fnn.adam(RATES["adam"])}
LOSSES = {"cross_entropy": fnn.cross_entropy, "binary_cross_entropy": fnn.binary_cross_entropy, "mse": fnn.mse}


def flops(workload: Workload) -> int:
    """Returns the multiplications and additions in the products of one step over the whole batch, for any framework.

    Each layer with weights has one product forward and, in training, one of the same size for the weights' gradient
    and one for the input's gradient, except for the first layer, whose input gradient is not needed.
    """
    found = layers(workload.net, workload.shape)
    forward = [2 * layer.multiply_adds for layer in found if layer.multiply_adds]
    return workload.batch * (3 * sum(forward) - forward[0] if workload.task == "train" else sum(forward))


def step(workload: Workload, threads: int) -> Step:
    """Returns a step of the net."""
    return step_of(in_shards(workload.net, workload, threads), workload)


def in_shards(net: fnn.Op, workload: Workload, threads: int) -> fnn.Op:
    """Returns the net with its batch in shards over threads. Single layers have none."""
    return net if workload.task == "vjp" else shard(net, workers=threads)


def step_of(net: fnn.Op, workload: Workload, loss: Loss | None = None, optimizer: Optimizer | None = None) -> Step:
    """Returns a step of the workload with this net; the loss and the optimizer default to those of the workload."""
    params, x, y = workload.data()
    x, loss = fast(x), loss or LOSSES.get(workload.loss)
    if workload.task == "predict":
        return lambda: (net.apply(params, x)[0],)
    key = fnn.Key(0) if net.needs_key else None
    if workload.task == "vjp":
        return _vjp(net, params, x, y, key, loss)
    assert loss
    start, update = optimizer or OPTIMIZERS[workload.optimizer]
    gradients, state, count = fnn.value_and_grad(net, loss), start(params), 0

    def train() -> Results:
        nonlocal params, state, count
        (value, _), grads = gradients(params, x, y, key and key.fold(count))
        params, state = update(params, grads, state)
        count += 1
        return (value,)

    return train


def _vjp(net: fnn.Op, params: fnn.Params, x: Array, y: Array, key: fnn.Key | None, loss: Loss | None) -> Step:
    need_dx, dy = x.dtype.kind == "f", fast(y)

    def run() -> Results:
        out, vjp = net.apply(params, x, key)
        if loss:
            value, loss_vjp = loss(out, y)
            dparams, dx = vjp(loss_vjp(), need_dx)
            return value, dx, fnn.tree_leaves(dparams)
        dparams, dx = vjp(dy, need_dx)
        return out, dx if need_dx else None, fnn.tree_leaves(dparams)

    return run


def fast(x: Array) -> Array:
    """Returns images with the batch axis innermost in memory, as from `as_float`; other arrays as they are."""
    return from_wchn(to_wchn(x)) if x.ndim == 4 else x
