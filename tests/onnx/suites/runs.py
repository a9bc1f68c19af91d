"""How to run cases that need more than the graph's net: other layouts, several outputs, losses, optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fnn import (
    Op,
    Params,
    adagrad,
    adam,
    attention,
    batch_norm,
    calibrate,
    cross_entropy,
    dropout,
    log_softmax,
    sgd,
    softmax,
)
from fnn.op import Array, Shape
from fnn.optim import Optimizer
from fnn.testing import check_loss
from tests.onnx.suites.cases import Case
from tests.onnx.suites.graph import chain, check_dtype, net_of, onnx, predicted
from tests.onnx.suites.layers import LAYERS, lookup


def _along_axis(op: Op) -> Callable[[Case], None]:
    """For operators of the last axis: moves the axis of the case there."""

    def run(case: Case) -> None:
        axis = case.get("axis", -1)
        case.agrees_with((op, {}), np.moveaxis(case.array(0), axis, -1), np.moveaxis(case.outputs[0], axis, -1))

    return run


def _gemm(case: Case) -> None:
    """Transposes the data here, because a net does not."""
    if case.get("transA", 0):
        case = replace(case, inputs=(case.array(0).T, *case.inputs[1:]), graph=_with(case.graph, transA=0))
    case.agrees_by_graph()


def _concat(case: Case) -> None:
    """fnn concatenates along axis 1, or axis 0 for a batch of one. Other axes become axis 1 here."""
    axis = case.get("axis") % case.array(0).ndim
    if axis > 1:
        inputs = tuple(case.array(n).swapaxes(1, axis) for n in range(len(case.inputs)))
        outputs = (case.outputs[0].swapaxes(1, axis),)
        case = replace(case, inputs=inputs, outputs=outputs, graph=_with(case.graph, axis=1))
    case.agrees_by_graph()


def _with(graph: Any, **attributes: int) -> Any:
    """Returns a copy of the graph with other attributes of its node."""
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    kept = [a for a in graph.node[0].attribute if a.name not in attributes]
    del copy.node[0].attribute[:]
    copy.node[0].attribute.extend([*kept, *(onnx.helper.make_attribute(*item) for item in attributes.items())])
    return copy


def _gather(case: Case) -> None:
    """Gather along any axis: an embedding whose rows are the slices along this axis."""
    axis, at = case.get("axis", 0), case.array(1)
    if at.min() < 0:
        raise case.refused("negative indices (fnn refuses them)")
    layer = chain(*lookup(np.moveaxis(case.array(0), axis, 0), at.shape[1:]))
    case.agrees_with(layer, at, np.moveaxis(case.outputs[0], range(axis, axis + at.ndim), range(at.ndim)))


def _dropout(case: Case) -> None:
    """In training, ONNX drops other numbers than fnn, so only the numbers that both keep are compared."""
    x = case.array(0)
    if not (case.has(2) and case.array(2)):
        case.agrees_by_graph()
        for mask in case.outputs[1:]:
            assert np.array_equal(predicted((dropout(0.5), {}), np.ones_like(x)) != 0, mask)
        return
    op = dropout(float(case.array(1)))
    ours = predicted((op, {}), np.ones_like(x), key=1) != 0
    both = ours & (case.outputs[1] if len(case.outputs) > 1 else case.outputs[0] != 0)
    assert both.any()
    assert not predicted((op, {}), x, key=1)[~ours].any()
    case.agrees_with((op, {}), x, case.outputs[0][both], lambda y: y[both], key=1)


def _batch_norm(case: Case) -> None:
    """In training, the running statistics must also agree with those of `calibrate`, averaged with the old ones."""
    if not case.get("training_mode", 0):
        case.agrees_by_graph()
        return
    x, w, b, *running = (case.array(n) for n in range(5))
    op = batch_norm(**case.options(eps="epsilon"))
    params = {"w": w, "b": b, "mean": running[0], "var": running[1]}
    case.agrees_with((op, params), x, case.outputs[0], key=0)
    found = calibrate(op, params, [x])
    numbers = x.size // x.shape[1]
    biased = found["var"] * (numbers - 1) / numbers
    momentum = case.get("momentum", 0.9)
    for old, new, wanted in zip(running, (found["mean"], biased), case.outputs[1:], strict=True):
        case.agrees((momentum * old + (1 - momentum) * new).astype(old.dtype), wanted)


def _layer_norm(case: Case) -> None:
    """Compares only the first output: fnn's operator does not return means and deviations."""
    case.agrees_by_graph()


def _mean_variance(case: Case) -> None:
    if tuple(case.get("axes", (0, 2, 3))) != (0, 2, 3):
        raise case.refused("other axes than those of a batch_norm")
    x = case.array(0)
    op = batch_norm(1e-9)
    case.agrees_with((op, op.init(0, x.shape[1:])), x, case.outputs[0], key=0)


def _maxpool(case: Case) -> None:
    """ONNX also outputs the positions of the maxima: the vjp has its ones there."""
    case.agrees_by_graph()
    if len(case.outputs) < 2:
        return
    x, wanted = case.array(0), case.outputs[1]
    net = net_of(case.graph, case.opset, {case.graph.input[0].name: x}, LAYERS)
    y, vjp = net.op.apply(net.params, x)
    places = []
    for i in range(y.size):
        one = np.zeros_like(y)
        one.flat[i] = 1
        places.append(np.argwhere(vjp(one)[1] == 1)[0])
    n, c, h, w = np.transpose(places)
    batch, channels, height, width = x.shape
    if case.get("storage_order", 0):
        found = np.ravel_multi_index((n, c, w, h), (batch, channels, width, height))
    else:
        found = np.ravel_multi_index((n, c, h, w), x.shape)
    assert np.array_equal(found.reshape(y.shape), wanted)


def _attention(case: Case) -> None:
    """softmax(scale q kᵀ) v for given q, k and v: they lie side by side in the features of one sequence.

    The maps of fnn's self-attention pick them out. A head of the case is the beginning of one of fnn's.
    """
    if case.has(3):
        raise case.refused("attn_mask (fnn has only the causal mask)")
    if case.has(6):
        raise case.refused("a number of keys for each example (fnn has one for the batch)")
    if case.get("softcap", 0.0) or case.get("score_mod") or case.get("prob_mod"):
        raise case.refused("scores or weights are changed on the way")
    if case.get("left_window_size", -1) >= 0 or case.get("right_window_size", -1) >= 0:
        raise case.refused("a window (fnn has none)")
    if len(case.outputs) > 3:
        raise case.refused("the scores are an output (a net has one)")
    check_dtype(case.array(0))
    if case.array(0).dtype == np.float16:
        raise case.refused("float16 (two roundings are more than the tolerance)")
    heads = [case.get(name) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    q, k, v = (_in_heads(case.array(n), heads[n]) for n in range(3))
    causal, offset = bool(case.get("is_causal", 0)), 0
    if case.has(4):  # the keys and values of earlier times
        offset = case.array(4).shape[2] if causal else 0
        k, v = np.concatenate([case.array(4), k], 2), np.concatenate([case.array(5), v], 2)
        for came, wanted in zip((k, v), case.outputs[1:], strict=True):
            case.agrees(came, wanted)

    batch, time, queries = len(q), k.shape[2], q.shape[2]
    parts = ceil((offset + queries) / time)  # more queries than keys are several examples with the same keys
    if causal and parts > 1:
        raise case.refused("more queries than keys")
    rows_q = np.zeros((batch, parts * time, q.shape[1] * q.shape[3]), q.dtype)
    rows_q[:, offset : offset + queries] = _in_rows(q)
    rows_k, rows_v = (np.repeat(_in_rows(a), parts, 0) for a in (k, v))
    params = _picking(q.shape, k.shape, v.shape, case.get("scale") or 1 / sqrt(q.shape[3]), q.dtype)
    x = np.zeros((batch * parts, time, len(params["bo"])), q.dtype)
    beside = np.concatenate([rows_q.reshape(*x.shape[:2], -1), rows_k, rows_v], 2)
    x[:, :, : beside.shape[2]] = beside

    def read(y: Array) -> Array:
        features = q.shape[1] * v.shape[3]
        return y.reshape(batch, parts * time, -1)[:, offset : offset + queries, :features]

    y = case.outputs[0]
    case.agrees_with((attention(q.shape[1], causal), params), x, y if y.ndim == 3 else _in_rows(y), read)


def _picking(q: Shape, k: Shape, v: Shape, scale: float, dtype: DTypeLike) -> Params:
    """The params of an attention over features that are those of q, k and v, of these shapes, and zeros.

    Each of its heads has as many features as all have on average, and uses the first of them. Several heads of q may
    share one of k and v. The output's features are those of the heads, and zeros.
    """
    heads, scored, valued, shared = q[1], q[3], v[3], q[1] // k[1]
    begin_k, begin_v, end = np.cumsum([heads * scored, k[1] * scored, v[1] * valued]).tolist()
    size = max(scored, valued, ceil(end / heads))
    apart = range(0, heads * size, size)

    def picked(rows: Iterable[int], columns: Iterable[int], width: int, factor: float = 1) -> Array:
        w = np.zeros((heads * size, heads * size), dtype)
        for row, column in zip(rows, columns, strict=True):
            w[row : row + width, column : column + width] = factor * np.eye(width)
        return w

    maps = {
        "wq": picked([head * scored for head in range(heads)], apart, scored, scale * sqrt(size)),
        "wk": picked([begin_k + head // shared * scored for head in range(heads)], apart, scored),
        "wv": picked([begin_v + head // shared * valued for head in range(heads)], apart, valued),
        "wo": picked(apart, [head * valued for head in range(heads)], valued),
    }
    return maps | {f"b{name}": np.zeros(heads * size, dtype) for name in "qkvo"}


def _in_heads(a: Array, heads: int | None) -> Array:
    """Reshapes (batch, time, heads * size) to (batch, heads, time, size); `heads=None` means that it has this shape."""
    return a if heads is None else a.reshape(*a.shape[:2], heads, -1).swapaxes(1, 2)


def _in_rows(a: Array) -> Array:
    """(batch, heads, time, size) to (batch, time, heads * size)."""
    return a.swapaxes(1, 2).reshape(a.shape[0], a.shape[2], -1)


def _cross_entropy(case: Case) -> None:
    """Removes ignored labels from the batch; without a reduction, each label is a batch."""
    if case.has(2):
        raise case.refused("class weights (fnn has none)")
    logits, labels = np.moveaxis(case.array(0), 1, -1), case.array(1)
    ignored = case.get("ignore_index")
    there = np.full(labels.shape, True) if ignored is None else labels != ignored
    kept = (logits, labels) if ignored is None else (logits[there], labels[there])
    if case.get("reduction", "mean") == "none":
        value = np.zeros(labels.shape, logits.dtype)
        pairs = zip(logits[there], labels[there], strict=True)
        value[there] = [cross_entropy(logit[None], label[None])[0] for logit, label in pairs]
    else:
        value = cross_entropy(*kept)[0]
        value = value * there.sum(dtype=value.dtype) if case.get("reduction") == "sum" else value
    case.agrees(value, case.outputs[0])
    check_loss(cross_entropy, *kept)
    for log_prob in case.outputs[1:]:
        case.agrees_with((log_softmax, {}), logits, np.moveaxis(log_prob, 1, -1))


def _log_likelihood(case: Case) -> None:
    raise case.refused("takes log-probabilities (fnn's losses take logits)")


def _descends(case: Case, optimizer: Optimizer, slots: tuple[str, ...], step: int) -> None:
    """Compares the parameters and these entries of the state after one more update."""
    _, _, *arrays = (case.array(n) for n in range(len(case.inputs)))
    count = len(arrays) // (2 + len(slots))
    trees = [{f"w{i}": arrays[first + i] for i in range(count)} for first in range(0, len(arrays), count)]
    params, grads, *memory = trees
    state = {**optimizer.init(params), "step": step, **dict(zip(slots, memory, strict=True))}
    params, state = optimizer.update(params, grads, state)
    came = [leaf for tree in (params, *(state[slot] for slot in slots)) for leaf in tree.values()]
    for leaf, wanted in zip(came, case.outputs, strict=True):
        case.agrees(leaf, wanted)


def _adam(case: Case) -> None:
    if case.get("norm_coefficient_post", 0.0):
        raise case.refused("a decay after the update")
    rate, t, b2 = float(case.array(0)), int(case.array(1)), case.get("beta", 0.999)
    # ONNX adds epsilon to a root that is still biased. At T = 0 it corrects no bias, as fnn does after many steps.
    eps = case.get("epsilon", 1e-6) / (sqrt(1 - b2**t) if t else 1)
    optimizer = adam(rate, case.get("alpha", 0.9), b2, eps, case.get("norm_coefficient", 0.0))
    _descends(case, optimizer, ("m", "v"), t - 1 if t else 10**6)


def _adagrad(case: Case) -> None:
    rate, step, decay = float(case.array(0)), int(case.array(1)), case.get("decay_factor", 0.0)
    optimizer = adagrad(
        lambda step: rate / (1 + step * decay), case.get("epsilon", 1e-6), case.get("norm_coefficient", 0.0)
    )
    _descends(case, optimizer, ("sum",), step)


def _momentum(case: Case) -> None:
    rate, t = float(case.array(0)), int(case.array(1))
    if t and case.get("beta") != 1:
        raise case.refused("gradients that are scaled on their way into the velocity")
    nesterov = case.get("mode") == "nesterov"
    _descends(case, sgd(rate, case.get("alpha"), nesterov, case.get("norm_coefficient")), ("velocity",), t)


RUNS: Mapping[str, Callable[[Case], None]] = {
    "Adagrad": _adagrad,
    "Adam": _adam,
    "Attention": _attention,
    "BatchNormalization": _batch_norm,
    "Concat": _concat,
    "Dropout": _dropout,
    "FlexAttention": _attention,
    "Gather": _gather,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _along_axis(log_softmax),
    "MaxPool": _maxpool,
    "MeanVarianceNormalization": _mean_variance,
    "Momentum": _momentum,
    "NegativeLogLikelihoodLoss": _log_likelihood,
    "Softmax": _along_axis(softmax),
    "SoftmaxCrossEntropyLoss": _cross_entropy,
}
"""Functions that run the cases of these types; the other types in `LAYERS` run by their graph."""

RELEVANT = sorted(LAYERS.keys() | RUNS.keys())
"""Types of nodes for which fnn has operators, losses or optimizers."""


def run(case: Case) -> None:
    """Raises AssertionError where fnn and the case disagree, and UnexpressibleError where there is no net."""
    if not all(array is None or isinstance(array, np.ndarray) for array in (*case.inputs, *case.outputs)):
        raise case.refused("a sequence or an optional (fnn has arrays)")
    if case.op_type in RUNS:
        RUNS[case.op_type](case)
    elif len(case.outputs) > 1:
        raise case.refused("several outputs (a net has one)")
    else:
        case.agrees_by_graph()
