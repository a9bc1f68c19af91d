"""Operators that compute what another one computes, in another way; and gradients example by example.

All but `per_example` have the params of the operator that they wrap, and its name as a part of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fnn.checks import MISSING, check_int
from fnn.combine import wrap
from fnn.grad import check_needs_no_key, value_and_grad
from fnn.losses import Loss, LossError
from fnn.op import Array, Op, OpError, Params, Vjp, operator, told
from fnn.random import Key, Rng, as_key
from fnn.tree import Tree, tree_items, tree_leaves, tree_map, tree_sum


@operator
def remat(op: Op) -> Op:
    """`op`, which keeps nothing but its input for the vjp: that applies it again, with the same key, to the same bits.

    A deep net as a `serial` of blocks, each in a `remat`, holds the blocks' inputs and the insides of one block at a
    time, for one more forward pass: of n layers, some 2√n in blocks of √n. Chen et al., "Training deep nets with
    sublinear memory cost", 2016.
    """

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            return op.apply(params, x, key)[1](dy, need_dx)

        return op.apply(params, x, key)[0], pull

    return wrap(op, apply)


@operator
def microbatch(op: Op, size: int) -> Op:
    """`op`, with its batch in pieces of `size` examples, the last one smaller, of which one at a time is in memory.

    Of several pieces nothing but the input is kept for the vjp, which applies `op` to each again. Outputs and input
    cotangents are put together, parameter cotangents added up in pairs, and pairs of pairs: orders of sums, this one
    and those of products of another size, are all that differs from `op` itself. Each piece folds its number into the
    key. `op` must treat the examples of a batch independently of one another.
    """
    size = check_int("size", size, 1, OpError)

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        pieces = [slice(i, i + size) for i in range(0, max(len(x), 1), size)]
        if len(pieces) == 1:
            return op.apply(params, x, key and key.fold(0))

        def forward(i: int) -> tuple[Array, Vjp]:
            return op.apply(params, x[pieces[i]], key and key.fold(i))

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dxs = []

            def grads() -> Iterator[Params]:
                for i, piece in enumerate(pieces):
                    dparams, dx = forward(i)[1](dy[piece], need_dx)
                    dxs.append(dx)
                    yield dparams

            dparams = tree_sum(grads())
            return dparams, np.concatenate(dxs) if need_dx else None

        return np.concatenate([forward(i)[0] for i in range(len(pieces))]), pull

    return wrap(op, apply)


@operator
def freeze(op: Op) -> Op:
    """`op`, whose params count as constants: their gradients are zeros. The input's gradient is as ever.

    Where nobody reads that either, as at the beginning of a net, the whole vjp is skipped: freeze what lies there as
    one, not part by part. What an optimizer does regardless of the gradient, such as decoupled weight decay, it does to
    frozen params too. Keys go through: with one, a frozen batch_norm still goes by the batch, and the net without the
    `freeze`, which has the same params, is the one to calibrate.
    """

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        y, vjp = op.apply(params, x, key)

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            zeros = tree_map(lambda leaf: np.zeros_like(leaf, subok=False), params)  # of a memmap, plain ones
            return zeros, vjp(dy, need_dx)[1] if need_dx else None

        return y, pull

    return wrap(op, apply)


@operator
def finite(op: Op) -> Op:
    """`op`, with an OpError, which has its path, as soon as a number of its output or in its vjp is no finite one.

    In the vjp that is one of the output's cotangent, of the gradients of the params or of the input's.
    """

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        y, vjp = op.apply(params, x, key)
        _check_finite("the output", y)

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            _check_finite("the output's cotangent", dy)
            dparams, dx = vjp(dy, need_dx)
            _check_finite("the gradient", dparams)
            if need_dx:
                _check_finite("the input's gradient", dx)
            return dparams, dx

        return y, pull

    return wrap(op, apply)


def _check_finite(what: str, tree: Tree) -> None:
    for path, leaf in tree_items(tree):
        if not np.isfinite(leaf).all():
            nans, infinities = np.count_nonzero(np.isnan(leaf)), np.count_nonzero(np.isinf(leaf))
            of = f" of {path}" if path else ""
            raise OpError(f"{what}{of} has {nans} nan and {infinities} infinite of {leaf.size} numbers, wanted none")


def per_example(net: Op, loss: Loss) -> Callable[..., tuple[tuple[Array, Array], Params]]:
    """The function `(params, x, y[, key]) -> ((values, outs), grads)`: `value_and_grad` for each example by itself.

    `values` are the examples' losses, `outs` the outputs, and `grads` is a tree like `params` whose arrays have the
    batch for a first axis; the mean over that is `value_and_grad`'s gradient. A batch of n costs what n batches of one
    do. Each example folds its number into the key. Raises OpError where a key is missing, as `value_and_grad` does, and
    LossError unless `y` has one target for each example of `x`, at least one. What is done with their norms: Abadi et
    al., "Deep learning with differential privacy", 2016.
    """
    one = value_and_grad(net, loss)

    def of(params: Params, x: Array, y: Array, key: Rng | None = MISSING) -> tuple[tuple[Array, Array], Params]:
        if key is MISSING:
            check_needs_no_key(net)
            key = None
        if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.shape[:1] == y.shape[:1] > (0,)):
            raise LossError(
                f"per_example: expected a target for each example, at least one, got {told(y)} for {told(x)}"
            )
        rng = None if key is None else as_key(key, "key")
        values, outs = [], []
        grads: Params = {}
        for i in range(len(x)):
            (value, out), own = one(params, x[i : i + 1], y[i : i + 1], rng and rng.fold(i))
            values.append(value)
            outs.append(out)
            grads = grads or tree_map(lambda g: np.empty((len(x), *g.shape), g.dtype), own)
            for each, g in zip(tree_leaves(grads), tree_leaves(own), strict=True):
                each[i] = g  # at once: to stack them in the end would be to hold them twice
        return (np.stack(values), np.concatenate(outs)), grads

    return of
