"""The defaults of all operators and losses are those of PyTorch's layers."""

import inspect
from typing import Any

import pytest

import fnn
from fnn.losses import Loss

torch = pytest.importorskip("torch")

PEERS = {
    "avgpool": "AvgPool2d",
    "batch_norm": "BatchNorm2d",
    "conv": "Conv2d",
    "conv_transpose": "ConvTranspose2d",
    "dense": "Linear",
    "elu": "ELU",
    "group_norm": "GroupNorm",
    "huber": "HuberLoss",
    "layer_norm": "LayerNorm",
    "leaky_relu": "LeakyReLU",
    "maxpool": "MaxPool2d",
}
"""PyTorch's layer for each of our constructors with defaults."""

RENAMED = {"slope": "negative_slope"}

OURS = {"attention": {"causal"}, "layer_norm": {"axes"}, "parallel": {"join"}, "shard": {"workers", "size"}}
"""Defaults for which PyTorch has no counterpart."""


def defaults(function: Any) -> dict[str, Any]:
    """The defaults by name, without those of the initialisers."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and not inspect.isfunction(p.default)}


def own(name: str) -> dict[str, Any]:
    """Our defaults that PyTorch has as well."""
    return {key: value for key, value in defaults(getattr(fnn, name)).items() if key not in OURS.get(name, ())}


def test_torch_defaults_cover_every_constructor_with_defaults() -> None:
    made = fnn.Op, "Op", Loss, "Loss"
    functions = [name for name in fnn.__all__ if inspect.isfunction(getattr(fnn, name)) and name != "parse_net"]
    makers = [name for name in functions if inspect.signature(getattr(fnn, name)).return_annotation in made]
    assert {name for name in makers if own(name)} == PEERS.keys()


@pytest.mark.parametrize("name", PEERS)
def test_constructors_have_torch_defaults(name: str) -> None:
    theirs = defaults(getattr(torch.nn, PEERS[name]))
    assert own(name) == {key: theirs[RENAMED.get(key, key)] for key in own(name)}


OPTIMIZERS = {"adagrad": "Adagrad", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "sgd": "SGD"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_have_torch_defaults(name: str) -> None:
    theirs = defaults(getattr(torch.optim, OPTIMIZERS[name]))
    names = {"learning_rate": "lr", "decay": "alpha"}
    expected = {**theirs, **dict(zip(("b1", "b2"), theirs.get("betas", ()), strict=False))}
    ours = defaults(getattr(fnn, name))
    assert "weight_decay" in ours
    assert ours == {key: expected[names.get(key, key)] for key in ours}
