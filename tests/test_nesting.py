"""Random nets of every operator and combinator pass `check_op`; remat, microbatch, shard and named change no result."""

from collections.abc import Callable
from functools import cache, partial
from math import prod
from random import Random, SystemRandom
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import settings

from fnn import (
    Key,
    Op,
    OpError,
    attention,
    check_finite,
    conv,
    conv_transpose,
    dense,
    embedding,
    freeze,
    microbatch,
    named,
    parallel,
    position_embedding,
    positionwise,
    remat,
    repeat,
    reshape,
    residual,
    serial,
    shard,
    shared,
    tree_items,
    tree_leaves,
    tree_map,
)
from fnn.op import Array, Params, Shape, Vjp
from fnn.testing import check_op
from fnn.testing.compare import check_equal
from fnn.testing.table import TABLE
from fnn.tree import Tree

SHAPES: list[Shape] = [(5,), (3, 2), (4, 3), (1, 6, 5), (2, 4, 4)]
KEYED = ["check_finite", "freeze", "parallel", "positionwise", "remat", "repeat", "residual", "serial", "shared"]
REKEYED = ["microbatch", "named", "shard"]
"""Wrappers that fold a name or number into the key, so that random numbers differ from those without the wrapper."""

SYMBOLS, MOST = 5, 150


def _noise(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
    scale = np.ones(x.shape) if key is None else 1 + 0.1 * key.generator().standard_normal(x.shape)
    scale = scale.astype(x.dtype)
    return x * scale, lambda dy, need_dx=True: ({}, dy * scale)


def smooth(op: Op) -> bool:
    """Whether central differences work: the normalised value of two numbers is nearly a step unless eps is large."""
    return bool(op.config.get("eps", 1) >= 0.1)


noise = Op(lambda key, shape: {}, _noise, kind="noise", takes_key=True)
TABLED = [row.op for rows in TABLE.values() for row in rows if not row.op.is_composite and smooth(row.op)]
LEAVES = [noise, *(op for op in TABLED if not op.integers)]


class Net(NamedTuple):
    """A net, and the same one without remat, microbatch, shard and named; the shape of the output of both."""

    op: Op
    plain: Op
    shape: Shape

    def within(self, f: Callable[[Op], Op]) -> "Net":
        """The net in a combinator that keeps the shape."""
        return Net(f(self.op), f(self.plain), self.shape)


def fitted(shape: Shape) -> list[Op]:
    """Returns operators for the shape; most of them keep it."""
    match len(shape):
        case 3:
            return [conv(shape[0], 3, padding=1), conv_transpose(shape[0], 3, padding=1), reshape(*shape[::-1])]
        case 2:
            return [attention(1, causal=True), position_embedding(), positionwise(dense(shape[1])), reshape(1, *shape)]
    return [dense(shape[0]), reshape(-1, 1)]


@cache
def leaves(shape: Shape, keep: bool) -> list[Net]:
    """Returns the operators that take the shape and, with `keep`, return it."""
    takers = []
    for op in [*LEAVES, *fitted(shape)]:
        try:
            takers.append(Net(op, op, op.output_shape(op.init(0, shape), shape)))
        except OpError:
            continue
    return [net for net in takers if (net.shape == shape if keep else prod(net.shape) <= MOST)]


@cache
def with_params(shape: Shape, keep: bool) -> list[Net]:
    """Returns those that have parameters."""
    return [net for net in leaves(shape, keep) if tree_leaves(net.op.init(0, shape))]


class Nets(NamedTuple):
    """Draws nets from all operators and these combinators. With `keep`, their output has the shape of the input.

    `favourite` is a kind of operator or combinator that is drawn more often than the others.
    """

    rng: Random
    combinators: list[str]
    favourite: str

    def leaf(self, shape: Shape, keep: bool) -> Net:
        """Draws an operator: any, one with parameters, or the favourite, with equal probability."""
        some = leaves(shape, keep)
        favourites = [net for net in some if net.op.kind == self.favourite]
        return self.rng.choice(self.rng.choice([some, with_params(shape, keep) or some, favourites or some]))

    def net(self, shape: Shape, depth: int, keep: bool = False, symbols: bool = False) -> Net:
        """Draws a net with combinators up to `depth` deep; with `symbols`, it embeds integers into the shape."""
        kind, few = self.rng.choice(["leaf", *self.combinators]) if depth else "leaf", self.rng.randint(1, 3)
        if depth and self.favourite in self.combinators:
            kind = self.rng.choice([kind, self.favourite])
        inner = partial(self.net, shape, depth - 1, symbols=symbols)
        if (symbols and kind in ("residual", "repeat", "shared")) or (kind == "positionwise" and len(shape) < 2):
            kind = "leaf"
        match kind:
            case "leaf" if symbols:
                op = embedding(SYMBOLS, shape[-1])
                return Net(op, op, shape)
            case "leaf":
                return self.leaf(shape, keep)
            case "serial":
                return self.chain(shape, depth, few, keep, symbols)
            case "parallel":
                parts = [inner(keep=True) for _ in range(few)]
                if keep or self.rng.random() < 0.5:
                    return self.join(parallel, parts, shape)
                return self.join(partial(parallel, join="concat"), parts, (few * shape[0], *shape[1:]))
            case "positionwise":
                net = self.net(shape[1:], depth - 1, keep, symbols)
                return net.within(positionwise)._replace(shape=(shape[0], *net.shape))
            case "residual":
                return inner(keep=True).within(residual)
            case "repeat" | "shared":
                return inner(keep=True).within(lambda op: {"repeat": repeat, "shared": shared}[kind](op, few))
            case "freeze" | "check_finite":
                return inner(keep).within({"freeze": freeze, "check_finite": check_finite}[kind])
        net = inner(keep)
        alike = {
            "named": lambda: named("own", net.op),
            "remat": lambda: remat(net.op),
            "microbatch": lambda: microbatch(net.op, few),
            "shard": lambda: shard(net.op, workers=self.rng.randint(1, 2), size=few),
        }
        return net._replace(op=alike[kind]())

    def chain(self, shape: Shape, depth: int, length: int, keep: bool = False, symbols: bool = False) -> Net:
        """Draws a chain of nets."""
        parts: list[Net] = []
        while len(parts) < length:
            before = parts[-1].shape if parts else shape
            parts.append(self.net(before, depth - 1, keep, symbols and not parts))
        return self.join(serial, parts, parts[-1].shape)

    def join(self, f: Callable[..., Op], nets: list[Net], shape: Shape) -> Net:
        """Joins the nets; named ones get another, unique name."""
        ops = [named(f"part{i}", net.op) if "named" in kinds(net.op) else net.op for i, net in enumerate(nets)]
        return Net(f(*ops), f(*(net.plain for net in nets)), shape)


def kinds(op: Op) -> set[str]:
    return {op.kind}.union(*(kinds(part) for _, part in op.inside()))


def constants(op: Op, params: Params, path: str = "") -> list[str]:
    """Returns the paths of the params without gradient: frozen ones, and the statistics of batch_norm."""
    if op.kind == "freeze":
        return [path + name for name, _ in tree_items(params)]
    if op.kind == "batch_norm":
        return [f"{path}mean", f"{path}var"]
    found = []
    for names, part in op.inside():
        found += constants(part, params[names[0]] if names else params, path + "".join(f"{name}/" for name in names))
    return found


def outcome(op: Op, params: Params, x: Array, key: int | None) -> Tree:
    """Returns the output, the input's gradient, and the gradients of the parameters without names."""
    y, vjp = op.apply(params, x, key)
    grads, dx = vjp(np.cos(y))
    return {"output": y, "input": dx, "params": dict(enumerate(tree_leaves(grads)))}


KINDS = sorted({"noise", *TABLE})
EACH = 14
"""Nets for each kind: 532 for 38 kinds."""

RUN = 0 if settings().derandomize else SystemRandom().randrange(2**32)
"""The same nets each time, or others with `--hypothesis-profile=hunt`.

Hypothesis itself draws none of them: it takes some numbers from the source code of all modules that are loaded.
"""


class Drawn(NamedTuple):
    """A net and its arguments."""

    net: Net
    shape: Shape
    x: Array
    key: int | None
    seed: int


def draw(kind: str, number: int) -> Drawn:
    """Draws a net that probably contains an operator of that kind."""
    rng = Random(f"{RUN} {kind} {number}")
    seed, shape, batch = rng.randrange(2**32), rng.choice(SHAPES), rng.randint(1, 4)
    rekeyed, symbols = kind in REKEYED or rng.random() < 1 / 2, kind == "embedding" or rng.random() < 1 / 6
    net = Nets(rng, KEYED + REKEYED * rekeyed, kind).chain(shape, depth=3, length=2, symbols=symbols)
    numbers, taken = np.random.default_rng(seed), shape[:-1] if symbols else shape
    x = numbers.integers(0, SYMBOLS, (batch, *taken)) if symbols else numbers.standard_normal((batch, *taken))
    key, has = rng.choice([None, seed]), kinds(net.op)
    if "batch_norm" in has and (batch == 1 or "microbatch" in has):
        key = None  # batch_norm does not train on one example, nor on pieces of one
    return Drawn(net, taken, x, key, seed)


@cache
def drawn(kind: str, count: int = EACH) -> list[Drawn]:
    """Returns different nets that contain an operator of that kind; a smaller count returns the first of them."""
    found: dict[str, Drawn] = {}
    for number in range(100 * EACH):
        one = draw(kind, number)
        if kind in kinds(one.net.op):
            found.setdefault(repr(one.net.op), one)
        if len(found) == count:
            break
    return list(found.values())


@pytest.mark.slow
def test_random_nets_are_500_with_every_kind_of_operator() -> None:
    nets = {repr(one.net.op): kinds(one.net.op) for kind in KINDS for one in drawn(kind)}
    assert len(nets) >= 500
    assert set().union(*nets.values()) == {"noise", *TABLE}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:shard:RuntimeWarning")
def test_check_op_of_a_random_net(kind: str) -> None:
    check_nets(drawn(kind, 1), threads=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:shard:RuntimeWarning")
def test_check_op_of_more_random_nets(kind: str) -> None:
    check_nets(drawn(kind)[1:], threads=1)


def check_nets(nets: list[Drawn], threads: int) -> None:
    """Checks the nets; for the first `threads` of them also the property "threads"."""
    for nth, one in enumerate(nets):
        try:
            check(*one, threads=nth < threads)
        except Exception as error:
            error.add_note(f"in the net {one.net.op!r}")
            raise


def check(net: Net, shape: Shape, x: Array, key: int | None, seed: int, threads: bool) -> None:
    """Checks that the net is an operator and gives the same results without remat, microbatch, shard and named."""
    has, init = kinds(net.op), net.op.init(seed, shape)
    # Long sums are in the operators, which have their own tests: for 500 nets they take a minute. So do the threads.
    exempt = ["accuracy"] if threads else ["accuracy", "threads"]
    exempt += ["batch independence"] if "batch_norm" in has and key is not None else []
    check_op(net.op, shape, seed, x=x, key=key, exempt=exempt, constants=constants(net.op, init))

    params = tree_map(lambda a: a.astype(np.float64) + 0.01, init)  # moved, so that no batch_norm is uncalibrated
    values = iter(tree_leaves(params))
    renamed = tree_map(lambda _: next(values), net.plain.init(seed, shape))
    key = None if has & set(REKEYED) else key
    tolerance = 1e-9 if has & {"microbatch", "shard"} else 0
    check_equal(outcome(net.op, params, x, key), outcome(net.plain, renamed, x, key), "of the other", tolerance)
