"""Makes a step of PyTorch from a workload: eager, with channels last, or compiled."""

from math import prod
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad_and_value

from benchmarks.workloads import RATE, Step, Workload

ACTIVATIONS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}


def step(workload: Workload, threads: int, *, channels_last: bool = False, compiled: bool = False) -> Step:
    """Returns a step. If compiled, the whole step is one graph, because compiling less is slower than eager mode."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = network(workload)
    x, y = map(torch.from_numpy, workload.data())
    if channels_last and workload.images:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if not workload.train:
        return _inference(_compile(net) if compiled else net, x)
    return _compiled_training(net, x, y) if compiled else _eager_training(net, x, y)


def network(workload: Workload) -> Any:
    """Returns the network as PyTorch modules with their default initialisation."""
    modules: list[Any] = []
    for (kind, size), shape in workload.inputs():
        if kind == "conv":
            modules.append(nn.Conv2d(shape[0], size, 3, padding=1))
        elif kind == "maxpool":
            modules.append(nn.MaxPool2d(size))
        elif kind == "dense":
            modules += [nn.Flatten(), nn.Linear(prod(shape), size)] if len(shape) > 1 else [nn.Linear(*shape, size)]
        else:
            modules.append(ACTIVATIONS[kind]())
    return nn.Sequential(*modules)


def _inference(net: Any, x: Any) -> Step:
    def forward() -> object:
        with torch.inference_mode():
            return net(x)

    return forward


def _eager_training(net: Any, x: Any, y: Any) -> Step:
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return train


def _compiled_training(net: Any, x: Any, y: Any) -> Step:
    def loss(params: Any) -> Any:
        return nn.functional.cross_entropy(functional_call(net, params, (x,)), y)

    def update(params: Any) -> Any:
        grads, value = grad_and_value(loss)(params)
        return value, {name: param - RATE * grads[name] for name, param in params.items()}

    compiled = _compile(update)
    params = {name: param.detach() for name, param in net.named_parameters()}

    def train() -> None:
        nonlocal params
        with torch.no_grad():
            _, params = compiled(params)

    return train


def _compile(function: Any) -> Any:
    """Compiles `function` for these shapes; raises an error instead of falling back to eager mode."""
    torch._dynamo.config.recompile_limit = 100  # each workload compiles the same code again
    return torch.compile(function, fullgraph=True, dynamic=False)
