"""The accuracy property: long sums in float32 against float64, in the memory orders that operators produce."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import numpy as np

from fnn.kernels.memory import from_wchn, to_wchn
from fnn.op import Array, Op, OpError, Params, Shape
from fnn.testing.case import Case, move
from fnn.testing.compare import frozen
from fnn.tree import tree_items, tree_leaves, tree_map, tree_size

RANDOM, EQUAL = 1e-6, 4e-6
"""Largest error of one layer, relative to the sum of magnitudes, where the numbers are random or mostly equal.

Errors of random numbers cancel in part, those of equal numbers add up. Then BLAS is wrong by up to 3e-6, and a sum of
4,000 numbers one after the other by some 3e-5.
"""

NUMBERS = 1 << 15
"""How many numbers an operator is given; one made of parts gets fewer, as it may split its batch into many pieces."""

EXAMPLES = 4096
"""So many examples at least, unless they are large: their naive sum is wrong by more than `EQUAL`."""

STEP = 1e-5
"""How far a parameter is moved for the derivative of the output, which may be inexact: it is only a cotangent."""

FEW = 4
"""How many large examples: with two, the input's gradient of a batch_norm is a difference of nearly equal numbers."""

ORDERS: tuple[Callable[[Array], Array], ...] = (
    np.ascontiguousarray,
    lambda a: (
        from_wchn(to_wchn(a)) if a.ndim == 4 else np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0) if a.ndim else a
    ),
)
"""Copies arrays into the memory orders that operators produce: C order, and the batch innermost."""


def check_accuracy(case: Case) -> None:
    """Compares the output and the gradients in float32 with float64: for many examples, and for large ones if possible.

    The error may be 1e-6 of the sum of magnitudes for each layer. So cotangents are chosen for which this sum is known.
    A parameter's cotangent is the derivative of the output with respect to it: all terms of its gradient are positive.
    """
    for large, error in _enlarge(case):
        tolerance = error * (_count_layers(large) if error == RANDOM else _count_operators(large.op))
        y, vjp = large.op.apply(large.params, large.x, large.key)
        trials = [*_trials(large, y, vjp, of_params=error == EQUAL)]
        # Weights of both signs cancel. Without signs, the output is as large as its terms.
        unsigned = large.op.apply(tree_map(np.abs, large.params), large.x, large.key)[0]
        size = max(_largest(y), 0.0 if large.op.is_composite else _largest(unsigned))
        for arrange in ORDERS:
            single = large.map(arrange).cast(np.float32)
            where = f"for an input of shape {single.x.shape} and strides {single.x.strides}"
            y_single, vjp_single = single.op.apply(single.params, single.x, single.key)
            compare("output", where, y_single, y, tolerance * size)
            for path, at, dy, expected, scale in trials:
                dparams, dx = vjp_single(frozen(arrange(dy.astype(np.float32))), path is None)
                came = dx if path is None else dict(tree_items(dparams))[path][at]
                compare("input" if path is None else f"params/{path}", where, came, expected, tolerance * scale)


Trial = tuple[str | None, tuple[int, ...], Array, Array, float]
"""A parameter's path (None: the input) and the position in it, a cotangent, the gradient expected, and its scale."""


def _trials(case: Case, y: Array, vjp: Callable[..., tuple[Params, Array]], of_params: bool) -> Iterator[Trial]:
    rng = case.rng.fold("accuracy").generator()
    if case.x.dtype.kind == "f" and case.x.size:
        positive = _round(rng.uniform(0.5, 1.5, y.shape))
        dx, signed = vjp(positive)[1], vjp(positive * rng.choice([-1.0, 1.0], y.shape))[1]
        size = max(_largest(dx), _largest(signed))
        if size > 1e-9:  # the norm of a single number is 0 whatever the number
            yield None, (), positive, dx, size
    floats = {path: leaf for path, leaf in tree_items(case.params) if leaf.dtype.kind == "f" and leaf.size}
    paths = [path for path in floats if path not in case.constants] * of_params
    for path in paths * (2 if len(paths) < 3 else 1):
        at = tuple(int(rng.integers(n)) for n in floats[path].shape)
        slope = (case.op.apply(_shift(case.params, path, at, STEP), case.x, case.key)[0] - y) / STEP
        dy = _round(slope * rng.uniform(0.5, 1.5))  # that of a bias is 1, and ones add up exactly
        if _largest(dy) <= 1e-6 * _largest(y):
            continue  # the parameter has no effect, as that of the keys' bias in attention
        expected = dict(tree_items(vjp(dy, False)[0]))[path][at]
        yield path, at, dy, expected, abs(float(expected))


def _enlarge(case: Case) -> Iterator[tuple[Case, float]]:
    """The case with more examples, and one without parts with larger examples if it takes any; and the tolerances."""
    rng = case.rng.fold("enlarged").generator()
    size = max(4, prod(case.shape), prod(case.dy.shape[1:]))
    few, many = (NUMBERS >> 6, 0) if case.op.is_composite else (NUMBERS, min(EXAMPLES, (NUMBERS << 2) // size))
    batch = max(len(case.x), few // size, many)
    if not case.drawn:
        yield case.rows(rng.integers(len(case.x), size=batch).tolist()), EQUAL
        return
    cases = [(case.params, (batch, *case.shape), (2, *case.shape))]
    if not case.op.is_composite and (larger := _larger(case)):
        params, shape = larger
        cases.append((tree_map(_round, move(params, case.rng)), (FEW, *shape), (FEW, *[1] * (len(shape) - 1), 2)))
    for params, shape, halves in cases:
        random = rng.uniform(0.5, 1.5, shape)
        yield case._replace(params=params, x=frozen(_round(random)), shape=shape[1:]), RANDOM
        long = -1 if halves[0] == FEW else 0  # along this axis, the numbers of each half are equal
        half = np.arange(shape[long]) * 2 // shape[long]
        equal = np.broadcast_to(np.take(rng.uniform(0.5, 1.5, halves), half, long), shape)
        yield case._replace(params=params, x=frozen(_round(equal)), shape=shape[1:]), EQUAL


def _larger(case: Case) -> tuple[Params, Shape] | None:
    """The largest shape with some 100,000 numbers that the operator takes, if any, and its initial params there."""
    found, axes, factor = None, 2 if len(case.shape) > 2 else 1, 4
    while True:
        shape = (*case.shape[:-axes], *(n * factor for n in case.shape[-axes:]))
        if not 0 < FEW * prod(shape) <= 2 * NUMBERS or not case.shape:
            return found
        try:
            params = case.op.init(case.rng, shape)
        except OpError:
            return found
        if tree_size(params) > NUMBERS:
            return found
        found, factor = (params, shape), factor * 4


def _count_layers(case: Case) -> int:
    """How many layers' errors may add up: one for each weight and its bias, and for each operator without params."""
    weights: int = sum(leaf.dtype.kind == "f" for leaf in tree_leaves(case.params))
    return max(1, _count_operators(case.op), -(-weights // 2))


def _count_operators(op: Op) -> int:
    times = int(op.config["n"]) if op.kind in ("repeat", "shared") else 1
    inside: int = sum(_count_operators(part) for _, part in op.inside())
    return times * inside if op.is_composite else 1


def _shift(params: Params, path: str, at: tuple[int, ...], step: float) -> Params:
    """The params with `step` added to one number."""
    name, _, rest = path.partition("/")
    if rest:
        return params | {name: _shift(params[name], rest, at, step)}
    leaf = np.array(params[name])
    leaf[at] += step
    return params | {name: frozen(leaf)}


def compare(what: str, where: str, came: Array, expected: Array, tolerance: float) -> None:
    """Raises AssertionError for the first number that differs by more than `tolerance`."""
    came, expected = np.asarray(came), np.asarray(expected)
    wrong = ~(np.abs(came - expected) <= tolerance)
    for index in np.argwhere(wrong)[:1].tolist():
        at = tuple(index)
        raise AssertionError(
            f"{what} {where}: expected {expected[at]} up to {tolerance:.1e}, got {came[at]}; does it add many numbers "
            "in float32? fnn.accurate_sum adds exactly"
        )


def _largest(x: Array) -> float:
    return float(np.abs(x).max(initial=0))


def _round(x: Array) -> Array:
    """`x` in float64, rounded to what float32 can hold. Integers stay."""
    return x.astype(np.float32).astype(np.float64) if x.dtype.kind == "f" else x
