"""What every operator must pass: `check_op`, and the properties that it asks for."""

from collections.abc import Callable, Collection
from copy import deepcopy

import numpy as np

from fnn.checks.errors import describe
from fnn.checks.values import check_int, check_shape
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.op import Array, Op, Shape, check_operator
from fnn.random import Rng, as_key
from fnn.testing.accuracy import check_accuracy
from fnn.testing.case import Case, prepared
from fnn.testing.compare import agree, alike, checked, differ, frozen
from fnn.testing.interleave import in_step
from fnn.tree import Tree, tree_items, tree_leaves, tree_map


def check_op(
    op: Op,
    shape: Shape,
    rng: Rng = 0,
    *,
    batch: int = 3,
    x: Array | None = None,
    key: Rng | None = None,
    exempt: Collection[str] = (),
    constants: Collection[str] = (),
) -> float:
    """Checks that `op` is what an operator must be, for inputs of `shape`; returns its gradients' worst relative error.

    Raises CheckError, an AssertionError, for the first property that it lacks: "init" or one of `PROPERTIES`. Those in
    `exempt` are not asked for: what takes statistics over a batch has no "batch independence". `constants` are the
    paths of params, "batch_norm1/mean" or the like, whose gradients are to be zeros whatever they do to the output. The
    input is a `batch` of numbers drawn from `rng`, or `x` where not all numbers will do. What draws does so from `key`,
    or not at all. Raises ValueError for an input of another shape, and for names that nothing has.
    """
    if unknown := sorted(set(exempt) - set(PROPERTIES)):
        raise ValueError(f"exempt has {unknown}, wanted some of {list(PROPERTIES)}")
    shape = check_shape(shape, where=check_operator(op, "check_op").kind)
    rng, key = as_key(rng), None if key is None else as_key(key, "key")
    drawn = x is None
    if x is None:
        x = rng.fold("x").generator().standard_normal((check_int("batch", batch, 1), *shape))
    if not (isinstance(x, np.ndarray) and x.shape[:1] > (0,) and x.shape[1:] == shape):
        raise ValueError(f"x: expected an array of at least one example of shape {shape}, got {describe(x)}")
    case = checked(op.kind, "init", prepared, op, shape, rng, x, key)._replace(
        constants=frozenset(constants), drawn=drawn
    )
    if unknown := sorted(case.constants - dict(tree_items(case.params)).keys()):
        raise ValueError(f"constants has {unknown}, wanted some of {[path for path, _ in tree_items(case.params)]}")
    asked = [name for name in PROPERTIES if name not in exempt]
    return max((checked(op.kind, name, PROPERTIES[name], case) or 0.0 for name in asked), default=0.0)


def _call(case: Case) -> None:
    for floats in (np.float32, np.float64):
        case.cast(floats).results()  # with dicts of its own: "purity" is to see what is put into those of `case`


def _purity(case: Case) -> None:
    case = case.cast(np.float32)
    params = deepcopy(case.params)
    first = case.results()
    kept = deepcopy(first)
    agree(case.params, params, "as given, afterwards,")
    agree(case.results(), kept, "the second time")
    finish, finish_other = case.start(), case.rows(slice(None, None, -1)).start()
    finish_other()
    finish(times=2)
    agree(first, kept, "after later calls")
    agree(finish(), kept, "when vjps are called out of order, or twice")

    held, other = case.map(lambda a: a.copy()), case.map(lambda a: np.flip(a).copy())
    held.results()
    tree_map(lambda a, b: np.copyto(a.base, b), held.arrays(), other.arrays())
    agree(held.results(), other.results(), "when the same arrays hold other numbers")


def _shapes_and_dtypes(case: Case) -> None:
    predicted = case.op.output_shape(case.cast(np.float32).params, case.shape)
    if case.dy.shape != (len(case.x), *predicted):
        raise AssertionError(f"output has the shape {case.dy.shape}, but output_shape says {predicted} for an example")
    for floats in (np.float32, np.float64):
        these = case.cast(floats)
        wanted = {"output": these.dy, "params": these.params, "input": these.x.astype(floats)}
        alike(these.results(), wanted, f"for {these.dy.dtype}")


def _precision(case: Case) -> None:
    single = tree_map(lambda a: a.astype(float), case.cast(np.float32).results())
    agree(single, case.results(), "in float32", 1e-4, least=1)


def _float16(case: Case) -> None:
    half = case.cast(np.float16)
    with np.errstate(over="ignore"):  # a sum may be too large for float16, but a finite input never gives nan
        came = half.results()
        alike(came, {"output": half.dy, "params": half.params, "input": half.x.astype(half.dy.dtype)}, "for float16")
        if nans := [path for path, leaf in tree_items(came) if np.isnan(leaf).any()]:
            raise AssertionError(f"{nans[0]} for float16 has nan, expected finite numbers or infinity")
        if not case.op.is_composite:
            rounded = tree_map(lambda a: a.astype(np.float16), half.cast(np.float32).results())
            agree(came, rounded, "for float16, computed in float32 and rounded once,")


def _need_dx(case: Case) -> None:
    wanted = case.results()["params"]
    agree({"params": case.start()(need_dx=False)["params"]}, {"params": wanted}, "without need_dx", 1e-9)


def _empty_batch(case: Case) -> None:
    none = case.rows(slice(0, 0))
    zeros = {"output": none.dy, "params": tree_map(np.zeros_like, case.params), "input": none.x.astype(none.dy.dtype)}
    agree(none.results(), zeros, "for an empty batch")


ORDERS: dict[str, Callable[[Array], Array]] = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "batch innermost": lambda a: np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0) if a.ndim else a,
    "(W, C, H, N)": lambda a: from_wchn(to_wchn(a)) if a.ndim == 4 else a,
    "reversed and strided": lambda a: np.flip(np.repeat(np.flip(a)[..., None], 2, -1)[..., 1]),
}


def _memory_order(case: Case) -> None:
    wanted = case.results()
    for name, order in ORDERS.items():
        agree(case.map(order).results(), wanted, f"for {name} memory", 1e-9)


def _threads(case: Case) -> None:
    these = case.cast(np.float32)
    cases = [these, these.rows(slice(None, None, -1))]
    wanted = deepcopy([each.results() for each in cases])
    for run in in_step(*(each.results for each in cases)):
        for came, one in zip(run.results, wanted, strict=True):
            agree(came, one, "while another thread calls it")


def _key(case: Case) -> None:
    if case.op.takes_key and not case.op.needs_key:
        without = case._replace(key=None).results()
        for i in range(3):  # because a random operator may change nothing by chance
            agree(
                case._replace(key=case.rng.fold("key", i)).results(), without, "with a key, though needs_key is False,"
            )


def _gradient_in_params(case: Case) -> float:
    def gradients(came: Tree) -> dict[int, tuple[str, Array]]:
        found = dict(tree_items(came["params"]))
        zeros = {path: np.zeros_like(found[path]) for path in case.constants}
        agree({"params": {path: found[path] for path in zeros}}, {"params": zeros}, "of a constant")
        leaves = enumerate(tree_items(case.params), 1)
        moving = [(nth, path) for nth, (path, leaf) in leaves if leaf.dtype.kind == "f" and path not in zeros]
        return {nth: (f"params/{path}", found[path]) for nth, path in moving}

    return _gradient(case, gradients)


def _gradient_in_input(case: Case) -> float:
    def gradients(came: Tree) -> dict[int, tuple[str, Array]]:
        if case.x.dtype.kind == "f":
            return {0: ("input", came["input"])}
        agree({"input": came["input"]}, {"input": np.zeros(case.x.shape)}, "of integers")
        return {}

    return _gradient(case, gradients)


def _gradient(case: Case, gradients: Callable[[Tree], dict[int, tuple[str, Array]]]) -> float:
    """The worst error of these gradients, at the input as it is and at one full of equal numbers."""

    def output(point: list[Array]) -> Array:
        x, *leaves = point
        rest = iter(leaves)
        return case.op.apply(tree_map(lambda leaf: next(rest), case.params), x, case.key)[0]

    rng = case.rng.fold("directions").generator()
    equals = frozen(rng.choice(case.x.ravel()[:3], case.x.shape))
    return max(
        differ(output, [at.x, *tree_leaves(at.params)], at.dy, gradients(at.results()), rng)
        for at in (case, case._replace(x=equals))
    )


def _batch_independence(case: Case) -> None:
    batch, alone = len(case.x), case._replace(key=None)  # as what is drawn may depend on the size of the batch

    def row(came: Tree, at: int) -> Tree:
        return {name: a[at : at + 1] for name, a in came.items() if name != "params"}

    whole, drawn = alone.results(), case.results()
    for i in sorted({0, batch // 2, batch - 1}):
        one, many = (alone.rows([i] * times).results() for times in (1, batch))
        agree(row(one, 0), row(whole, i), f"of example {i} alone", 1e-9)
        agree(row(case.rows([i] * batch).results(), i), row(drawn, i), f"of example {i} in another batch", 1e-9)
        added = {"params": tree_map(lambda d: batch * d, one["params"])}
        agree({"params": many["params"]}, added, f"of example {i}, {batch} times over,", 1e-9, least=1e-3)


PROPERTIES: dict[str, Callable[[Case], float | None]] = {
    "call": _call,
    "purity": _purity,
    "shapes and dtypes": _shapes_and_dtypes,
    "precision": _precision,
    "float16": _float16,
    "need_dx": _need_dx,
    "empty batch": _empty_batch,
    "memory order": _memory_order,
    "threads": _threads,
    "key": _key,
    "gradient in params": _gradient_in_params,
    "gradient in input": _gradient_in_input,
    "batch independence": _batch_independence,
    "accuracy": check_accuracy,
}
"""What `check_op` asks for after "init", in that order."""
