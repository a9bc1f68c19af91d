"""Every combinator against PyTorch in float64: outputs, and gradients in params and input, to 1e-9 relative."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import Op, conv, cross_entropy, dense, maxpool, serial, sigmoid, tanh, tree_items, tree_leaves, tree_map
from fnn.combine import named, parallel, repeat, residual, shared
from fnn.op import Array, Params, Shape
from fnn.shard import shard
from fnn.transform import finite, freeze, microbatch, per_example, remat

torch = pytest.importorskip("torch")
F = torch.nn.functional

Combine = Callable[[Op, int], Op]

COMBINATORS: dict[str, Combine] = {
    "concat": lambda op, n: parallel(*[op] * n, tanh, join="concat"),
    "finite": lambda op, n: finite(op),
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


def in_torch(op: Op, params: Any, x: Any) -> Any:
    """The output of the operator, as PyTorch would have it."""
    parts = [partial(in_torch, part, params[name]) for name, part in op.parts.items() if name]
    match op.kind:
        case "serial" | "repeat" | "shared":
            for part in parts * op.config["n"] if op.kind == "shared" else parts:
                x = part(x)
            return x
        case "residual":
            return x + parts[0](x)
        case "parallel":
            ys = [part(x) for part in parts]
            return torch.cat(ys, 1) if op.config["join"] == "concat" else torch.stack(ys).sum(0)
        case "freeze":
            return in_torch(op.parts[""], tree_map(lambda p: p.detach(), params), x)
        case "finite" | "microbatch" | "named" | "remat" | "shard":
            return in_torch(op.parts[""], params, x)
        case "conv":
            return F.conv2d(x, params["w"], params["b"], padding=op.config["padding"])
        case "dense":
            return x.flatten(1) @ params["w"] + params["b"]
        case "maxpool":
            return F.max_pool2d(x, op.config["kernel_size"])
    return {"sigmoid": torch.sigmoid, "tanh": torch.tanh}[op.kind](x)


def close(came: Array, wanted: Array) -> None:
    np.testing.assert_allclose(came, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max(initial=0))


def doubles(op: Op, shape: Shape, seed: int) -> Params:
    params: Params = tree_map(lambda a: a.astype(np.float64), op.init(seed, shape))
    return params


def compare(op: Op, shape: Shape, batch: int, seed: int) -> None:
    params, rng = doubles(op, shape, seed), np.random.default_rng(seed)
    x = rng.standard_normal((batch, *shape))
    y, vjp = op.apply(params, x)
    dy = rng.standard_normal(y.shape)
    grads, dx = vjp(dy)

    tensors = tree_map(lambda a: torch.tensor(a, requires_grad=True), params)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = in_torch(op, tensors, x_torch)
    wanted = torch.autograd.grad(
        y_torch, [x_torch, *tree_leaves(tensors)], torch.tensor(dy), allow_unused=True, materialize_grads=True
    )
    close(y, y_torch.detach().numpy())
    for came, gradient in zip([dx, *tree_leaves(grads)], wanted, strict=True):
        close(came, gradient.numpy())


@pytest.mark.parametrize("combine", COMBINATORS.values(), ids=COMBINATORS)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32))
def test_combinators_of_features_agree(combine: Combine, n: int, features: int, batch: int, seed: int) -> None:
    compare(combine(serial(dense(features + 1), tanh, dense(features)), n), (features,), batch, seed)


@pytest.mark.parametrize("combine", COMBINATORS.values(), ids=COMBINATORS)
@given(st.integers(1, 3), st.integers(1, 3), st.tuples(st.integers(2, 5), st.integers(2, 5)), st.integers(0, 2**32))
def test_combinators_of_images_agree(combine: Combine, n: int, channels: int, size: tuple[int, int], seed: int) -> None:
    block = residual(serial(conv(channels, 3, padding=1), sigmoid))
    compare(serial(combine(block, n), maxpool(2), dense(3)), (channels, *size), 3, seed)


@pytest.mark.parametrize("outer", COMBINATORS.values(), ids=COMBINATORS)
@pytest.mark.parametrize("inner", COMBINATORS.values(), ids=COMBINATORS)
def test_combinators_in_combinators_agree(outer: Combine, inner: Combine) -> None:
    op = inner(dense(4), 2)
    compare(outer(serial(op, dense(4), sigmoid), 2), (4,), 5, 1)


@given(st.integers(1, 5), st.integers(0, 2**32))
def test_per_example_agrees_with_a_vectorised_gradient(batch: int, seed: int) -> None:
    shape = (1, 5, 6)
    net = serial(residual(conv(1, 3, padding=1)), maxpool(2), tanh, parallel(dense(4), dense(3), join="concat"))
    params, rng = doubles(net, shape, seed), np.random.default_rng(seed)
    x, y = rng.standard_normal((batch, *shape)), rng.integers(0, 7, batch)

    def loss(tensors: Any, x: Any, y: Any) -> Any:
        return F.cross_entropy(in_torch(net, tensors, x[None]), y[None])

    each = torch.func.vmap(torch.func.grad_and_value(loss), (None, 0, 0))
    wanted, losses = each(tree_map(torch.tensor, params), torch.tensor(x), torch.tensor(y))
    (values, _), grads = per_example(net, cross_entropy)(params, x, y)
    close(values, losses.numpy())
    gradients = dict(tree_items(wanted))
    for path, came in tree_items(grads):
        close(came, gradients[path].numpy())
