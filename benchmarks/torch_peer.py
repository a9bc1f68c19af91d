"""Makes a step of PyTorch from a workload: eager, with channels last, or compiled."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from benchmarks import torch_ops
from benchmarks.workloads import RATES, Results, Step, Workload
from fnn import tree_leaves, tree_map

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": partial(torch.optim.Adam, fused=True)}
"""The fused Adam takes a quarter of the time of the default."""


def step(workload: Workload, threads: int, *, channels_last: bool = False, compiled: bool = False) -> Step:
    """Returns a step. If compiled, the whole step is one graph, because compiling less is slower than eager mode."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    arrays, *batch = workload.data()
    params = torch_ops.to_torch_form(workload.net, arrays)
    x, y = map(torch.from_numpy, batch)
    if channels_last:
        params, x, y = tree_map(_channels_last, params), _channels_last(x), _channels_last(y)
    train, loss = workload.task != "predict", torch_ops.LOSSES.get(workload.loss)

    def forward(params: Any, x: Any) -> Any:
        out = torch_ops.apply(workload.net, params, x, train)
        return loss(out, y) if train and loss else out

    if workload.task == "predict":
        return _predict(_compile(forward) if compiled else forward, params, x)
    if workload.task == "vjp":
        return _vjp(forward, params, x, None if loss else y)
    if compiled:
        return _compiled_training(forward, params, x, workload.optimizer)
    return _eager_training(forward, params, x, workload.optimizer)


def _channels_last(tensor: Any) -> Any:
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _predict(forward: Callable[..., Any], params: Any, x: Any) -> Step:
    def predict() -> Results:
        with torch.inference_mode():
            return (forward(params, x),)

    return predict


def _vjp(forward: Callable[..., Any], params: Any, x: Any, dy: Any) -> Step:
    leaves = [leaf.requires_grad_() for leaf in (x, *tree_leaves(params)) if leaf.is_floating_point()]

    def run() -> Results:
        y = forward(params, x)
        grads = list(torch.autograd.grad(y, leaves, dy, allow_unused=True))
        return y.detach(), grads.pop(0) if x.requires_grad else None, [g for g in grads if g is not None]

    return run


def _eager_training(forward: Callable[..., Any], params: Any, x: Any, optimizer: str) -> Step:
    tree_map(lambda leaf: leaf.requires_grad_(), params)
    descent = OPTIMIZERS[optimizer](tree_leaves(params), lr=RATES[optimizer])

    def train() -> Results:
        descent.zero_grad(set_to_none=True)
        value = forward(params, x)
        value.backward()
        descent.step()
        return (value.detach(),)

    return train


def _compiled_training(forward: Callable[..., Any], params: Any, x: Any, optimizer: str) -> Step:
    rate, zeros = RATES[optimizer], pytree.tree_map(torch.zeros_like, params)

    def sgd(params: Any, state: Any, x: Any) -> Any:
        grads, value = torch.func.grad_and_value(forward)(params, x)
        return value, pytree.tree_map(lambda p, g: p - rate * g, params, grads), state

    def adam(params: Any, state: Any, x: Any) -> Any:
        (m, v, count), (grads, value) = state, torch.func.grad_and_value(forward)(params, x)
        m = pytree.tree_map(lambda m, g: m + 0.1 * (g - m), m, grads)
        v = pytree.tree_map(lambda v, g: v + 0.001 * (g * g - v), v, grads)
        count = count + 1
        step, root = rate / (1 - 0.9**count), (1 - 0.999**count).sqrt()
        params = pytree.tree_map(lambda p, m, v: p - step * m / (v.sqrt() / root + 1e-8), params, m, v)
        return value, params, (m, v, count)

    compiled, state = _compile({"sgd": sgd, "adam": adam}[optimizer]), (zeros, zeros, torch.zeros(()))

    def train() -> Results:
        nonlocal params, state
        with torch.no_grad():
            value, params, state = compiled(params, state, x)
        return (value,)

    return train


def _compile(function: Any) -> Any:
    """Compiles `function` for these shapes; raises an error instead of falling back to eager mode."""
    torch._dynamo.config.recompile_limit = 100  # each workload compiles the same code again
    return torch.compile(function, fullgraph=True, dynamic=False)
