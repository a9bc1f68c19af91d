"""The property "accuracy": long sums in float32 compared with float64, in the memory orders that operators produce."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import numpy as np

from fnn.op import Array, Op, OpError, Params, Shape
from fnn.testing.case import ORDERS, Case, perturb
from fnn.testing.compare import read_only
from fnn.tree import tree_items, tree_leaves, tree_map, tree_size

# Largest error of a layer for random and for equal numbers, relative to the sum of magnitudes. Errors of equal numbers
# add up: BLAS has an error of up to 3e-6 for them, and adding 4,000 numbers one by one has about 3e-5.
RANDOM, EQUAL = 1e-6, 4e-6

NUMBERS = 1 << 15  # numbers in the input; fewer for an operator with parts, which may split its batch many times
EXAMPLES = 4096  # minimum number of small examples: adding that many one by one has an error above EQUAL
FEW = 4  # number of large examples; with 2, the input's gradient of batch_norm is a difference of nearly equal numbers
STEP = 1e-5  # change of a parameter for the derivative of the output; only a cotangent, so it may be inexact

# Input or a parameter, a position in it, the output's cotangent, and the expected gradient with its scale.
Trial = tuple[str, tuple[int, ...], Array, Array, float]


def check_accuracy(case: Case) -> None:
    """Compares the output and the gradients in float32 with float64: with many examples, and with large ones.

    Each layer may have an error of 1e-6 of its sums of magnitudes. The cotangents are chosen so that these sums are
    known: for a parameter, it is the derivative of the output. Then all terms of the gradient are positive.
    """
    for large, error in _enlarge(case):
        tolerance = error * (_count_layers(large) if error == RANDOM else _count_operators(large.op))
        y, vjp = large.op.apply(large.params, large.x, large.key)
        trials = [*_make_trials(large, y, vjp, of_params=error == EQUAL)]
        # Weights of both signs cancel. Without signs, the output is as large as the sum of its terms' magnitudes.
        unsigned = large.op.apply(tree_map(np.abs, large.params), large.x, large.key)[0]
        size = max(_largest(y), 0.0 if large.op.is_composite else _largest(unsigned))
        for arrange in (ORDERS["C"], ORDERS["(W, C, H, N)" if large.x.ndim == 4 else "batch innermost"]):
            single = large.map(arrange).cast(np.float32)
            where = f"for an input of shape {single.x.shape} and strides {single.x.strides}"
            y_single, vjp_single = single.op.apply(single.params, single.x, single.key)
            check_within(f"output {where}", y_single, y, tolerance * size)
            for name, at, dy, expected, scale in trials:
                dparams, dx = vjp_single(read_only(arrange(dy.astype(np.float32))), name == "input")
                gradient = dict(tree_items({"input": dx, "params": dparams}))[name][at]
                check_within(f"{name} {where}", gradient, expected, tolerance * scale)


def _make_trials(case: Case, y: Array, vjp: Callable[..., tuple[Params, Array]], of_params: bool) -> Iterator[Trial]:
    rng = case.rng.fold("accuracy").generator()
    if case.x.dtype.kind == "f" and case.x.size:
        positive = _round(rng.uniform(0.5, 1.5, y.shape))
        dx, signed = vjp(positive)[1], vjp(positive * rng.choice([-1.0, 1.0], y.shape))[1]
        scale = max(_largest(dx), _largest(signed))
        if scale > 1e-9:  # the normalised value of a single number is always 0
            yield "input", (), positive, dx, scale
    floats = {path: leaf for path, leaf in tree_items(case.params) if leaf.dtype.kind == "f" and leaf.size}
    paths = [path for path in floats if path not in case.constants] * of_params
    for path in paths * (2 if len(paths) < 3 else 1):
        at = tuple(int(rng.integers(n)) for n in floats[path].shape)
        moved = np.array(floats[path])  # a copy, also of a NumPy scalar
        moved[at] += STEP
        params = tree_map(lambda a, leaf=floats[path], moved=moved: moved if a is leaf else a, case.params)
        slope = (case.op.apply(params, case.x, case.key)[0] - y) / STEP
        dy = _round(slope * rng.uniform(0.5, 1.5))  # the slope of a bias is 1, and ones add up exactly
        if _largest(dy) > 1e-6 * _largest(y):  # some parameters have no effect, like the keys' bias in attention
            expected = dict(tree_items(vjp(dy, False)[0]))[path][at]
            yield f"params/{path}", at, dy, expected, abs(float(expected))


def _enlarge(case: Case) -> Iterator[tuple[Case, float]]:
    """Yields the case with many examples and, for an operator without parts, with larger ones; with the tolerance."""
    rng = case.rng.fold("enlarged").generator()
    size = max(4, prod(case.shape), prod(case.dy.shape[1:]))
    few, many = (NUMBERS >> 6, 0) if case.op.is_composite else (NUMBERS, min(EXAMPLES, (NUMBERS << 2) // size))
    batch = max(len(case.x), few // size, many)
    if not case.random:
        yield case.rows(rng.integers(len(case.x), size=batch).tolist()), EQUAL
        return
    cases = [(case.params, (batch, *case.shape), (2, *case.shape))]
    if not case.op.is_composite and (larger := _find_larger(case)):
        params, shape = larger
        cases.append((tree_map(_round, perturb(params, case.rng)), (FEW, *shape), (FEW, *[1] * (len(shape) - 1), 2)))
    for params, shape, halves in cases:
        long = -1 if halves[0] == FEW else 0  # all numbers in one half of this axis are equal
        half = np.arange(shape[long]) * 2 // shape[long]
        random, equal = rng.uniform(0.5, 1.5, shape), np.take(rng.uniform(0.5, 1.5, halves), half, long)
        for x, error in ((random, RANDOM), (np.broadcast_to(equal, shape), EQUAL)):
            yield case._replace(params=params, x=read_only(_round(x)), shape=shape[1:]), error


def _find_larger(case: Case) -> tuple[Params, Shape] | None:
    """Returns initial params and the largest shape that the operator takes, up to about 100,000 numbers, if any."""
    found, axes, factor = None, 2 if len(case.shape) > 2 else 1, 4
    while case.shape:
        shape = (*case.shape[:-axes], *(n * factor for n in case.shape[-axes:]))
        if not 0 < FEW * prod(shape) <= 2 * NUMBERS:
            break
        try:
            params = case.op.init(case.rng, shape)
        except OpError:
            break
        if tree_size(params) > NUMBERS:
            break
        found, factor = (params, shape), factor * 4
    return found


def _count_layers(case: Case) -> int:
    """Counts the layers whose errors add up: each weight with its bias, and each operator without params."""
    arrays: int = sum(leaf.dtype.kind == "f" for leaf in tree_leaves(case.params))
    return max(1, _count_operators(case.op), (arrays + 1) // 2)


def _count_operators(op: Op) -> int:
    times = int(op.config["n"]) if op.kind in ("repeat", "shared") else 1
    inside: int = sum(_count_operators(part) for _, part in op.inside())
    return times * inside if op.is_composite else 1


def check_within(name: str, result: Array, expected: Array, tolerance: float) -> None:
    """Raises AssertionError for the first number that differs by more than `tolerance`."""
    for index in np.argwhere(~(np.abs(result - expected) <= tolerance))[:1].tolist():
        found = f"expected {expected[tuple(index)]} within {tolerance:.1e}, got {result[tuple(index)]}"
        raise AssertionError(f"{name}: {found}; if it is a long sum in float32, use fnn.accurate_sum")


def _largest(x: Array) -> float:
    return float(np.abs(x).max(initial=0))


def _round(x: Array) -> Array:
    """Rounds floats to numbers that float32 can represent; they stay float64."""
    return x.astype(np.float32).astype(np.float64) if x.dtype.kind == "f" else x
