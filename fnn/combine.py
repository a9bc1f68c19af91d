"""Operators made of operators."""

from itertools import dropwhile

from fnn.op import Array, Op, Params, Shape, Vjp, locate, operator
from fnn.random import Key


@operator
def serial(*ops: Op) -> Op:
    """The operators one after the other; params are a dict of theirs, by kind and ordinal: `conv1`, `tanh1`, `conv2`…

    What a part draws, its initial values among it, depends on its name and not on its position.
    """
    parts = _by_name(ops)

    def init(key: Key, shape: Shape) -> Params:
        params = {}
        for name, op in parts.items():
            try:
                params[name] = op.init(key.fold(name), shape)
                shape = op.output_shape(params[name], shape)
            except Exception as error:
                locate(error, name)
                raise
        return params

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        vjps = []
        for name, op in parts.items():
            try:
                x, vjp = op.apply(params[name], x, key and key.fold(name))
            except Exception as error:
                locate(error, name)
                raise
            vjps.append((name, vjp))

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            grads: Params = {name: {} for name in parts}
            # Without need_dx, nobody reads what lies before the first part that has parameters.
            wanted = vjps if need_dx else list(dropwhile(lambda part: not params[part[0]], vjps))
            for name, vjp in reversed(wanted):
                grads[name], dy = vjp(dy, need_dx or name != wanted[0][0])
            return grads, dy if need_dx else None

        return x, pull

    return Op(init, apply, parts=parts, draws=True)


def _by_name(ops: tuple[Op, ...]) -> dict[str, Op]:
    """The operators under their kinds and ordinals."""
    counts: dict[str, int] = {}
    parts = {}
    for op in ops:
        counts[op.kind] = counts.get(op.kind, 0) + 1
        parts[f"{op.kind}{counts[op.kind]}"] = op
    return parts
