"""`check_op`, and the properties that every operator must have."""

from collections.abc import Callable, Collection
from copy import deepcopy
from functools import partial

import numpy as np

from fnn.checks.errors import describe
from fnn.checks.values import check_int, check_shape
from fnn.op import Array, Op, Shape, check_operator
from fnn.random import Rng, as_key
from fnn.testing.accuracy import check_accuracy
from fnn.testing.case import ORDERS, Case, prepare_case
from fnn.testing.compare import check_equal, check_form, check_gradients, read_only, run_check
from fnn.testing.interleave import run_in_step
from fnn.tree import Tree, tree_items, tree_map


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
    """Checks an operator with inputs of `shape`; returns the largest relative error of its gradients.

    Raises CheckError, an AssertionError, for the first failed check: "init" or one of `PROPERTIES`. `exempt` lists
    properties to leave out, for example "batch independence" for statistics over a batch. `constants` lists the paths
    of params, like "batch_norm1/mean", whose gradients must be zeros whatever their effect on the output. The input is
    random, with `batch` examples; pass `x` if only some numbers are valid. Random operators use `key`. Raises
    ValueError for an input of another shape and for unknown names.
    """
    if unknown := sorted(set(exempt) - PROPERTIES.keys()):
        raise ValueError(f"exempt: expected some of {list(PROPERTIES)}, got {unknown}")
    shape = check_shape(shape, where=check_operator(op, "check_op").kind)
    rng, key = as_key(rng), None if key is None else as_key(key, "key")
    random = x is None
    if x is None:
        x = rng.fold("x").generator().standard_normal((check_int("batch", batch, 1), *shape))
    if not (isinstance(x, np.ndarray) and x.shape[:1] > (0,) and x.shape[1:] == shape):
        raise ValueError(f"x: expected an array of at least one example of shape {shape}, got {describe(x)}")
    case = run_check(op.kind, "init", prepare_case, op, shape, rng, x, key)
    paths = [path for path, _ in tree_items(case.params)]
    if unknown := sorted(set(constants) - set(paths)):
        raise ValueError(f"constants: expected some of {paths}, got {unknown}")
    case = case._replace(constants=frozenset(constants), random=random)
    checks = {name: check for name, check in PROPERTIES.items() if name not in exempt}
    return max((run_check(op.kind, name, check, case) or 0.0 for name, check in checks.items()), default=0.0)


def _call(case: Case) -> None:
    for dtype in (np.float32, np.float64):
        case.cast(dtype).results()  # of copied dicts: "purity" finds changes of the dicts of `case`


def _purity(case: Case) -> None:
    case = case.cast(np.float32)
    params = deepcopy(case.params)
    first = case.results()
    copy = deepcopy(first)
    check_equal(case.params, params, "of the given params, after a call")
    check_equal(case.results(), copy, "in a second call")
    finish, finish_other = case.start(), case.rows(slice(None, None, -1)).start()
    finish_other()
    finish(times=2)
    check_equal(first, copy, "after later calls")
    check_equal(finish(), copy, "if vjps are called out of order, or twice")

    reused, other = case.map(lambda a: a.copy()), case.map(lambda a: np.flip(a).copy())
    reused.results()
    tree_map(lambda a, b: np.copyto(a.base, b), reused.arrays(), other.arrays())
    check_equal(reused.results(), other.results(), "if the same arrays contain other numbers")


def _shapes_and_dtypes(case: Case) -> None:
    predicted = (len(case.x), *case.op.output_shape(case.cast(np.float32).params, case.shape))
    if case.dy.shape != predicted:
        raise AssertionError(f"output: expected shape {predicted}, as output_shape says, got {case.dy.shape}")
    for cast in (case.cast(np.float32), case.cast(np.float64)):
        _check_forms(cast, cast.results())


def _check_forms(case: Case, results: Tree) -> None:
    expected = {"output": case.dy, "params": case.params, "input": case.x.astype(case.dy.dtype)}
    check_form(results, expected, f"for {case.dy.dtype}")


def _precision(case: Case) -> None:
    single = tree_map(lambda a: a.astype(float), case.cast(np.float32).results())
    check_equal(single, case.results(), "in float32", 1e-4, least=1)


def _float16(case: Case) -> None:
    half = case.cast(np.float16)
    with np.errstate(over="ignore"):  # a sum may be too large for float16, but finite inputs must not give nan
        results = half.results()
        _check_forms(half, results)
        if nans := [path for path, leaf in tree_items(results) if np.isnan(leaf).any()]:
            raise AssertionError(f"{nans[0]} for float16: expected finite numbers or infinity, got nan")
        if not case.op.is_composite:
            rounded = tree_map(lambda a: a.astype(np.float16), half.cast(np.float32).results())
            check_equal(results, rounded, "for float16, computed in float32 and rounded once")


def _need_dx(case: Case) -> None:
    expected = {"params": case.results()["params"]}
    check_equal({"params": case.start()(need_dx=False)["params"]}, expected, "with need_dx=False", 1e-9)


def _empty_batch(case: Case) -> None:
    none = case.rows(slice(0, 0))
    zeros = {"output": none.dy, "params": tree_map(np.zeros_like, case.params), "input": none.x.astype(none.dy.dtype)}
    check_equal(none.results(), zeros, "for an empty batch")


def _memory_order(case: Case) -> None:
    expected = case.results()
    for name, arrange in ORDERS.items():
        check_equal(case.map(arrange).results(), expected, f"in memory order {name}", 1e-9)


def _threads(case: Case) -> None:
    single = case.cast(np.float32)
    cases = [single, single.rows(slice(None, None, -1))]
    expected = deepcopy([each.results() for each in cases])
    for run in run_in_step(*(each.results for each in cases)):
        for results, alone in zip(run.results, expected, strict=True):
            check_equal(results, alone, "while another thread calls the operator")


def _key(case: Case) -> None:
    if case.op.takes_key and not case.op.needs_key:
        without = case._replace(key=None).results()
        for i in range(3):  # a random operator may change nothing by chance
            results = case._replace(key=case.rng.fold("key", i)).results()
            check_equal(results, without, "with a key, though needs_key is False")


def _gradients(case: Case, of: str) -> float:
    """Returns the largest error of the gradients of "input" or "params", also at an input with many equal numbers."""

    def output(point: list[Array]) -> Array:
        leaves = iter(point[1:])
        return case.op.apply(tree_map(lambda leaf: next(leaves), case.params), point[0], case.key)[0]

    worst, rng = 0.0, case.rng.fold("directions").generator()
    equal = case._replace(x=read_only(rng.choice(case.x.ravel()[:3], case.x.shape)))
    constant = {f"params/{path}" for path in case.constants} | ({"input"} if case.x.dtype.kind != "f" else set())
    for at in (case, equal):
        point = dict(tree_items({"input": at.x, "params": at.params}))
        gradients = dict(tree_items({of: at.results()[of]}))
        zeros = {path: d for path, d in gradients.items() if path in constant}
        check_equal(zeros, tree_map(np.zeros_like, zeros), "of a constant")
        floats = [(nth, path) for nth, (path, a) in enumerate(point.items()) if a.dtype.kind == "f"]
        moving = {nth: (path, gradients[path]) for nth, path in floats if path in gradients.keys() - constant}
        worst = max(worst, check_gradients(output, [*point.values()], at.dy, moving, rng))
    return worst


def _batch_independence(case: Case) -> None:
    def row(results: Tree, i: int) -> Tree:
        return {name: a[i : i + 1] for name, a in results.items() if name != "params"}

    batch, without_key = len(case.x), case._replace(key=None)  # random numbers may depend on the size of the batch
    predicted, random = without_key.results(), case.results()
    for i in sorted({0, batch // 2, batch - 1}):
        one, many = (without_key.rows([i] * times).results() for times in (1, batch))
        check_equal(row(one, 0), row(predicted, i), f"of example {i} alone", 1e-9)
        check_equal(row(case.rows([i] * batch).results(), i), row(random, i), f"of example {i} in another batch", 1e-9)
        total = {"params": tree_map(lambda d: batch * d, one["params"])}
        check_equal({"params": many["params"]}, total, f"of example {i} repeated {batch} times", 1e-9, least=1e-3)


PROPERTIES: dict[str, Callable[[Case], float | None]] = {  # the checks after "init", in this order
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
    "gradient in params": partial(_gradients, of="params"),
    "gradient in input": partial(_gradients, of="input"),
    "batch independence": _batch_independence,
    "accuracy": check_accuracy,
}
