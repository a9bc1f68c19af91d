"""Weights to and from PyTorch: modules and nets have the same outputs, and errors list all mismatches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import (
    CheckpointError,
    Op,
    attention,
    avgpool,
    batch_norm,
    conv,
    conv_transpose,
    cross_entropy,
    dense,
    embedding,
    flatten,
    group_norm,
    layer_norm,
    load,
    maxpool,
    named,
    position_embedding,
    relu,
    repeat,
    residual,
    save,
    serial,
    sgd,
    tanh,
    value_and_grad,
)
from fnn.combinators import positionwise
from fnn.data import as_float, digits
from fnn.op import Array, Params
from fnn.torch.weights import from_torch, to_torch
from fnn.tree import tree_items, tree_map
from tests.support.strategies import seeds
from tests.support.trees import assert_same

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
nn = torch.nn
Module: Any = nn.Module

Shape = tuple[int, ...]


class Attention(Module):  # type: ignore[misc]
    """PyTorch's attention, which takes three inputs, as a module with one input."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(features, heads, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.inner(x, x, x, need_weights=False)[0]


class Residual(Module):  # type: ignore[misc]
    def __init__(self, *modules: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(*modules)

    def forward(self, x: Any) -> Any:
        return x + self.body(x)


class PositionEmbedding(Module):  # type: ignore[misc]
    def __init__(self, time: int, features: int) -> None:
        super().__init__()
        self.table = nn.Embedding(time, features)

    def forward(self, x: Any) -> Any:
        return x + self.table(torch.arange(x.shape[1]))


class UpDown(Module):  # type: ignore[misc]
    """Named modules that do not run in alphabetical order."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Any) -> Any:
        return self.down(torch.tanh(self.up(x)))


Pair = tuple[Op, Any, Shape]


def image_net() -> Pair:
    net = serial(
        *(conv(4, 3, padding=1, groups=2), batch_norm(), relu, maxpool(2)),
        *(conv(6, 3, dilation=2, padding=2, bias=False), group_norm(3), avgpool(2)),
        *(conv_transpose(3, 2, stride=2), layer_norm(2), conv_transpose(4, 3, bias=False), tanh),
        *(dense(8), batch_norm(), dense(7, bias=False), layer_norm(), dense(5)),
    )
    module = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, dilation=2, padding=2, bias=False), nn.GroupNorm(3, 6), nn.AvgPool2d(2)),
        *(nn.ConvTranspose2d(6, 3, 2, stride=2), nn.LayerNorm((4, 4)), nn.ConvTranspose2d(3, 4, 3, bias=False)),
        *(nn.Tanh(), nn.Flatten(), nn.Dropout()),
        *(nn.Linear(144, 8), nn.BatchNorm1d(8), nn.Linear(8, 7, bias=False), nn.LayerNorm(7), nn.Linear(7, 5)),
    )
    return net, module, (2, 8, 8)


def text_net() -> Pair:
    net = serial(
        *(embedding(11, 6), position_embedding()),
        residual(serial(layer_norm(), attention(2))),
        residual(serial(layer_norm(), positionwise(dense(9)), tanh, positionwise(dense(6)))),
        dense(3),
    )
    module = nn.Sequential(
        *(nn.Embedding(11, 6), PositionEmbedding(5, 6)),
        Residual(nn.LayerNorm(6), Attention(6, 2)),
        Residual(nn.LayerNorm(6), nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6)),
        *(nn.Flatten(), nn.Linear(30, 3)),
    )
    return net, module, (5,)


def nested_net() -> Pair:
    net = serial(repeat(serial(dense(4), tanh), 6), serial(), dense(4, bias=False))
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)]
    return net, nn.Sequential(nn.Sequential(*blocks), nn.Linear(4, 4, bias=False)), (4,)


def long_net() -> Pair:
    """Returns more than ten modules of one shape: 10 must come after 2, not before it."""
    module = nn.Sequential(*(part for _ in range(8) for part in (nn.Linear(4, 4), nn.Tanh())))
    return serial(*(part for _ in range(8) for part in (dense(4), tanh))), module, (4,)


def single_layer() -> Pair:
    return dense(3), nn.Linear(4, 3), (4,)


PAIRS = {make.__name__: make for make in (image_net, text_net, nested_net, long_net, single_layer)}


def make_pair(name: str, seed: int = 0, dtype: Any = None) -> Pair:
    """Returns the net with this name and the same net in PyTorch, with noise added."""
    torch.manual_seed(seed)
    net, module, shape = PAIRS[name]()
    return net, add_noise(module, dtype), shape


def add_noise(module: Any, dtype: Any = None) -> Any:
    """Adds noise to all numbers of the module, in evaluation mode; variances stay positive."""
    module = module.to(dtype or torch.float32).eval()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value += 0.3 * torch.randn(value.shape, dtype=value.dtype)
                if name.endswith("running_var"):
                    value.abs_().add_(0.5)
    return module


def random_batch(op: Op, shape: Shape, rng: np.random.Generator, batch: int = 4) -> Array:
    return (
        rng.integers(0, 11, (batch, *shape)) if op.integers else rng.standard_normal((batch, *shape)).astype(np.float32)
    )


def torch_outputs(module: Any, x: Array) -> Array:
    with torch.no_grad():
        out: Array = module(torch.from_numpy(np.array(x))).numpy()
    return out


def load_state(module: Any, state: dict[str, Array]) -> Any:
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return module


def read_only(params: Params) -> Params:
    def freeze(leaf: Array) -> Array:
        leaf.flags.writeable = False
        return leaf

    return tree_map(freeze, params)  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PAIRS)
def test_from_torch_and_to_torch_give_the_same_outputs(name: str, seed: int) -> None:
    (net, module, shape), rng = make_pair(name, seed), np.random.default_rng(seed)
    like, x = read_only(net.init(seed, shape)), random_batch(net, shape, rng)
    params = from_torch(module.state_dict(), like)
    np.testing.assert_allclose(net.apply(params, x)[0], torch_outputs(module, x), rtol=0, atol=1e-5)
    assert_same(params, from_torch(to_torch(params, module.state_dict()), like))
    changed = tree_map(lambda leaf: leaf + (0.3 * np.abs(rng.standard_normal(leaf.shape))).astype(np.float32), like)
    load_state(module, to_torch(read_only(changed), module.state_dict()))
    np.testing.assert_allclose(net.apply(changed, x)[0], torch_outputs(module, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_from_torch_and_to_torch_keep_float64_exactly(name: str) -> None:
    net, module, shape = make_pair(name, dtype=torch.float64)
    like = tree_map(lambda leaf: leaf.astype(float), net.init(0, shape))
    params = from_torch(module.state_dict(), like)
    state = to_torch(params, module.state_dict())
    for key, value in module.state_dict().items():
        assert state[key].dtype == value.numpy().dtype
        assert state[key].tobytes() == value.numpy().tobytes()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("how", ["torch", "numpy", "npz"])
def test_from_torch_and_to_torch_take_files(tmp_path: Path, name: str, how: str) -> None:
    from safetensors.torch import save_file

    net, module, shape = make_pair(name)
    state = module.state_dict()
    path = tmp_path / ("state.npz" if how == "npz" else "state.safetensors")
    if how == "torch":
        save_file(state, path)
    else:
        save(path, to_torch(from_torch(state, net.init(0, shape)), state))
    like = net.init(0, shape)
    assert_same(from_torch(path, like), from_torch(state, like))
    assert_same(from_torch(str(path), like), from_torch(state, like))
    params = from_torch(path, like)
    assert_same(dict(sorted(to_torch(params, path).items())), dict(sorted(to_torch(params, state).items())))


def test_to_torch_without_like_uses_the_names_of_nested_sequentials() -> None:
    net = serial(conv(2, 3), tanh, serial(batch_norm(), relu), flatten, dense(4), residual(dense(4)))
    module = nn.Sequential(
        *(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())),
        *(nn.Flatten(), nn.Linear(18, 4), nn.Sequential(nn.Linear(4, 4))),
    )
    state = to_torch(net.init(0, (1, 5, 5)))
    assert state.keys() == module.state_dict().keys()
    load_state(module, state)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in state.values())
    assert list(to_torch({})) == []
    assert list(to_torch(dense(3).init(0, (2,)))) == ["weight", "bias"]


@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_from_torch_and_to_torch_of_any_dense_layers_give_the_same_outputs(seed: int, features: int, out: int) -> None:
    rng = np.random.default_rng(seed)
    net, module = (
        serial(dense(out), tanh, dense(3)),
        nn.Sequential(nn.Linear(features, out), nn.Tanh(), nn.Linear(out, 3)),
    )
    params = tree_map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), net.init(0, (features,)))
    load_state(module, to_torch(params))
    x = random_batch(net, (features,), rng)
    np.testing.assert_allclose(net.apply(params, x)[0], torch_outputs(module, x), rtol=0, atol=1e-5)
    assert_same(from_torch(module.state_dict(), params), params)


def test_from_torch_and_to_torch_return_copies_with_the_memory_order_of_like() -> None:
    module, net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), serial(dense(3), batch_norm())
    like = tree_map(np.asfortranarray, net.init(0, (4,)))
    params, before = from_torch(module.state_dict(), like), torch_outputs(module.eval(), np.ones((1, 4), np.float32))
    assert params["dense1"]["w"].strides == like["dense1"]["w"].strides
    state = to_torch(params)
    for leaf in [*(leaf for _, leaf in tree_items(params)), *state.values()]:
        leaf[...] = 7
    assert np.array_equal(torch_outputs(module, np.ones((1, 4), np.float32)), before)
    assert np.all(params["dense1"]["w"] == 7)
    assert np.all(net.init(0, (4,))["dense1"]["w"] != 7)


def test_to_torch_takes_num_batches_tracked_from_like_or_zero() -> None:
    module, net = nn.Sequential(nn.BatchNorm1d(3)), serial(batch_norm())
    module(torch.ones(2, 3))
    params = net.init(0, (3,))
    for state, count in ((to_torch(params), 0), (to_torch(params, module.state_dict()), 1)):
        assert_same(state["0.num_batches_tracked"], np.array(count))


def test_from_torch_matches_layers_by_name_if_all_names_agree(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    module, path = add_noise(UpDown()), tmp_path / "state.safetensors"
    save_file(module.state_dict(), path)
    net = serial(named("up", dense(5)), tanh, named("down", dense(5)))
    like, x = net.init(0, (5,)), np.ones((2, 5), np.float32)
    for state in (path, load_file(path), module.state_dict()):  # in any order
        params = from_torch(state, like)
        np.testing.assert_allclose(net.apply(params, x)[0], torch_outputs(module, x), rtol=0, atol=1e-5)
    assert to_torch(params, path).keys() == module.state_dict().keys()
    other = serial(dense(5), tanh, dense(5)).init(0, (5,))
    assert np.array_equal(from_torch(module.state_dict(), other)["dense1"]["w"], params["up"]["w"])
    for unordered in (path, load_file(path), load(path)):
        assert faults_of(lambda state=unordered: from_torch(state, other)) == [  # type: ignore[misc]
            "down, up: expected numbers, our layers' names, or a dict in order, because a file loses the order",
        ]


def test_from_torch_keeps_the_position_of_a_named_module_among_numbered_ones() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module.add_module("head", nn.Linear(4, 4))
    net, x = serial(dense(4), tanh, dense(4), dense(4)), np.eye(4, dtype=np.float32)
    params = from_torch(add_noise(module).state_dict(), net.init(0, (4,)))
    np.testing.assert_allclose(net.apply(params, x)[0], torch_outputs(module, x), rtol=0, atol=1e-5)


def faults_of(use: Callable[[], object]) -> list[str]:
    with pytest.raises(CheckpointError) as raised:
        use()
    start, _, faults = str(raised.value).partition(": ")
    assert start == "the weights do not match"
    return faults.split("; ")


def test_from_torch_and_to_torch_list_all_mismatches_by_path() -> None:
    like = serial(conv(2, 3), batch_norm(), dense(4), dense(3)).init(0, (1, 5, 5))
    module = nn.Sequential(
        *(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2, affine=False), nn.Flatten()),
        *(nn.Linear(18, 4, bias=False), nn.Linear(4, 3).double()),
    )
    faults = [
        "'0.weight': expected float32 (2, 1, 3, 3) for 'conv1', got float32 (2, 1, 2, 2)",
        "'1.weight': expected float32 (2,) for 'batch_norm1', got nothing",
        "'1.bias': expected float32 (2,) for 'batch_norm1', got nothing",
        "'3.bias': expected float32 (4,) for 'dense1', got nothing",
        "'4.weight': expected float32 (3, 4) for 'dense2', got float64 (3, 4)",
        "'4.bias': expected float32 (3,) for 'dense2', got float64 (3,)",
    ]
    assert faults_of(lambda: from_torch(module.state_dict(), like)) == faults
    assert faults_of(lambda: to_torch(like, module.state_dict())) == faults


def test_from_torch_refuses_entries_without_a_layer(tmp_path: Path) -> None:
    like = serial(dense(3), dense(2)).init(0, (4,))
    norm = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(2))
    assert faults_of(lambda: from_torch(norm.state_dict(), like))[1:] == [
        "'1.running_mean': expected nothing for 'dense2', got float32 (2,)",
        "'1.running_var': expected nothing for 'dense2', got float32 (2,)",
    ]
    one = nn.Sequential(nn.Linear(4, 3))
    assert faults_of(lambda: from_torch(one.state_dict(), like)) == [
        "expected modules for 2 layers with weights (dense1, dense2), got 1 (0)"
    ]
    assert faults_of(lambda: from_torch(nn.GRU(2, 1, bias=False).state_dict(), like)) == [
        "'weight_ih_l0': expected an entry that our layers have, got float32 (3, 2)",
        "'weight_hh_l0': expected an entry that our layers have, got float32 (3, 1)",
    ]
    half = one.to(torch.bfloat16).state_dict()
    assert faults_of(lambda: from_torch(half, like))[0].startswith(
        "'0.weight': expected a dtype and shape that NumPy supports: "
    )
    single = dense(3).init(0, (4,))
    assert faults_of(lambda: from_torch({"weight": np.zeros((4, 3), np.float32)}, single)) == [
        "'weight': expected float32 (3, 4) for the net, got float32 (4, 3)",
        "'bias': expected float32 (3,) for the net, got nothing",
    ]
    dotted = serial(named("a.b", dense(3)), named("a", serial(named("b", dense(3))))).init(0, (3,))
    state = {"a.b.weight": np.zeros((3, 3), np.float32), "a.b.bias": np.zeros(3, np.float32)}
    assert faults_of(lambda: from_torch(state, dotted)) == [
        "expected modules for 2 layers with weights (a.b, a/b), got 1 (a.b)"
    ]
    odd: Any = {"a." * 121: 1, 0: np.zeros(3), "weight": [[1], [2, 3]]}
    *names, ragged = faults_of(lambda: from_torch(odd, single))
    assert names == [f"{name}: expected a str of at most 120 dots" for name in (f"'{'a.' * 39}a", "0")]
    assert ragged.startswith("'weight': expected a dtype and shape that NumPy supports: ")
    assert faults_of(lambda: from_torch({f"{'9' * 5000}.weight": np.zeros(3)}, single))[0].startswith("'999")
    assert faults_of(lambda: from_torch({"model": one.state_dict()}, like)) == [
        "'model': expected an entry that our layers have, got object ()"
    ]
    with pytest.raises(CheckpointError, match="expected a state dict or a file of one, got a Sequential"):
        from_torch(one, like)
    save(leaf := tmp_path / "leaf.pkl", np.zeros(3))
    with pytest.raises(CheckpointError, match=r"expected a state dict or a file of one, got float64 \(3,\)"):
        from_torch(leaf, like)
    with pytest.raises(CheckpointError, match=r"model\.pt: expected a suffix .*, got '\.pt'"):
        from_torch("model.pt", like)


def test_to_torch_refuses_params_without_a_module() -> None:
    zeros = np.zeros((2, 2), np.float32)
    params: Params = {
        "scale1": {"scale": zeros},
        "dense1": {"w": zeros, "b": 0.5},
        "mixed": {"w": zeros, "inner": {"w": zeros}},
        "attention1": {"wq": zeros, "wk": zeros, "wv": zeros[:1], "wo": zeros},
        "attention2": {f"w{letter}": np.array(0.5) for letter in "qkv"},
    }
    assert faults_of(lambda: to_torch(params)) == [
        "'scale1/scale': expected an entry that PyTorch's modules have, got float32 (2, 2)",
        "'dense1/b': expected an entry that PyTorch's modules have, got a float",
        "'mixed/inner': expected an entry that PyTorch's modules have, got a dict",
        "'attention1/wq': expected an entry that PyTorch's modules have, got float32 (2, 2)",
        "'attention1/wk': expected an entry that PyTorch's modules have, got float32 (2, 2)",
        "'attention1/wv': expected an entry that PyTorch's modules have, got float32 (1, 2)",
        *(f"'attention2/w{letter}': expected an entry that PyTorch's modules have, got float64 ()" for letter in "qkv"),
    ]
    assert faults_of(lambda: from_torch({}, params)) == faults_of(lambda: to_torch(params))
    message = "'params': expected an entry that PyTorch's modules have, got float32 (2, 2)"
    assert faults_of(lambda: to_torch(zeros)) == [message]  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "op"), [(3, embedding(3, 4)), (4, dense(4, bias=False)), (3, dense(4, bias=False))])
def test_from_torch_refuses_a_named_matrix_of_ambiguous_kind(n: int, op: Op) -> None:
    table = op.kind == "embedding"
    module = nn.Embedding(n, 4) if table else nn.Linear(n, 4, bias=False)
    like = serial(named("table", op)).init(0, (n,))
    expected = "a layer named dense1 or embedding1, because this array could be of either kind"
    ambiguous = f"'table/w': expected {expected}, got float32 ({n}, 4)"
    assert faults_of(lambda: to_torch(like))[0].startswith(ambiguous)
    if n == 4:
        assert faults_of(lambda: from_torch(module.state_dict(), like))[0].startswith(ambiguous)
        assert faults_of(lambda: to_torch(like, module.state_dict()))[0].startswith(ambiguous)
    else:
        w = from_torch(module.state_dict(), like)["table"]["w"]
        weight = module.weight.detach().numpy()
        assert np.array_equal(w, weight if table else weight.T)


@pytest.mark.parametrize(
    ("net", "module", "shape"),
    [
        (serial(embedding(4, 4)), nn.Sequential(nn.Embedding(4, 4)), (3,)),
        (serial(layer_norm(2)), nn.Sequential(nn.LayerNorm((4, 4))), (4, 4)),
        (layer_norm(2), nn.LayerNorm((4, 4)), (4, 4)),
    ],
)
def test_from_torch_does_not_transpose_square_tables(net: Op, module: Any, shape: Shape) -> None:
    state, like = add_noise(module).state_dict(), net.init(0, shape)
    x = random_batch(net, shape, np.random.default_rng(0)) % 4
    params = from_torch(state, like)
    np.testing.assert_allclose(net.apply(params, x)[0], torch_outputs(module, x), rtol=0, atol=1e-5)
    assert_same(to_torch(params), to_torch(params, state))


def test_from_torch_takes_an_out_proj_outside_attention_as_a_module() -> None:
    module = nn.Sequential()
    module.add_module("in_proj", nn.Linear(4, 4))
    module.add_module("out_proj", nn.Linear(4, 4))
    net, x = serial(dense(4), dense(4)), np.eye(4, dtype=np.float32)
    params = from_torch(add_noise(module).state_dict(), net.init(0, (4,)))
    np.testing.assert_allclose(net.apply(params, x)[0], torch_outputs(module, x), rtol=0, atol=1e-5)


def test_from_torch_refuses_a_file_without_biases_whose_order_is_lost(tmp_path: Path) -> None:
    zeros = np.zeros((4, 4), np.float32)
    save(tmp_path / "state.safetensors", {"up.weight": zeros, "down.weight": zeros})
    like = serial(dense(4, bias=False), dense(4, bias=False)).init(0, (4,))
    assert faults_of(lambda: from_torch(tmp_path / "state.safetensors", like))[0] == (
        "down, up: expected numbers, our layers' names, or a dict in order, because a file loses the order"
    )


def state_of(**modules: Any) -> dict[str, Any]:
    """Returns the state dict of a module with these modules as attributes, in this order."""
    return {f"{name}.{entry}": value for name, part in modules.items() for entry, value in part.state_dict().items()}


def assert_refused(state: Any, net: Op, shape: Shape, *faults: str) -> None:
    """Asserts that both directions raise these errors."""
    like = net.init(0, shape)
    assert faults_of(lambda: from_torch(state, like)) == list(faults)
    assert faults_of(lambda: to_torch(like, state)) == list(faults)


@pytest.mark.parametrize(
    ("name", "op", "expected", "named_like"),
    [
        ("conv1", conv_transpose(4, 3), "conv_transpose", "conv"),
        ("Conv2d_1", conv_transpose(4, 3), "conv_transpose", "conv"),
        ("deconv", conv(4, 3), "conv", "conv_transpose"),
        ("ConvTranspose2d", conv(4, 3), "conv", "conv_transpose"),
        ("conv_transpose1", conv(4, 3), "conv", "conv_transpose"),
        ("up", named("deconv", conv_transpose(4, 3)), "", ""),
        ("conv_transpose2", conv_transpose(4, 3), "", ""),
        ("conv2", conv(4, 3, groups=1), "", ""),
    ],
)
def test_from_torch_distinguishes_conv_from_conv_transpose_by_name(
    name: str, op: Op, expected: str, named_like: str
) -> None:
    net, state = serial(op), state_of(**{name: nn.Conv2d(4, 4, 3)})
    [path] = net.parts
    if expected:
        message = f"{name!r}: expected a name of kind {expected} for {path!r}, got one of {named_like}"
        assert_refused(state, net, (4, 6, 6), message, f"rename it if it is of kind {expected}")  # the name decides
    else:
        assert from_torch(state, net.init(0, (4, 6, 6)))[path]["w"].shape == (4, 4, 3, 3)


def test_from_torch_distinguishes_conv_from_conv_transpose_by_shape() -> None:
    state = state_of(a=nn.Conv2d(2, 4, 3))
    assert_refused(
        state,
        serial(conv_transpose(4, 3)),
        (2, 6, 6),
        "'a.weight': expected float32 (2, 4, 3, 3) for 'conv_transpose1', got float32 (4, 2, 3, 3)",
    )


def test_from_torch_distinguishes_dense_from_conv_1x1() -> None:
    assert_refused(
        state_of(a=nn.Linear(4, 4)),
        serial(conv(4, 1)),
        (4, 3, 3),
        "'a.weight': expected float32 (4, 4, 1, 1) for 'conv1', got float32 (4, 4)",
    )
    assert_refused(
        state_of(a=nn.Conv2d(4, 4, 1)),
        serial(dense(4)),
        (4,),
        "'a.weight': expected float32 (4, 4) for 'dense1', got float32 (4, 4, 1, 1)",
    )


NORMS = {
    "batch_norm": (batch_norm(), nn.BatchNorm1d(4)),
    "layer_norm": (layer_norm(), nn.LayerNorm(4)),
    "group_norm": (group_norm(1), nn.GroupNorm(1, 4)),
}
NORM_NAMES = {
    "batch_norm": ["bn1", "BatchNorm2d"],
    "layer_norm": ["ln", "LayerNorm"],
    "group_norm": ["gn2", "group_norm1"],
}


@pytest.mark.parametrize("torch_norm", NORMS)
@pytest.mark.parametrize("norm", NORMS)
def test_from_torch_distinguishes_norms_by_statistics_or_names(norm: str, torch_norm: str) -> None:
    op, module = NORMS[norm][0], NORMS[torch_norm][1]
    like = serial(op).init(0, (4,))
    for name in NORM_NAMES[torch_norm]:
        state = state_of(**{name: module})
        if norm == torch_norm:
            assert from_torch(state, like).keys() == like.keys()
            continue
        faults = faults_of(lambda state=state: from_torch(state, like))  # type: ignore[misc]
        if "batch_norm" in (norm, torch_norm):
            assert all("running_" in message for message in faults)
        else:
            assert faults[0] == f"{name!r}: expected a name of kind {norm} for '{norm}1', got one of {torch_norm}"
    without = state_of(bn1=nn.BatchNorm1d(4, track_running_stats=False))
    assert faults_of(lambda: from_torch(without, like))[0].startswith("'bn1")


def test_from_torch_distinguishes_embedding_from_dense_by_name() -> None:
    net = serial(dense(4, bias=False))
    assert_refused(
        state_of(embed=nn.Embedding(4, 4)),
        net,
        (4,),
        "'embed': expected a name of kind dense for 'dense1', got one of embedding",
        "rename it if it is of kind dense",
    )
    assert_refused(
        state_of(fc=nn.Linear(4, 4, bias=False)),
        serial(embedding(4, 4)),
        (2,),
        "'fc': expected a name of kind embedding for 'embedding1', got one of dense",
        "rename it if it is of kind embedding",
    )
    biased = state_of(embed=nn.Linear(4, 4))  # an Embedding has no bias
    assert from_torch(biased, serial(dense(4)).init(0, (4,))).keys() == {"dense1"}


@pytest.mark.parametrize("names", [("conv2", "conv1"), ("layer10", "layer2"), ("c_3", "c_2"), ("10", "head", "9")])
def test_from_torch_refuses_descending_numbers(names: tuple[str, ...]) -> None:
    net = serial(*(dense(4) for _ in names))
    state = state_of(**{name: nn.Linear(4, 4) for name in names})
    first, last = names[0], names[-1]
    order = "before {!r}, because the shapes match both orders, got the reverse"
    message = f"the state dict: expected {last!r} {order.format(first)}"
    assert_refused(state, net, (4,), message)
    blocks = state_of(**{name: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for name in names})
    assert_refused(blocks, serial(*(dense(4) for _ in names for _ in range(2))), (4,), message)
    inside = {f"net.body.{name}": value for name, value in state.items()}
    message = f"the state dict: expected 'net.body.{last}' {order.format(f'net.body.{first}')}"
    assert_refused(inside, net, (4,), message)


def test_from_torch_takes_descending_numbers_if_shapes_differ() -> None:
    net = serial(dense(5), tanh, dense(6), tanh, dense(7))
    state = state_of(up3=nn.Linear(4, 5), up2=nn.Linear(5, 6), up1=nn.Linear(6, 7))
    params = from_torch(state, net.init(0, (4,)))
    assert np.array_equal(params["dense3"]["w"].T, state["up1.weight"].numpy())


def test_from_torch_takes_names_that_count_from_zero() -> None:
    net = serial(dense(4), dense(4), dense(4))
    state = state_of(dense0=nn.Linear(4, 4), dense1=nn.Linear(4, 4), dense2=nn.Linear(4, 4))
    params = from_torch(state, net.init(0, (4,)))
    assert np.array_equal(params["dense1"]["w"].T, state["dense0.weight"].numpy())


def test_from_torch_takes_the_names_of_a_residual_net() -> None:
    def conv3() -> Any:
        return nn.Conv2d(4, 4, 3, padding=1)

    def layer() -> Any:
        return state_of(conv1=conv3(), bn1=nn.BatchNorm2d(4), conv2=conv3(), bn2=nn.BatchNorm2d(4))

    state = state_of(conv1=conv3())
    state |= {f"layer{i}.{j}.{name}": value for i in (1, 2) for j in (0, 1) for name, value in layer().items()}
    state |= state_of(fc=nn.Linear(144, 3))
    block = serial(conv(4, 3, padding=1), batch_norm(), relu, conv(4, 3, padding=1), batch_norm())
    net = serial(conv(4, 3, padding=1), repeat(residual(block), 4), dense(3))
    params = from_torch(state, net.init(0, (4, 6, 6)))
    assert np.array_equal(
        params["repeat1"]["residual3"]["serial1"]["conv2"]["w"], state["layer2.0.conv2.weight"].numpy()
    )


def test_from_torch_refuses_names_of_other_layers() -> None:
    net = serial(named("down", dense(5)), tanh, named("up", dense(5)), dense(5))
    state = state_of(up=nn.Linear(5, 5), down=nn.Linear(5, 5), head=nn.Linear(5, 5))
    assert_refused(
        state,
        net,
        (5,),
        "'up': expected the module for 'down' here, got the name of another layer",
        "'down': expected the module for 'up' here, got the name of another layer",
    )


def test_to_torch_refuses_params_whose_order_a_file_has_lost(tmp_path: Path) -> None:
    net = serial(named("up", dense(5)), tanh, named("down", dense(5)))
    params = net.init(0, (5,))
    numbered = to_torch(params)
    for suffix in ".npz", ".safetensors":
        save(tmp_path / f"params{suffix}", params)
    ordered, sorted_params = load(tmp_path / "params.npz"), load(tmp_path / "params.safetensors")
    assert_same(to_torch(ordered, numbered), numbered)
    message = ["the params: expected the net's order, got alphabetical order", "load them with like=..."]
    uses: list[Callable[[], object]] = [
        lambda: to_torch(sorted_params),
        lambda: to_torch(sorted_params, numbered),
        lambda: from_torch(numbered, sorted_params),
    ]
    for use in uses:
        assert faults_of(use) == message
    by_name = state_of(up=nn.Linear(5, 5), down=nn.Linear(5, 5))  # names need no order
    assert np.array_equal(from_torch(by_name, sorted_params)["up"]["w"].T, by_name["up.weight"].numpy())
    assert np.array_equal(to_torch(sorted_params, by_name)["up.weight"], params["up"]["w"].T)
    assert list(to_torch(sorted_params["up"])) == ["weight", "bias"]  # a single layer needs no order
    assert_same(to_torch(load(tmp_path / "params.safetensors", params)), numbered)


def test_to_torch_refuses_unordered_params_without_biases_by_their_numbers(tmp_path: Path) -> None:
    net = serial(*(dense(4, bias=False) for _ in range(11)))
    params = net.init(0, (4,))
    save(tmp_path / "params.safetensors", params)
    assert faults_of(lambda: to_torch(load(tmp_path / "params.safetensors"))) == [
        "the params: expected 'dense2' before 'dense11', because the shapes match both orders, got the reverse"
    ]
    assert_same(to_torch(load(tmp_path / "params.safetensors", params)), to_torch(params))


def test_from_torch_and_to_torch_keep_the_predictions_of_trained_nets() -> None:
    torch.manual_seed(0)
    net = serial(
        conv(6, 3, padding=1), maxpool(2), tanh, conv(12, 3, padding=1), maxpool(2), tanh, dense(32), tanh, dense(10)
    )
    module = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.MaxPool2d(2), nn.Tanh()),
        *(nn.Conv2d(6, 12, 3, padding=1), nn.MaxPool2d(2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(588, 32), nn.Tanh(), nn.Linear(32, 10)),
    )
    images, labels = digits(400, 0)
    x, trainer = as_float(images), torch.optim.SGD(module.parameters(), 0.1, 0.9)
    for i in 2 * [*range(0, 400, 50)]:
        trainer.zero_grad()
        nn.functional.cross_entropy(
            module(torch.from_numpy(x[i : i + 50])), torch.from_numpy(labels[i : i + 50])
        ).backward()
        trainer.step()
    params = from_torch(module.state_dict(), net.init(0, (1, 28, 28)))
    assert_same_predictions(net.apply(params, x)[0], torch_outputs(module, x))

    optimizer = sgd(0.1, momentum=0.9)
    state = optimizer.init(params)
    for i in range(0, 400, 50):
        _, grads = value_and_grad(net, cross_entropy)(params, x[i : i + 50], labels[i : i + 50])
        params, state = optimizer.update(params, grads, state)
    load_state(module, to_torch(params, module.state_dict()))
    assert_same_predictions(net.apply(params, x)[0], torch_outputs(module, x))


def assert_same_predictions(actual: Array, expected: Array) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    assert np.array_equal(actual.argmax(1), expected.argmax(1))
    assert len(np.unique(actual.argmax(1))) > 3
