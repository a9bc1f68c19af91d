"""Makes a compiled step of JAX from a workload; channels last and pooling by `max` over axes are fastest."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workloads import RATE, Step, Workload

ACTIVATIONS = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}


def step(workload: Workload, threads: int) -> Step:
    """Returns a step, compiled as a whole; the environment sets the number of threads."""
    inputs, labels = workload.data()
    x = jnp.asarray(np.moveaxis(inputs, 1, -1) if workload.images else inputs)
    y = jnp.asarray(labels)
    forward, params = partial(apply, workload), init(workload)
    if not workload.train:
        compiled = jax.jit(forward)
        return lambda: jax.block_until_ready(compiled(params, x))

    def loss(params: Any, x: Any, y: Any) -> Any:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(forward(params, x)), y[:, None], 1))

    def update(params: Any, x: Any, y: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, x, y)
        return value, jax.tree.map(lambda param, grad: param - RATE * grad, params, grads)

    compiled = jax.jit(update)

    def train() -> None:
        nonlocal params
        _, params = jax.block_until_ready(compiled(params, x, y))

    return train


def init(workload: Workload) -> list[tuple[Any, Any]]:
    """Returns the weights and biases of each layer that has them."""
    rng = np.random.default_rng(0)
    params = []
    for layer, shape in workload.inputs():
        if layer.kind in ("conv", "dense"):
            size = (3, 3, shape[0], layer.size) if layer.kind == "conv" else (int(np.prod(shape)), layer.size)
            bound = np.prod(size[:-1]) ** -0.5
            w = rng.uniform(-bound, bound, size).astype(np.float32)
            params.append((jnp.asarray(w), jnp.zeros(layer.size, jnp.float32)))
    return params


def apply(workload: Workload, params: list[tuple[Any, Any]], x: Any) -> Any:
    """Returns the network's output; images have shape (batch, height, width, channels)."""
    weights = iter(params)
    for kind, size in workload.layers:
        if kind == "conv":
            w, b = next(weights)
            x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b
        elif kind == "maxpool":
            n, height, width, channels = x.shape
            x = x.reshape(n, height // size, size, width // size, size, channels).max((2, 4))
        elif kind == "dense":
            w, b = next(weights)
            x = x.reshape(len(x), -1) @ w + b
        else:
            x = ACTIVATIONS[kind](x)
    return x
