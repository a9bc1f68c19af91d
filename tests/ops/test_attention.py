"""Attention compared with its formula, and which positions it reads."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnn import Op, OpError, attention, tree_map
from fnn.op import Array, Params
from fnn.testing import check_op
from tests.support.strategies import seeds, slow_unless

SEQUENCES = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)


def drawn(op: Op, features: int) -> Params:
    """Returns params with biases other than zero."""
    rng = np.random.default_rng(0)
    params: Params = tree_map(lambda a: rng.standard_normal(a.shape), op.init(0, (1, features)))
    return params


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 5), st.booleans(), st.integers(1, 3), seeds)
def test_check_op_of_attention(heads: int, size: int, time: int, causal: bool, batch: int, seed: int) -> None:
    check_op(attention(heads, causal=causal), (time, heads * size), seed, batch=batch, exempt=slow_unless(seed))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_its_formula_for_each_head(causal: bool) -> None:
    op, x = attention(2, causal=causal), SEQUENCES[0].astype(float)
    params = drawn(op, 6)
    q, k, v = (x @ params[f"w{name}"] + params[f"b{name}"] for name in "qkv")
    heads = []
    for columns in slice(0, 3), slice(3, 6):
        scores = np.exp(q[:, columns] @ k[:, columns].T / np.sqrt(3))
        scores *= np.tri(5) if causal else 1
        heads.append(scores / scores.sum(1, keepdims=True) @ v[:, columns])
    wanted = np.concatenate(heads, 1) @ params["wo"] + params["bo"]
    np.testing.assert_allclose(op.apply(params, x[None])[0][0], wanted, atol=1e-12)


@pytest.mark.parametrize("at", range(5))
def test_attention_causal_reads_only_earlier_positions(at: int) -> None:
    changed = SEQUENCES.astype(float)
    changed[:, at] += 1
    for causal in False, True:
        op = attention(2, causal=causal)
        params = drawn(op, 6)
        before, after = op.apply(params, SEQUENCES.astype(float))[0], op.apply(params, changed)[0]
        assert np.array_equal(before[:, :at], after[:, :at]) is (causal or at == 0)
        assert not np.isclose(before[:, at:], after[:, at:]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attention_of_large_scores_is_finite(dtype: type) -> None:
    op = attention(2, causal=True)
    params = tree_map(lambda a: a.astype(dtype), drawn(op, 6))
    y, vjp = op.apply(params, SEQUENCES.astype(dtype) * dtype(1e6))
    gradients, dx = vjp(np.ones_like(y))
    assert all(np.isfinite(a).all() for a in (y, dx, *gradients.values()))


def test_attention_params_have_conventional_shapes() -> None:
    shapes = {name: leaf.shape for name, leaf in attention(2).init(0, (5, 6)).items()}
    assert shapes == {f"w{name}": (6, 6) for name in "qkvo"} | {f"b{name}": (6,) for name in "qkvo"}


@pytest.mark.parametrize("heads", [0, -1, 2.0, "2"])
def test_attention_refuses_bad_numbers_of_heads(heads: Any) -> None:
    with pytest.raises(OpError) as caught:
        attention(heads)
    assert str(caught.value) == f"attention: heads: expected an int of at least 1, got {heads!r}"


@pytest.mark.parametrize("shape", [(6,), (5, 5), (5, 0), (1, 5, 6)])
def test_attention_init_refuses_bad_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(OpError) as caught:
        attention(2).init(0, shape)
    assert str(caught.value) == f"attention: expected shape (time, features) with a multiple of 2 features, got {shape}"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (SEQUENCES[0], "expected shape (batch, time, 6), got (5, 6); for one example use x[None]"),
        (SEQUENCES[:, :, :4], "expected 6 input features, got 4"),
        (SEQUENCES.astype(float), "expected float32 input as the params are, got float64; use x.astype(np.float32)"),
    ],
)
def test_attention_refuses_bad_inputs(x: Array, message: str) -> None:
    op = attention(2)
    with pytest.raises(OpError) as caught:
        op.apply(op.init(0, (5, 6)), x)
    assert str(caught.value) == f"attention: {message}"


@pytest.mark.parametrize("causal", [None, False, True])
def test_attention_reads_later_positions_unless_it_is_causal(causal: bool | None) -> None:
    op = attention(2) if causal is None else attention(2, causal)
    params = op.init(0, (5, 6))
    changed = SEQUENCES.copy()
    changed[:, -1] += 1
    before, after = (op.apply(params, x)[0][:, 0] for x in (SEQUENCES, changed))
    assert np.array_equal(before, after) == bool(causal)


def test_attention_with_one_head_takes_any_number_of_features() -> None:
    assert attention(1).output_shape(attention(1).init(0, (2, 5)), (2, 5)) == (2, 5)
    with pytest.raises(OpError, match=r"^attention: expected shape \(time, features\), got \(5,\)$"):
        attention(1).init(0, (5,))


def test_attention_refuses_params_of_another_layer() -> None:
    op = attention(2)
    params = {**op.init(0, (5, 6)), "wk": np.zeros((6, 3), np.float32)}
    with pytest.raises(OpError) as caught:
        op.apply(params, SEQUENCES)
    assert str(caught.value) == "attention: wk: expected shape (6, 6), got float32 (6, 3)"


def test_attention_refuses_zero_features() -> None:
    none = {name: leaf[..., :0][:0] for name, leaf in attention(2).init(0, (5, 6)).items()}
    with pytest.raises(OpError, match=r"^attention: expected params for a multiple of 2 features, got 0$"):
        attention(2).apply(none, np.zeros((4, 5, 0), np.float32))


def test_attention_skips_dx_without_need_dx() -> None:
    op = attention(2)
    y, vjp = op.apply(op.init(0, (5, 6)), SEQUENCES)
    assert vjp(y, False)[1] is None
