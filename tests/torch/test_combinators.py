"""Every combinator compared with PyTorch in float64: outputs and gradients, with a tolerance of 1e-9."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import Op, conv, cross_entropy, dense, maxpool, serial, sigmoid, tanh, tree_items, tree_map
from fnn.combinators import named, parallel, repeat, residual, shared
from fnn.transforms import check_finite, freeze, microbatch, per_example, remat, shard
from tests.support.in_torch import add_noise, assert_agrees, assert_close, in_torch, torch

F = torch.nn.functional

Combine = Callable[[Op, int], Op]

COMBINATORS: dict[str, Combine] = {
    "concat": lambda op, n: parallel(*[op] * n, tanh, join="concat"),
    "check_finite": lambda op, n: check_finite(op),
    "freeze": lambda op, n: serial(tanh, freeze(op), op),
    "microbatch": lambda op, n: microbatch(op, n),
    "named": lambda op, n: serial(named("one", op), named("other", op)),
    "remat": lambda op, n: remat(op),
    "repeat": lambda op, n: repeat(op, n),
    "residual": lambda op, n: residual(op),
    "serial": lambda op, n: serial(*[op] * n),
    "shard": lambda op, n: shard(op, workers=1, size=n),
    "shared": lambda op, n: shared(op, n),
    "sum": lambda op, n: parallel(*[op] * n, tanh),
}


@pytest.mark.parametrize("combine", COMBINATORS.values(), ids=COMBINATORS)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32))
def test_combinators_of_features_agree_with_torch(
    combine: Combine, n: int, features: int, batch: int, seed: int
) -> None:
    op = combine(serial(dense(features + 1), tanh, dense(features)), n)
    assert_agrees(op, (features,), seed, batch, np.ascontiguousarray)


@pytest.mark.parametrize("combine", COMBINATORS.values(), ids=COMBINATORS)
@given(st.integers(1, 3), st.integers(1, 3), st.tuples(st.integers(2, 5), st.integers(2, 5)), st.integers(0, 2**32))
def test_combinators_of_images_agree_with_torch(
    combine: Combine, n: int, channels: int, size: tuple[int, int], seed: int
) -> None:
    block = residual(serial(conv(channels, 3, padding=1), sigmoid))
    assert_agrees(serial(combine(block, n), maxpool(2), dense(3)), (channels, *size), seed, 3, np.ascontiguousarray)


@pytest.mark.parametrize("outer", COMBINATORS.values(), ids=COMBINATORS)
@pytest.mark.parametrize("inner", COMBINATORS.values(), ids=COMBINATORS)
def test_nested_combinators_agree_with_torch(outer: Combine, inner: Combine) -> None:
    op = inner(dense(4), 2)
    assert_agrees(outer(serial(op, dense(4), sigmoid), 2), (4,), 1, 5, np.ascontiguousarray)


@given(st.integers(1, 5), st.integers(0, 2**32))
def test_per_example_agrees_with_torch_vmap(batch: int, seed: int) -> None:
    shape = (1, 5, 6)
    net = serial(residual(conv(1, 3, padding=1)), maxpool(2), tanh, parallel(dense(4), dense(3), join="concat"))
    rng = np.random.default_rng(seed)
    params = add_noise(net.init(seed, shape), rng)
    x, y = rng.standard_normal((batch, *shape)), rng.integers(0, 7, batch)

    def loss(tensors: Any, x: Any, y: Any) -> Any:
        return F.cross_entropy(in_torch(net, tensors, x[None]), y[None])

    each = torch.func.vmap(torch.func.grad_and_value(loss), (None, 0, 0))
    wanted, losses = each(tree_map(torch.tensor, params), torch.tensor(x), torch.tensor(y))
    (values, _), grads = per_example(net, cross_entropy)(params, x, y)
    assert_close(values, losses, "values")
    gradients = dict(tree_items(wanted))
    for path, came in tree_items(grads):
        assert_close(came, gradients[path], path)
