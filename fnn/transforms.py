"""Other ways to compute the same: with less memory, checks or several threads; and gradients of each example.

The operators here have the params of the operator that they wrap, and its name as a part of another operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np

from fnn.checks.errors import describe
from fnn.checks.losses import LossError, check_needs_no_key
from fnn.checks.values import MISSING, check_int
from fnn.combinators import wrap
from fnn.grad import value_and_grad
from fnn.kernels.process import blas_libraries, cores, limited_blas, parallel_map, warn_if_blas_is_unlimited
from fnn.losses import Loss
from fnn.op import Array, Op, OpError, Params, Vjp, operator
from fnn.ops.normalisation import keep_statistics
from fnn.random import Key, Rng, as_key
from fnn.tree import Tree, tree_items, tree_leaves, tree_map, tree_sum

T = TypeVar("T")

SHARD_SIZE = 128  # default maximum of examples in a shard
MIN_SPLIT = 64  # by default, a batch of more images or sequences than this has at least two shards


@operator
def remat(op: Op) -> Op:
    """Saves memory: keeps only the input for the vjp, which applies `op` again, with the same key and the same result.

    A deep net as a `serial` of blocks, each in a `remat`, keeps the inputs of the blocks and the insides of one block
    at a time, for the cost of one more forward pass. For n layers, blocks of about sqrt(n) layers need the least
    memory. Chen et al., "Training deep nets with sublinear memory cost", 2016.
    """

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        def vjp_remat(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            return op.apply(params, x, key)[1](dy, need_dx)

        return op.apply(params, x, key)[0], vjp_remat

    return wrap(op, apply)


@operator
def microbatch(op: Op, size: int) -> Op:
    """Saves memory: applies `op` to `size` examples at a time, and again in the vjp.

    Parameter gradients are added in pairs. So the result differs from that of `op` only in the order of sums. Each
    piece folds its number into the key. `op` must treat the examples of a batch independently.
    """
    size, again = check_int("size", size, 1, OpError), remat(op)

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        pieces = [slice(i, i + size) for i in range(0, max(len(x), 1), size)]
        if len(pieces) == 1:
            return op.apply(params, x, key and key.fold(0))
        ys, vjps = zip(*(again.apply(params, x[p], key and key.fold(i)) for i, p in enumerate(pieces)), strict=True)

        def vjp_pieces(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            dxs = []

            def grads() -> Iterator[Params]:
                for piece, vjp in zip(pieces, vjps, strict=True):
                    dparams, dx = vjp(dy[piece], need_dx)
                    dxs.append(dx)
                    yield dparams

            dparams = tree_sum(grads())
            return dparams, np.concatenate(dxs) if need_dx else None

        return np.concatenate(ys), vjp_pieces

    return wrap(op, apply)


@operator
def freeze(op: Op) -> Op:
    """Treats the params of `op` as constants: their gradients are zeros. The gradient of the input is as usual.

    At the beginning of a net, where nobody reads the input's gradient, the whole vjp is skipped; so freeze the first
    layers as one operator. Decoupled weight decay still changes frozen params. Keys go through: with a key, a frozen
    batch_norm uses the statistics of the batch. `calibrate` does not change frozen statistics.
    """

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        with keep_statistics():
            y, vjp = op.apply(params, x, key)

        def vjp_frozen(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            zeros = tree_map(lambda leaf: np.zeros_like(leaf, subok=False), params)  # plain arrays, also for a memmap
            return zeros, vjp(dy, need_dx)[1] if need_dx else None

        return y, vjp_frozen

    return wrap(op, apply)


@operator
def check_finite(op: Op) -> Op:
    """Raises OpError, with the path, on the first nan or infinity in the output of `op` or in its vjp.

    The vjp checks the cotangent of the output, the gradients of the params and that of the input.
    """

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        y, vjp = op.apply(params, x, key)
        _check_finite("output", y)

        def vjp_checked(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            _check_finite("cotangent of the output", dy)
            dparams, dx = vjp(dy, need_dx)
            _check_finite("gradient", dparams)
            if need_dx:
                _check_finite("gradient of the input", dx)
            return dparams, dx

        return y, vjp_checked

    return wrap(op, apply)


finite = check_finite
"""The old name of `check_finite`."""


def _check_finite(what: str, tree: Tree) -> None:
    for path, leaf in tree_items(tree):
        if not np.isfinite(leaf).all():
            nans, infinities = np.count_nonzero(np.isnan(leaf)), np.count_nonzero(np.isinf(leaf))
            where = f"{what} {path}".strip()
            raise OpError(f"{where}: expected finite numbers, got {nans} nan and {infinities} infinite of {leaf.size}")


def per_example(net: Op, loss: Loss) -> Callable[..., tuple[tuple[Array, Array], Params]]:
    """Returns the function `(params, x, y[, key]) -> ((values, outs), grads)`: `value_and_grad` for each example.

    `values` are the losses of the examples, `outs` the outputs. `grads` is a tree like `params`; its arrays have the
    batch as first axis, and the mean over that axis is the gradient of `value_and_grad`. A batch of n takes as long as
    n batches of one. Each example folds its number into the key. Raises OpError if a key is missing, and LossError
    unless there is a target for each example, at least one. A use: Abadi et al., "Deep learning with differential
    privacy", 2016.
    """
    gradient = value_and_grad(net, loss)

    def gradients(params: Params, x: Array, y: Array, key: Rng | None = MISSING) -> tuple[tuple[Array, Array], Params]:
        if key is MISSING:
            check_needs_no_key(net)
            key = None
        if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.shape[:1] == y.shape[:1] > (0,)):
            came = f"{describe(y)} for {describe(x)}"
            raise LossError(f"per_example: expected a target for each example, at least one, got {came}")
        rng = None if key is None else as_key(key, "key")
        values, outs = [], []
        grads: Params = {}
        for i in range(len(x)):
            (value, out), own = gradient(params, x[i : i + 1], y[i : i + 1], rng and rng.fold(i))
            values.append(value)
            outs.append(out)
            grads = grads or tree_map(lambda g: np.empty((len(x), *g.shape), g.dtype), own)
            for whole, g in zip(tree_leaves(grads), tree_leaves(own), strict=True):
                whole[i] = g
        return (np.stack(values), np.concatenate(outs)), grads

    return gradients


@operator
def shard(op: Op, workers: int | None = None, size: int | None = None) -> Op:
    """Cuts the batch into shards of at most `size` examples and runs them on `workers` threads (default: one per core).

    The number of shards is a power of two, and their sizes differ by at most one. By default a shard has at most 128
    examples, and a batch of more than 64 images or sequences has at least two shards. Parameter gradients are added in
    pairs, in a fixed order. So the result depends on `size` and the batch, but not on `workers`. Each shard folds its
    number into the key. `op` must treat the examples of a batch independently. Params are those of `op`.

    If `op` has a batch_norm, which needs the whole batch, a training batch is one shard. The threads then share the
    long work inside each layer, and the result is that of `op`.

    Shards pay on one core too, because the arrays of a shard stay in the processor's cache. BLAS is
    limited to one thread meanwhile, with the extra `threads`: `pip install '.[threads]'`. Without it, set
    OPENBLAS_NUM_THREADS=1 before you import NumPy.
    """
    workers = cores() if workers is None else check_int("workers", workers, 1, OpError)
    max_size = SHARD_SIZE if size is None else check_int("size", size, 1, OpError)
    if workers > 1:
        warn_if_blas_is_unlimited()

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        is_vectors = x.ndim == 2 and x.dtype.kind == "f"
        min_count = 2 if size is None and len(x) > MIN_SPLIT and not is_vectors else 1
        shards = dict(enumerate(shard_slices(len(x), max_size, min_count)))
        return apply_in_shards(op, shards, workers, params, x, key)

    return wrap(op, apply)


@lru_cache(maxsize=100)
def shard_slices(n: int, size: int, min_count: int = 1) -> list[slice]:
    """The shards of a batch of n: the smallest power of two of slices that is allowed, of equal size if possible.

    There are at least `min_count` slices, and each has at most `size` examples.
    """
    count = 1
    while count * size < n or count < min_count:
        count *= 2
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


def apply_in_shards(
    op: Op, shards: dict[int, slice], workers: int, params: Params, x: Array, key: Key | None
) -> tuple[Array, Vjp]:
    """Applies `op` to these slices of `x`. Each folds its number, its key in `shards`, into the random key."""
    if op.statistics and key is not None:  # batch_norm needs the statistics of all examples
        shards = {min(shards): slice(len(x))}
    if len(shards) == 1:  # without the work for several shards, which would be a tenth of a small net's step
        if workers == 1 and not blas_libraries():
            return op.apply(params, x, key and key.fold(*shards))
        y, vjp = _run(lambda i: op.apply(params, x, key and key.fold(*shards)), 1, workers)[0]
        return y, lambda dy, need_dx=True: _run(lambda i: vjp(dy, need_dx), 1, workers)[0]
    numbers, rows = list(shards), list(shards.values())
    results = _run(lambda i: op.apply(params, x[rows[i]], key and key.fold(numbers[i])), len(rows), workers)
    ys, vjps = zip(*results, strict=True)

    def vjp_shards(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
        grads, dxs = zip(*_run(lambda i: vjps[i](dy[rows[i]], need_dx), len(rows), workers), strict=True)
        return tree_sum(grads), np.concatenate(dxs) if need_dx else None

    return np.concatenate(ys), vjp_shards


def _run(f: Callable[[int], T], n: int, workers: int) -> list[T]:
    """`parallel_map` with BLAS limited to one thread."""
    if not blas_libraries():  # BLAS has one thread anyway, as in `train.py`
        return parallel_map(f, n, workers)
    with limited_blas():
        return parallel_map(f, n, workers)
