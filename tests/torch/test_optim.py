"""Every optimizer compared with PyTorch's in float64, on the same gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fnn.optim import Optimizer, adagrad, adam, adamw, clip_by_global_norm, rmsprop, sgd
from fnn.optim.schedules import Schedule, cosine, one_cycle, piecewise, warmup
from fnn.tree import Tree, tree_items, tree_leaves, tree_map

torch = pytest.importorskip("torch")

STEPS = 200
SCHEDULES: dict[str, float | Schedule] = {
    "constant": 0.01,
    "piecewise": piecewise([50, 120], [0.02, 0.005, 0.001]),
    "warmup-cosine": warmup(cosine(0.02, 1e-4, 150), 30),
    "one-cycle": one_cycle(0.05, STEPS),
}

# ours, PyTorch's class, and its hyper-parameters
Case = tuple[Callable[[Any], Optimizer], str, dict[str, Any]]
CASES: dict[str, Case] = {
    "sgd": (lambda lr: sgd(lr), "SGD", {}),
    "sgd-decay": (lambda lr: sgd(lr, weight_decay=0.1), "SGD", {"weight_decay": 0.1}),
    "sgd-momentum": (lambda lr: sgd(lr, momentum=0.9), "SGD", {"momentum": 0.9}),
    "sgd-nesterov-decay": (
        lambda lr: sgd(lr, momentum=0.8, nesterov=True, weight_decay=0.05),
        "SGD",
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05},
    ),
    "rmsprop": (lambda lr: rmsprop(lr), "RMSprop", {}),
    "rmsprop-all": (
        lambda lr: rmsprop(lr, decay=0.9, eps=1e-6, momentum=0.7, weight_decay=0.1),
        "RMSprop",
        {"alpha": 0.9, "eps": 1e-6, "momentum": 0.7, "weight_decay": 0.1},
    ),
    "adagrad": (lambda lr: adagrad(lr), "Adagrad", {}),
    "adagrad-decay": (
        lambda lr: adagrad(lr, eps=1e-3, weight_decay=0.1),
        "Adagrad",
        {"eps": 1e-3, "weight_decay": 0.1},
    ),
    "adam": (lambda lr: adam(lr), "Adam", {}),
    "adam-decay": (
        lambda lr: adam(lr, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.1),
        "Adam",
        {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adamw": (lambda lr: adamw(lr), "AdamW", {}),
    "adamw-decay": (
        lambda lr: adamw(lr, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.3),
        "AdamW",
        {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3},
    ),
}


def random_tree(rng: np.random.Generator) -> Tree:
    """Returns a tree of random shapes and depth, with arrays in Fortran order."""

    def leaf() -> Any:
        return np.asfortranarray(rng.standard_normal(rng.integers(1, 6, rng.integers(0, 4))))

    return {
        f"part{nth}": {"w": leaf(), "b": leaf()} if nth % 3 else {"inner": {"w": leaf()}, "none": {}}
        for nth in range(rng.integers(2, 6))
    }


def ours(optimizer: Optimizer, params: Tree, gradients: list[Tree]) -> Tree:
    state = optimizer.init(params)
    for grads in gradients:
        params, state = optimizer.update(params, grads, state)
    return params


def theirs(
    name: str, options: dict[str, Any], rate: float | Schedule, params: Tree, gradients: list[Tree], norm: float = 0
) -> list[Any]:
    tensors = [torch.tensor(leaf) for leaf in tree_leaves(params)]
    optimizer = getattr(torch.optim, name)(tensors, lr=1.0, **options)
    for step, grads in enumerate(gradients):
        for tensor, grad in zip(tensors, tree_leaves(grads), strict=True):
            tensor.grad = torch.tensor(grad)
        if norm:
            torch.nn.utils.clip_grad_norm_(tensors, norm)
        optimizer.param_groups[0]["lr"] = rate(step) if callable(rate) else rate
        optimizer.step()
    return [tensor.numpy() for tensor in tensors]


def assert_equal(params: Tree, tensors: list[Any]) -> None:
    for (path, leaf), tensor in zip(tree_items(params), tensors, strict=True):
        np.testing.assert_allclose(leaf, tensor, rtol=1e-10, atol=0, err_msg=path)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> tuple[Tree, list[Tree]]:
    """Returns random params and 200 random gradients of very different sizes."""
    rng = np.random.default_rng([len(request.node.name), *request.node.name.encode()])
    params = random_tree(rng)
    return params, [
        tree_map(lambda p: np.asarray(rng.standard_normal(p.shape) * 10 ** rng.uniform(-3, 1)), params)
        for _ in range(STEPS)
    ]


@pytest.mark.parametrize(
    "schedule", ["constant", *(pytest.param(name, marks=pytest.mark.slow) for name in SCHEDULES if name != "constant")]
)
@pytest.mark.parametrize("case", CASES)
def test_optimizers_agree_with_torch_after_200_steps(case: str, schedule: str, run: tuple[Tree, list[Tree]]) -> None:
    make, name, options = CASES[case]
    rate = SCHEDULES[schedule]
    assert_equal(ours(make(rate), *run), theirs(name, options, rate, *run))


@pytest.mark.parametrize("norm", [0.1, 5.0, 1e6])
def test_clip_by_global_norm_agrees_with_torch(norm: float, run: tuple[Tree, list[Tree]]) -> None:
    clipped = ours(clip_by_global_norm(sgd(0.01, momentum=0.9), norm), *run)
    assert_equal(clipped, theirs("SGD", {"momentum": 0.9}, 0.01, *run, norm=norm))


def test_optimizers_have_torch_defaults(run: tuple[Tree, list[Tree]]) -> None:
    cases: list[tuple[Callable[[], Optimizer], str]] = [
        (rmsprop, "RMSprop"),
        (adagrad, "Adagrad"),
        (adam, "Adam"),
        (adamw, "AdamW"),
    ]
    for make, name in cases:
        rate = getattr(torch.optim, name)([torch.zeros(1)]).param_groups[0]["lr"]
        assert_equal(ours(make(), *run), theirs(name, {}, rate, *run))
