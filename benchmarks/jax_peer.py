"""Makes a step of JAX from a workload, compiled as a whole."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import jax_ops
from benchmarks.workloads import RATES, Results, Step, Workload


def step(workload: Workload, threads: int) -> Step:
    """Returns a step; the environment sets the number of threads."""
    arrays, *batch = workload.data()
    params = jax_ops.to_jax_form(workload.net, arrays)
    x, y = (jax_ops.to_channels_last(jnp.asarray(array)) for array in batch)
    loss = jax_ops.LOSSES.get(workload.loss)

    def forward(params: Any, x: Any, y: Any, key: Any) -> Any:
        out = jax_ops.apply(workload.net, params, x, key)
        return loss(out, y) if loss and key is not None else out

    if workload.task == "predict":
        predict = jax.jit(forward)
        return lambda: (jax.block_until_ready(predict(params, x, y, None)),)
    key = jax.random.key(0)
    if workload.task == "vjp":
        return _vjp(forward, params, x, y, key, with_loss=loss is not None)
    return _training(forward, params, x, y, key, workload.optimizer)


def _vjp(forward: Any, params: Any, x: Any, y: Any, key: Any, with_loss: bool) -> Step:
    @jax.jit  # type: ignore[untyped-decorator]
    def both(params: Any, x: Any, y: Any) -> Any:
        if jnp.issubdtype(x.dtype, jnp.integer):
            out, vjp = jax.vjp(lambda params: forward(params, x, y, key), params)
            return out, None, vjp(y)[0]
        out, vjp = jax.vjp(lambda params, x: forward(params, x, y, key), params, x)
        dparams, dx = vjp(jnp.ones(()) if with_loss else y)
        return out, dx, dparams

    def run() -> Results:
        out, dx, dparams = jax.block_until_ready(both(params, x, y))
        return out, dx, jax.tree.leaves(dparams)

    return run


def _training(forward: Any, params: Any, x: Any, y: Any, key: Any, optimizer: str) -> Step:
    rate, zeros = RATES[optimizer], jax.tree.map(jnp.zeros_like, params)

    def sgd(params: Any, grads: Any, state: Any) -> Any:
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), (*state[:2], state[2] + 1)

    def adam(params: Any, grads: Any, state: Any) -> Any:
        m, v, count = state
        m = jax.tree.map(lambda m, g: m + 0.1 * (g - m), m, grads)
        v = jax.tree.map(lambda v, g: v + 0.001 * (g * g - v), v, grads)
        count = count + 1
        scale, root = rate / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
        params = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v) / root + 1e-8), params, m, v)
        return params, (m, v, count)

    descend = {"sgd": sgd, "adam": adam}[optimizer]

    @jax.jit  # type: ignore[untyped-decorator]
    def update(params: Any, state: Any, x: Any, y: Any) -> Any:
        value, grads = jax.value_and_grad(forward)(params, x, y, jax.random.fold_in(key, state[2]))
        return value, *descend(params, grads, state)

    state = zeros, zeros, jnp.zeros((), jnp.int32)

    def train() -> Results:
        nonlocal params, state
        value, params, state = jax.block_until_ready(update(params, state, x, y))
        return (value,)

    return train
