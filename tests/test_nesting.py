"""Random nets of every operator and combinator: each is an operator, and what is to change no result changes none."""

from collections.abc import Callable
from functools import cache, partial
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from fnn import Key, Op, OpError, conv, dense, serial, tree_leaves, tree_map
from fnn.combine import named, parallel, repeat, residual, shared
from fnn.op import Array, Params, Shape, Vjp
from fnn.shard import shard
from fnn.testing import check_op
from fnn.testing.table import TABLE
from fnn.transform import finite, freeze, microbatch, remat

SHAPES: list[Shape] = [(5,), (3, 2), (1, 6, 5), (2, 4, 4)]
KEYED = ["finite", "freeze", "parallel", "remat", "repeat", "residual", "serial", "shared"]
REKEYED = ["microbatch", "named", "shard"]
"""Those that fold into the key what is not folded in without them, so that other things are drawn there."""


def _noise(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
    scale = np.ones(x.shape) if key is None else 1 + 0.1 * key.generator().standard_normal(x.shape)
    scale = scale.astype(x.dtype)
    return x * scale, lambda dy, need_dx=True: ({}, dy * scale)


noise = Op(lambda key, shape: {}, _noise, kind="noise", draws=True)
LEAVES = [noise, *(row.op for rows in TABLE.values() for row in rows if not row.op.parts and not row.exempt)]


class Net(NamedTuple):
    """A net, and the same one without remat, microbatch, shard and named; the shape of the output of both."""

    op: Op
    plain: Op
    shape: Shape

    def within(self, f: Callable[[Op], Op]) -> "Net":
        """The net in a combinator that keeps the shape."""
        return Net(f(self.op), f(self.plain), self.shape)


@cache
def leaves(shape: Shape, keep: bool) -> list[Net]:
    """The operators that take the shape, and with `keep` give it back."""
    takers = []
    for op in [*LEAVES, conv(shape[0], 3, padding=1) if len(shape) == 3 else dense(shape[0])]:
        try:
            takers.append(Net(op, op, op.output_shape(op.init(0, shape), shape)))
        except OpError:
            continue
    return [net for net in takers if net.shape == shape or not keep]


class Nets(NamedTuple):
    """Draws nets out of all operators and these combinators; with `keep`, such that give back the shape they take."""

    rng: Random
    combinators: list[str]

    def leaf(self, shape: Shape, keep: bool) -> Net:
        """An operator, every other time one with parameters."""
        some = leaves(shape, keep)
        with_params = [net for net in some if tree_leaves(net.op.init(0, shape))]
        return self.rng.choice(self.rng.choice([some, with_params or some]))

    def net(self, shape: Shape, depth: int, keep: bool = False) -> Net:
        """Any net, with combinators up to `depth` deep."""
        kind, few = self.rng.choice(["leaf", *self.combinators]) if depth else "leaf", self.rng.randint(1, 3)
        inner = partial(self.net, shape, depth - 1)
        match kind:
            case "leaf":
                return self.leaf(shape, keep)
            case "serial":
                return self.chain(shape, depth, few, keep)
            case "parallel":
                parts = [inner(keep=True) for _ in range(few)]
                if keep or self.rng.random() < 0.5:
                    return self.join(parallel, parts, shape)
                return self.join(partial(parallel, join="concat"), parts, (few * shape[0], *shape[1:]))
            case "residual":
                return inner(keep=True).within(residual)
            case "repeat" | "shared":
                return inner(keep=True).within(lambda op: {"repeat": repeat, "shared": shared}[kind](op, few))
            case "freeze" | "finite":
                return inner(keep).within({"freeze": freeze, "finite": finite}[kind])
        net = inner(keep)
        alike = {
            "named": lambda: named("own", net.op),
            "remat": lambda: remat(net.op),
            "microbatch": lambda: microbatch(net.op, few),
            "shard": lambda: shard(net.op, workers=self.rng.randint(1, 2), size=few),
        }
        return net._replace(op=alike[kind]())

    def chain(self, shape: Shape, depth: int, length: int, keep: bool = False) -> Net:
        """Any nets one after the other."""
        parts: list[Net] = []
        while len(parts) < length:
            parts.append(self.net(parts[-1].shape if parts else shape, depth - 1, keep))
        return self.join(serial, parts, parts[-1].shape)

    def join(self, f: Callable[..., Op], nets: list[Net], shape: Shape) -> Net:
        """The nets as parts of one; those with a name get another, which no other part has."""
        ops = [named(f"part{i}", net.op) if "named" in kinds(net.op) else net.op for i, net in enumerate(nets)]
        return Net(f(*ops), f(*(net.plain for net in nets)), shape)


def kinds(op: Op) -> set[str]:
    return {op.kind}.union(*map(kinds, op.parts.values()))


def outcome(op: Op, params: Params, x: Array, key: int | None) -> list[Array]:
    """The output, the input's gradient and those of the parameters, whatever their names."""
    y, vjp = op.apply(params, x, key)
    grads, dx = vjp(np.cos(y))
    return [y, dx, *tree_leaves(grads)]


@pytest.mark.filterwarnings("ignore:shard:RuntimeWarning")
def test_random_nets_are_operators_and_equal_themselves_without_what_changes_no_result() -> None:
    drawn: dict[str, set[str]] = {}

    @settings(max_examples=600, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32), st.sampled_from(SHAPES), st.integers(1, 4), st.booleans())
    def check(seed: int, shape: Shape, batch: int, rekeyed: bool) -> None:
        nets = Nets(Random(f"{seed} {shape} {batch}"), KEYED + REKEYED * rekeyed)
        net, key = nets.chain(shape, depth=3, length=2), nets.rng.choice([None, seed])
        note(repr(net.op))
        has = drawn[repr(net.op)] = kinds(net.op)
        denied = ["gradient in params"] if "freeze" in has else []
        check_op(net.op, shape, seed, batch=batch, key=key, exempt=denied)

        params = tree_map(lambda a: a.astype(np.float64), net.op.init(seed, shape))
        values = iter(tree_leaves(params))
        renamed = tree_map(lambda _: next(values), net.plain.init(seed, shape))
        x = np.random.default_rng(seed).standard_normal((batch, *shape))
        key = None if has & set(REKEYED) else key
        tolerance = 1e-9 if has & {"microbatch", "shard"} else 0
        for came, wanted in zip(outcome(net.op, params, x, key), outcome(net.plain, renamed, x, key), strict=True):
            np.testing.assert_allclose(came, wanted, rtol=0, atol=tolerance * np.abs(wanted).max(initial=0))

    check()
    assert len(drawn) >= 500
    assert set().union(*drawn.values()) == {*KEYED, *REKEYED, *(op.kind for op in LEAVES)}
