"""Operators that compute what another one computes, in another way."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from fnn.checks.values import check_int
from fnn.combinators import wrap
from fnn.kernels.threads import cores, limit_blas, parallel_map
from fnn.op import Array, Op, OpError, Params, Vjp, operator
from fnn.random import Key
from fnn.tree import Tree, tree_items, tree_map, tree_sum


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
def check_finite(op: Op) -> Op:
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


SHARD_SIZE = 128
"""How many examples a shard holds at most, by default."""

ALONE = 64
"""Of more images or sequences than these two shards are made, by default; vectors are soon worked through."""


@operator
def shard(op: Op, workers: int | None = None, size: int | None = None) -> Op:
    """`op`, with its batch in shards of at most `size` examples, run by `workers` threads (as many as there are cores).

    By default a shard holds at most 128 examples, and a batch of more than 64 images or sequences is cut in two at
    least, so that two cores have work. On many cores a smaller size may serve better. The number of shards is a power
    of two, and they are of one size as nearly as can be. Outputs and input cotangents are put together, parameter
    cotangents are added up in pairs, and pairs of pairs: the order of that sum is the one thing that differs from `op`
    itself, and it depends on `size` and on the batch alone. Each shard folds its number into the key. `op` must treat
    the examples of a batch independently of one another. Params are those of `op`.

    Threads that have no shard take a part of the others' larger products and of their parameters' cotangents, which
    changes no bit.

    A shard is also the piece of work that stays in the processor's cache, so that shards pay on one core as well. While
    several threads work, BLAS should keep to one thread: set OPENBLAS_NUM_THREADS=1 before NumPy is imported, or
    install the extra `threads`, by which `shard` sees to it.
    """
    workers = cores() if workers is None else check_int("workers", workers, 1, OpError)
    most = SHARD_SIZE if size is None else check_int("size", size, 1, OpError)
    if workers > 1:
        limit_blas()

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        vectors = x.ndim == 2 and x.dtype.kind == "f"
        least = 2 if size is None and len(x) > ALONE and not vectors else 1
        return apply_in_shards(op, _numbered(len(x), most, least), workers, params, x, key)

    return wrap(op, apply)


def shard_slices(n: int, size: int, least: int = 1) -> list[slice]:
    """The shards of a batch of n: a power of two of slices, as equal as can be.

    They are as few as hold at most `size` each and are at least `least`.
    """
    count = 1
    while count * size < n or count < least:
        count *= 2
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


@lru_cache(maxsize=100)
def _numbered(n: int, size: int, least: int) -> dict[int, slice]:
    return dict(enumerate(shard_slices(n, size, least)))


def apply_in_shards(
    op: Op, shards: dict[int, slice], workers: int, params: Params, x: Array, key: Key | None
) -> tuple[Array, Vjp]:
    """`op` applied to `x` in these shards, by their numbers, which they fold into the key."""
    if len(shards) == 1:  # to a small net, all that follows would be a sixth of its step
        key = key and key.fold(*shards)
        if workers == 1:
            return op.apply(params, x, key)
        [(y, vjp)] = parallel_map(lambda i: op.apply(params, x, key), 1, workers)
        return y, lambda dy, need_dx=True: parallel_map(lambda i: vjp(dy, need_dx), 1, workers)[0]
    numbers, rows = list(shards), list(shards.values())

    def forward(i: int) -> tuple[Array, Vjp]:
        return op.apply(params, x[rows[i]], key and key.fold(numbers[i]))

    ys, vjps = zip(*parallel_map(forward, len(rows), workers), strict=True)

    def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
        def backward(i: int) -> tuple[Params, Array | None]:
            pair: tuple[Params, Array | None] = vjps[i](dy[rows[i]], need_dx)
            return pair

        grads, dxs = zip(*parallel_map(backward, len(rows), workers), strict=True)
        return tree_sum(grads), np.concatenate(dxs) if need_dx else None

    return np.concatenate(ys), pull


finite = check_finite
"""The old name of `check_finite`."""
