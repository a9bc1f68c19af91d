"""Checks of arguments: each message once, and each class of mistakes for all operators."""

import re
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fnn import (
    Key,
    LossError,
    Op,
    OpError,
    adam,
    attention,
    averaged,
    batch_norm,
    binary_cross_entropy,
    calibrate,
    check_finite,
    clip_by_global_norm,
    conv,
    cosine,
    cross_entropy,
    dense,
    dropout,
    elu,
    embedding,
    freeze,
    global_avgpool,
    huber,
    layer_norm,
    leaky_relu,
    masked,
    maxpool,
    microbatch,
    mse,
    named,
    operator,
    parallel,
    per_example,
    piecewise,
    position_embedding,
    positionwise,
    relu,
    remat,
    repeat,
    residual,
    serial,
    sgd,
    shard,
    shared,
    smoothed_cross_entropy,
    softmax,
    summary,
    tanh,
    tree_map,
    value_and_grad,
)
from fnn.checks.arrays import get_params
from fnn.checks.values import check_int, check_real
from fnn.data import affine, as_float, batches, compose, digits, elastic, erase, shift
from fnn.init import constant, truncated_normal
from fnn.losses import Loss
from fnn.op import Array, Params, Vjp
from fnn.random import as_key
from fnn.testing import CheckError, check_loss, check_op
from fnn.testing.table import TABLE, Example
from fnn.tree import Tree, tree_items, tree_leaves

pytestmark = pytest.mark.filterwarnings("ignore::fnn.UncalibratedWarning")
ROWS = [pytest.param(row, id=f"{name}-{i}") for name, rows in TABLE.items() for i, row in enumerate(rows)]
RNG = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


NET = serial(dense(3), tanh, dense(2))
PARAMS = NET.init(0, (4,))
X, LABELS, TARGETS = floats(5, 4), np.array([0, 1, 1, 0, 1]), floats(5, 2)
RANDOM = serial(dense(3), residual(serial(dropout(0.5), named("head", batch_norm()))), dense(2))
RANDOM_PARAMS = RANDOM.init(0, (4,))
IMAGES = serial(conv(4, 3), relu, maxpool(2), dense(2))
IMAGE_PARAMS = IMAGES.init(0, (1, 8, 8))
SGD = sgd(0.1, momentum=0.9)
STATE = SGD.init(PARAMS)
GRADS = value_and_grad(NET, cross_entropy)(PARAMS, X, LABELS)[1]


def own(apply: Callable[..., Any], **options: Any) -> Op:
    return Op(lambda key, shape: {}, apply, kind="own", **options)


def run(op: Op) -> None:
    """Applies the operator, as a part of a net, to two examples and calls its vjp."""
    net = serial(tanh, op)
    y, vjp = net.apply(net.init(0, (3,)), np.zeros((2, 3), np.float32))
    vjp(y)


def changed(**leaves: Any) -> Params:
    """Returns PARAMS with other params for dense1."""
    return {**PARAMS, "dense1": {**PARAMS["dense1"], **leaves}}


class Tensor:
    """An array of another library."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return X


SEED = "expected an int seed or a Key, got"
SHAPE = "expected the shape of one example, a tuple of ints without the batch axis, got"
DENSE = "the function dense; call it: dense(...)"
RESULT = "own1: expected apply to return (y, vjp)"
KEY = "expected a key in training, got none; pass a key, or key=None to train without randomness"
NATIVE = "expected an array of float16, float32 or float64 in native byte order, got"
MESSAGES: dict[str, tuple[Callable[[], Any], str]] = {
    # keys and seeds
    "a bool as key": (lambda: NET.apply(PARAMS, X, False), f"key: {SEED} False; pass a seed such as 0"),
    "a Key of a bool": (lambda: NET.apply(PARAMS, X, Key(True)), f"key: {SEED} True; pass a seed such as 0"),
    "a Generator as rng": (
        lambda: NET.init(np.random.default_rng(0), (4,)),  # type: ignore[arg-type]
        f"rng: {SEED} a NumPy Generator; pass a seed such as 0",
    ),
    "a fold of a bool": (lambda: Key(0).fold(True), "fold: expected a name or a number, got True"),
    "training without a key": (
        lambda: value_and_grad(RANDOM, cross_entropy)(RANDOM_PARAMS, X, LABELS),
        f"residual1/serial1/dropout1: {KEY}",
    ),
    "rng and shape swapped": (
        lambda: NET.init((4,), 0),  # type: ignore[arg-type]
        "serial: expected init(rng, shape), got init(shape, rng); swap the arguments",
    ),
    # params
    "an extra param": (
        lambda: dense(3, bias=False).apply(PARAMS["dense1"], X),
        "dense: expected params 'w', got 'w', 'b'; remove 'b'",
    ),
    "an extra part": (
        lambda: serial(NET).apply({"serial1": {**PARAMS, "dense3": {}}}, X),
        "serial1: expected params 'dense1', 'tanh1', 'dense2', got 'dense1', 'tanh1', 'dense2', 'dense3'; "
        "remove 'dense3'",
    ),
    "params of tanh": (
        lambda: NET.apply({**PARAMS, "tanh1": {"w": X}}, X),
        "tanh1: expected no params, got 'w'; remove 'w'",
    ),
    "a missing param of a user's operator": (
        lambda: own(lambda params, x: params["s"]).apply({"t": X}, X),
        "own: expected params 't', 's', got 't'; 's' is missing",
    ),
    "a missing param": (
        lambda: NET.apply({**PARAMS, "dense1": {"w": floats(4, 3)}}, X),
        "dense1: expected params 'w', 'b', got 'w'; 'b' is missing",
    ),
    "params that are no dict": (
        lambda: NET.apply({**PARAMS, "tanh1": None}, X),
        "tanh1: expected params as a dict, got a NoneType",
    ),
    "a param of another shape": (
        lambda: NET.apply(changed(w=floats(4, 5)), X),
        "dense1: w: expected shape (any, 3), got float32 (4, 5)",
    ),
    "a param of another dtype": (
        lambda: NET.apply(changed(b=np.zeros(3)), X),
        "dense1: b: expected float32 as 'w' is, got float64 (3,)",
    ),
    # sizes
    "an int": (lambda: dense(2.5), "dense: out_features: expected an int of at least 1, got 2.5"),  # type: ignore[arg-type]
    "a bool as a size": (lambda: dense(True), "dense: out_features: expected an int of at least 1, got True"),
    "a number": (lambda: dropout(1), "dropout: rate: expected a finite number of at least 0 and below 1, got 1"),
    "a number in a range": (
        lambda: smoothed_cross_entropy(2),
        "smoothed_cross_entropy: smoothing: expected a number from 0 to 1, got 2",
    ),
    "an int as shape": (lambda: NET.init(0, 784), f"serial: {SHAPE} 784; write (784,)"),  # type: ignore[arg-type]
    "a list as shape": (lambda: NET.init(0, [4]), f"serial: {SHAPE} [4]; write (4,)"),  # type: ignore[arg-type]
    # arrays
    "a matrix": (
        lambda: NET.apply(PARAMS, np.matrix(X)),
        "serial: expected a plain array, got a numpy.matrix; use np.asarray(x)",
    ),
    "a masked array": (
        lambda: NET.apply(PARAMS, np.ma.masked_less(X, 0)),
        "serial: expected a plain array, got a numpy.ma.MaskedArray; fill the masked values first: x.filled(0)",
    ),
    "another byte order": (
        lambda: NET.apply(PARAMS, X.astype(">f4")),
        f"serial: {NATIVE} >f4 (5, 4); use x.astype(np.float32)",
    ),
    "a list as input": (
        lambda: NET.apply(PARAMS, X.tolist()),
        "serial: expected an array of floats, got a list; use np.array(x, np.float32)",
    ),
    "another library's array": (
        lambda: NET.apply(PARAMS, Tensor()),  # type: ignore[arg-type]
        "serial: expected an array of floats, got a Tensor; use np.asarray(x)",
    ),
    "images of bytes": (
        lambda: IMAGES.apply(IMAGE_PARAMS, np.zeros((2, 1, 8, 8), np.uint8)),
        "serial: expected an array of floats, got uint8 (2, 1, 8, 8); use x.astype(np.float32)",
    ),
    "float64 for float32": (
        lambda: NET.apply(PARAMS, X.astype(float)),
        "dense1: expected float32 input as the params are, got float64; use x.astype(np.float32)",
    ),
    "floats for embedding": (
        lambda: embedding(4, 2).apply(embedding(4, 2).init(0, (3,)), floats(1, 3)),
        "embedding: expected an array of integers, got float32 (1, 3); use x.astype(np.int64)",
    ),
    "a scalar": (
        lambda: tanh.apply({}, np.array(1.0)),
        "tanh: expected an array with a batch axis, got float64 ()",
    ),
    "another cotangent": (
        lambda: tanh.apply({}, X)[1](X[:, :2]),
        "tanh: cotangent: expected the float32 (5, 4) of the output, got float32 (5, 2)",
    ),
    # shapes of inputs
    "no batch axis": (
        lambda: NET.apply(PARAMS, X[0]),
        "dense1: expected shape (batch, 4), got (4,); for one example use x[None]",
    ),
    "no batch axis of images": (
        lambda: IMAGES.apply(IMAGE_PARAMS, floats(1, 8, 8)),
        "conv1: expected shape (batch, 1, height, width), got (1, 8, 8); for one example use x[None]",
    ),
    "no channel axis": (
        lambda: IMAGES.apply(IMAGE_PARAMS, floats(5, 8, 8)),
        "conv1: expected shape (batch, 1, height, width), got (5, 8, 8); use x[:, None]",
    ),
    "other channels": (
        lambda: IMAGES.apply(IMAGE_PARAMS, floats(5, 3, 8, 8)),
        "conv1: expected 1 input channels, got 3",
    ),
    "other features": (lambda: NET.apply(PARAMS, floats(5, 7)), "dense1: expected 4 input features, got 7"),
    "other features of images": (
        lambda: NET.apply(PARAMS, floats(5, 2, 3)),
        "dense1: expected 4 input features, got 6 (2 * 3)",
    ),
    "other axes at init": (
        lambda: IMAGES.init(0, (3, 28)),
        "conv1: expected shape (channels, height, width), got (3, 28)",
    ),
    "groups at init": (
        lambda: conv(4, 3, groups=2).init(0, (3, 8, 8)),
        "conv: expected shape (channels, height, width) with a multiple of 2 channels, got (3, 8, 8)",
    ),
    # the order of arguments, and calls
    "params and x swapped": (
        lambda: NET.apply(X, PARAMS),  # type: ignore[arg-type]
        "serial: expected apply(params, x), got apply(x, params); swap the arguments",
    ),
    "relu()": (
        lambda: relu(),
        "relu: expected relu, got a call of it; it is already an operator, remove the ()",
    ),
    "net(params, x)": (lambda: NET(PARAMS, X), "serial: expected op.apply(params, x), got op(...)"),
    "loss and net swapped": (
        lambda: value_and_grad(cross_entropy, NET),  # type: ignore[arg-type]
        "value_and_grad: expected (net, loss), got (loss, net); swap the arguments",
    ),
    "value_and_grad(net)": (
        lambda: value_and_grad(NET),
        "value_and_grad: expected a loss such as cross_entropy, got none",
    ),
    "a constructor of losses": (
        lambda: value_and_grad(NET, huber),  # type: ignore[arg-type]
        "value_and_grad: expected a loss such as cross_entropy, got the function huber; call it: huber(...)",
    ),
    "an operator as loss": (
        lambda: value_and_grad(NET, softmax),
        "value_and_grad: expected a loss such as cross_entropy, got the operator softmax",
    ),
    "a name as loss": (
        lambda: value_and_grad(NET, "mse"),  # type: ignore[arg-type]
        "value_and_grad: expected a loss such as cross_entropy, got 'mse'",
    ),
    "a loss that is called": (
        lambda: value_and_grad(NET, mse()),  # type: ignore[arg-type, call-arg]
        "mse: expected outputs and targets, got a call without; mse itself is the loss",
    ),
    "a loss that returns no pair": (
        lambda: value_and_grad(NET, lambda y, t: 0.0)(PARAMS, X, LABELS),  # type: ignore[arg-type, return-value]
        "<lambda>: expected to return (value, vjp), got a float",
    ),
    # operators
    "a list of operators": (
        lambda: serial([dense(3), tanh]),  # type: ignore[arg-type]
        "serial: expected an operator, got a list; unpack it with *",
    ),
    "a constructor of operators": (lambda: serial(dense), f"serial: expected an operator, got {DENSE}"),  # type: ignore[arg-type]
    "a NumPy function": (
        lambda: serial(np.tanh),  # type: ignore[arg-type]
        "serial: expected an operator, got the function tanh; use fnn.tanh",
    ),
    "another function": (
        lambda: serial(np.exp),  # type: ignore[arg-type]
        "serial: expected an operator, got the function exp; write an Op for it",
    ),
    "a pair of functions": (
        lambda: serial((NET.init, NET.apply)),  # type: ignore[arg-type]
        "serial: expected an operator, got a tuple; write Op(init, apply)",
    ),
    "a name of an operator": (
        lambda: serial("relu"),  # type: ignore[arg-type]
        "serial: expected an operator, got 'relu'; use fnn.relu",
    ),
    # operators of a user's own
    "apply returns y": (lambda: run(own(lambda params, x: x)), f"{RESULT}, got float32 (0, 3)"),
    "apply returns three": (lambda: run(own(lambda params, x: (x, 1, 2))), f"{RESULT}, got a tuple"),
    "y is no array": (
        lambda: run(own(lambda params, x: ([1], lambda dy, need_dx=True: ({}, dy)))),
        f"{RESULT} with a plain array, got a list as y",
    ),
    "vjp is no function": (
        lambda: run(own(lambda params, x: (x, None))),
        f"{RESULT} with a function, got a NoneType as vjp",
    ),
    "vjp returns dx": (
        lambda: run(own(lambda params, x: (x, lambda dy, need_dx=True: None))),
        "own1: expected vjp to return (dparams, dx), got a NoneType",
    ),
    "vjp returns a swapped pair": (
        lambda: run(own(lambda params, x: (x, lambda dy, need_dx=True: (dy, {})))),
        "own1: expected vjp to return (dparams, dx), got float32 (2, 3) as dparams",
    ),
    "vjp without need_dx": (
        lambda: run(own(lambda params, x: (x, lambda dy: ({}, dy)))),
        "own1: expected vjp(dy, need_dx=True), got vjp(dy)",
    ),
    "apply with a key": (
        lambda: run(own(lambda params, x, key: (x, None))),
        "own1: expected apply(params, x), got apply(params, x, key)",
    ),
    "apply without a key": (
        lambda: run(own(lambda params, x: (x, None), takes_key=True)),
        "own1: expected apply(params, x, key), got apply(params, x)",
    ),
    "init without a key": (
        lambda: Op(lambda shape: {}, tanh.apply, kind="own").init(0, (3,)),  # type: ignore[arg-type, misc]
        "own: expected init(key, shape), got init(shape)",
    ),
    "init returns no dict": (
        lambda: Op(lambda key, shape: (1, 2), tanh.apply, kind="own").init(0, (3,)),  # type: ignore[arg-type, return-value]
        "own: expected init to return a dict of arrays, got a tuple",
    ),
    # optimizers and schedules
    "a constructor of optimizers": (
        lambda: clip_by_global_norm(adam, 1.0),  # type: ignore[arg-type]
        "expected an optimizer such as adam(), got the function adam; call it: adam(...)",
    ),
    "a constructor of schedules": (
        lambda: sgd(cosine),  # type: ignore[arg-type]
        "learning_rate: expected a number or a schedule, got the function cosine; call it: cosine(...)",
    ),
    "update in another order": (
        lambda: SGD.update(PARAMS, STATE, GRADS),
        "expected update(params, grads, state), got the state as the second argument",
    ),
    "another optimizer's state": (
        lambda: SGD.update(PARAMS, GRADS, {"step": 1}),
        "optimizer state: expected ['step', 'velocity'], got ['step']; is it another optimizer's?",
    ),
    "a masked gradient": (
        lambda: SGD.update(PARAMS, tree_map(np.ma.asarray, GRADS), STATE),
        "dense1/w: gradient: expected a plain array, got a numpy.ma.MaskedArray; "
        "fill the masked values first: gradient.filled(0)",
    ),
    # losses
    "logits and labels swapped": (
        lambda: cross_entropy(LABELS, TARGETS),
        "cross_entropy: expected (logits, labels), got int64 (5,) first; swap the arguments",
    ),
    "one-hot labels": (
        lambda: cross_entropy(TARGETS, np.eye(2)[LABELS]),
        "cross_entropy: labels: expected shape (5,), got (5, 2); of one-hot rows use labels.argmax(-1)",
    ),
    "labels of floats": (
        lambda: cross_entropy(TARGETS, LABELS.astype(np.float32)),
        "cross_entropy: labels: expected an array of integers, got float32 (5,); use labels.astype(np.int64)",
    ),
    "targets of another dtype": (
        lambda: mse(TARGETS, TARGETS.astype(float)),
        "mse: targets: expected float32 as the outputs are, got float64 (5, 2); use targets.astype(np.float32)",
    ),
    "targets without an axis": (
        lambda: mse(TARGETS[:, :1], TARGETS[:, 0]),
        "mse: targets: expected shape (5, 1), got (5,); use targets[..., None]",
    ),
}


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # NumPy's, for its matrix
@pytest.mark.parametrize(("call", "message"), MESSAGES.values(), ids=MESSAGES)
def test_errors_say_expected_and_got(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


# Keys


BOOLS = (False, True, np.False_, np.True_)
SEEDED: dict[str, Callable[[Any], Any]] = {
    "init": lambda key: NET.init(key, (4,)),
    "apply": lambda key: NET.apply(PARAMS, X, key),
    "apply of an operator that draws nothing": lambda key: dense(3).apply(PARAMS["dense1"], X, key),
    "apply of dropout": lambda key: dropout(0.5).apply({}, X, key),
    "value_and_grad": lambda key: value_and_grad(RANDOM, cross_entropy)(RANDOM_PARAMS, X, LABELS, key=key),
    "per_example": lambda key: per_example(NET, cross_entropy)(PARAMS, X, LABELS, key),
    "calibrate": lambda key: calibrate(RANDOM, RANDOM_PARAMS, [X], key),
    "Key": lambda key: Key(key).generator(),
    "fold": lambda key: Key(0).fold(key),
    "path": lambda key: Key(0, (key,)).generator(),
    "check_op rng": lambda key: check_op(tanh, (3,), key),
    "check_op key": lambda key: check_op(tanh, (3,), key=key),
    "check_loss": lambda key: check_loss(mse, TARGETS, TARGETS, key),
    "digits": lambda key: digits(3, key),
    "batches": lambda key: batches(5, 2, key),
    "augmentations": lambda key: compose(shift(1))(as_float(np.zeros((2, 8, 8), np.uint8)), key),
}


@pytest.mark.parametrize("wrong", BOOLS, ids=repr)
@pytest.mark.parametrize("use", SEEDED.values(), ids=SEEDED)
def test_key_and_rng_refuse_bools(use: Callable[[Any], Any], wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"expected .*, got {wrong!r}"):
        use(wrong)


@pytest.mark.parametrize("wrong", BOOLS, ids=repr)
def test_key_of_a_bool_is_refused_when_used(wrong: Any) -> None:
    key = Key(wrong)
    for use in (lambda: NET.apply(PARAMS, X, key), lambda: NET.init(key, (4,)), lambda: key.fold("a").generator()):
        with pytest.raises(ValueError, match=f"{SEED} {wrong!r}"):
            use()


@pytest.mark.parametrize(
    "wrong",
    [np.random.default_rng(0), np.random.RandomState(0), np.random.PCG64(0), np.random, 0.0, "0", np.arange(2), (0,)],
    ids=lambda value: type(value).__name__,
)
def test_key_and_rng_refuse_what_is_neither_a_seed_nor_a_key(wrong: Any) -> None:
    for use in (lambda: as_key(wrong), lambda: NET.apply(PARAMS, X, wrong), lambda: digits(3, wrong)):
        with pytest.raises(ValueError, match=rf"^(rng|key): {SEED} .*; pass a seed such as 0$"):
            use()


def random_parts(op: Op, path: str = "") -> Iterator[str]:
    """Returns the paths of the operators that take a key in training."""
    if op.kind in ("dropout", "batch_norm"):
        yield path
    for names, part in op.inside():
        yield from random_parts(part, "/".join([path, *names]).strip("/"))


@pytest.mark.parametrize("row", ROWS)
def test_value_and_grad_refuses_a_missing_key_only_if_needed(row: Example) -> None:
    wrapped = serial(row.op, freeze(check_finite(remat(residual(row.op)))))
    net = wrapped if row.op.kind == "dropout" else serial(row.op)
    params = net.init(0, row.shape)
    x = floats(2, *row.shape) if row.x is None else row.x
    y = np.zeros_like(net.apply(params, x)[0])
    expected = list(random_parts(net))
    assert net.needs_key == bool(expected)
    for step in (value_and_grad(net, mse), per_example(net, mse)):
        if expected:
            with pytest.raises(OpError, match=f"^{re.escape(f'{expected[0]}: {KEY}')}$"):
                step(params, x, y)
        else:
            step(params, x, y)
        step(params, x, y, None)
        step(params, x, y, key=None)
    value_and_grad(net, mse)(params, x, y, 0)


def test_value_and_grad_without_a_key_names_a_single_operator() -> None:
    with pytest.raises(OpError, match=f"^{re.escape(f'dropout: {KEY}')}$"):
        value_and_grad(shard(dropout(0.5), 1), mse)({}, X, X)


def test_value_and_grad_names_the_part_of_a_users_operators_that_needs_a_key() -> None:
    def noise(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        return x, lambda dy, need_dx=True: ({}, dy)

    part = own(noise, takes_key=True)
    for net, path in [
        (part, "own"),
        (serial(tanh, part), "own1"),
        (serial(own(noise, takes_key=True, wraps=named("mine", part))), "mine"),
        (serial(own(noise, takes_key=True, parts={"a": tanh, "b": part})), "own1/b"),
        (serial(own(noise, parts={"a": tanh}, needs_key=True)), "own1"),
        (parallel(tanh, repeat(part, 2)), "repeat1/own1"),
    ]:
        with pytest.raises(OpError, match=f"^{re.escape(f'{path}: {KEY}')}$"):
            value_and_grad(net, mse)({}, X, X)
    assert not serial(own(noise, takes_key=True, parts={"a": tanh})).needs_key


def jitter(**options: Any) -> Op:
    """A user's combinator that uses random numbers itself."""
    inner = dense(3)

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        y, vjp = inner.apply(params, x)
        sign = y.dtype.type(1 if key is None or key.generator().random() < 0.5 else -1)

        def pull(dy: Array, need_dx: bool = True) -> tuple[Params, Any]:
            return vjp(dy * sign, need_dx)

        return y * sign, pull

    return Op(inner.init, apply, kind="jitter", wraps=inner, takes_key=True, **options)


def test_check_op_finds_a_random_operator_without_needs_key() -> None:
    check_op(jitter(needs_key=True), (4,), exempt=["batch independence"])
    with pytest.raises(CheckError, match=r"^jitter: key: .* with a key, though needs_key is False") as caught:
        check_op(jitter(), (4,))
    assert caught.value.property == "key"


# Params


def dicts(tree: Tree, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Returns the paths of all dicts in the tree."""
    if isinstance(tree, dict):
        yield path
        for name, child in tree.items():
            yield from dicts(child, (*path, name))


def at(tree: Tree, path: tuple[str, ...]) -> Tree:
    """Returns the subtree at the path."""
    return at(tree[path[0]], path[1:]) if path else tree


def put(tree: Tree, path: tuple[str, ...], value: Tree) -> Tree:
    """Replaces the subtree at the path by `value`."""
    return {**tree, path[0]: put(tree[path[0]], path[1:], value)} if path else value


def inputs(row: Example) -> Array:
    return floats(2, *row.shape) if row.x is None else row.x


@pytest.mark.parametrize("row", ROWS)
def test_every_operator_refuses_extra_params_by_their_path(row: Example) -> None:
    params = row.op.init(0, row.shape)
    for path in dicts(params):
        where = re.escape("/".join(path))
        extras: list[Tree] = [np.zeros(2, np.float32), {}, None]
        for extra in extras:
            wrong = put(params, path, {**at(params, path), "extra": extra})
            with pytest.raises(OpError, match=f"{where}: expected .*; remove 'extra'$"):
                row.op.apply(wrong, inputs(row), row.key)
        others: list[Tree] = [None, [], np.zeros(2, np.float32), "w"]
        for other in others:
            with pytest.raises(OpError, match=f"{where}: expected params as a dict.*, got"):
                row.op.apply(put(params, path, other), inputs(row), row.key)


@pytest.mark.parametrize("row", ROWS)
def test_every_operator_names_missing_params(row: Example) -> None:
    params = row.op.init(0, row.shape)
    for path, _ in tree_items(params):
        *above, name = path.split("/")
        wrong = put(params, (*above,), {k: v for k, v in at(params, (*above,)).items() if k != name})
        with pytest.raises(OpError, match=f"{re.escape('/'.join(above))}: expected params .*; '{name}' is missing$"):
            row.op.apply(wrong, inputs(row), row.key)


def test_get_params_returns_arrays_in_order_or_refuses() -> None:
    w, b = np.zeros((2, 3), np.float32), np.zeros(3, np.float32)
    assert [a is c for a, c in zip(get_params({"b": b, "w": w}, {"w": (2, None), "b": ("n",)}), [w, b], strict=True)]
    came = get_params({"w": w}, {"w": (2, 3), "b": None})
    assert came[0] is w
    assert came[1] is None
    with pytest.raises(OpError, match=r"^w: expected shape \(any, 4\), got float32 \(2, 3\)$"):
        get_params({"w": w}, {"w": (None, 4)})
    with pytest.raises(OpError, match=r"^b: expected shape \(2,\), got float32 \(3,\)$"):
        get_params({"w": w, "b": b}, {"w": ("n", None), "b": ("n",)})


# Sizes and numbers


def as_numpys(value: Any) -> Any:
    """Replaces Python numbers by NumPy numbers."""
    if isinstance(value, tuple):
        return tuple(map(as_numpys, value))
    kinds: dict[type, Any] = {bool: np.bool_, int: np.int64, float: np.float32}
    return kinds[type(value)](value) if type(value) in kinds else value


def as_float32(value: Any) -> Any:
    """Rounds the floats in the value to float32."""
    return float(np.float32(value)) if type(value) is float else value


def construct(op: Op, change: Callable[[Any], Any]) -> Op:
    """Calls the constructor of the operator again, with `change` applied to each argument."""
    assert op.maker is not None
    several = next((n for n, p in signature(op.maker).parameters.items() if p.kind is p.VAR_POSITIONAL), "")
    arguments = {name: change(value) for name, value in op.config.items()}
    return operator(op.maker)(*arguments.pop(several, ()), **arguments)


def plain(value: Any) -> bool:
    """Returns whether the value contains no NumPy number."""
    return all(map(plain, value)) if isinstance(value, tuple | list) else not isinstance(value, np.generic | np.ndarray)


@pytest.mark.parametrize("row", ROWS)
def test_constructors_convert_numpy_numbers_for_config_and_repr(row: Example) -> None:
    if row.op.maker is None:
        return
    same, other = construct(row.op, as_float32), construct(row.op, as_numpys)
    assert all(map(plain, other.config.values()))
    assert repr(other) == repr(same)
    shape: Any = tuple(map(np.int64, row.shape))
    params = other.init(0, shape)
    assert repr(other.output_shape(params, shape)) == repr(row.op.output_shape(params, row.shape))


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.int64, np.uint64, np.intp])
def test_check_int_returns_a_python_int(kind: Any) -> None:
    assert repr(check_int("n", kind(3), 1)) == "3"
    assert repr(check_int("n", np.array(3, kind), 1)) == "3"


@pytest.mark.parametrize("wrong", [*BOOLS, 1.0, "1", None, np.float32(1), np.array([1]), 1j, [1]], ids=repr)
def test_check_int_refuses_what_is_not_an_int(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^n: expected an int of at least 0, got "):
        check_int("n", wrong)


@pytest.mark.parametrize("wrong", [*BOOLS, "1", None, np.nan, np.inf, 1j, np.array([1.0]), 10**400], ids=repr)
def test_check_real_refuses_what_is_not_a_finite_number(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^x: expected a finite number, got "):
        check_real("x", wrong)


SIZES: dict[str, Callable[[Any], Any]] = {
    "dense": dense,
    "conv": lambda n: conv(n, 3),
    "kernel_size": lambda n: conv(3, n),
    "stride": lambda n: maxpool(2, n),
    "repeat": lambda n: repeat(tanh, n),
    "shared": lambda n: shared(tanh, n),
    "microbatch": lambda n: microbatch(tanh, n),
    "shard workers": lambda n: shard(tanh, n),
    "shard size": lambda n: shard(tanh, 1, n),
    "heads": attention,
    "axes": layer_norm,
    "embedding": lambda n: embedding(n, 2),
    "features": lambda n: embedding(2, n),
    "shape": lambda n: tanh.init(0, (n,)),
    "output_shape": lambda n: tanh.output_shape({}, (n,)),
    "summary": lambda n: summary(dense(2), (n,)),
    "check_op batch": lambda n: check_op(tanh, (2,), batch=n),
    "check_op shape": lambda n: check_op(tanh, (n,)),
    "batches n": lambda n: list(batches(n, 2, 0)),
    "batches size": lambda n: list(batches(5, n, 0)),
    "digits": lambda n: digits(n, 0),
    "shift": shift,
    "erase": erase,
    "schedule steps": lambda n: cosine(1, 0, n)(n),
    "boundaries": lambda n: piecewise([n], [1, 2])(n),
}


@pytest.mark.filterwarnings("ignore:shard:RuntimeWarning")
@pytest.mark.parametrize("use", SIZES.values(), ids=SIZES)
def test_constructors_take_numpy_ints_but_no_bools_or_floats(use: Callable[[Any], Any]) -> None:
    for kind in (np.int64, np.uint8, lambda n: np.array(n)):
        use(kind(1))
    for wrong in (True, np.True_, 1.0, "1", None):
        if wrong is None and use in (SIZES["shard workers"], SIZES["shard size"], SIZES["stride"]):
            continue  # None has a meaning there
        with pytest.raises(ValueError, match=f"expected .*{re.escape(repr(wrong))}"):
            use(wrong)


REALS: dict[str, Callable[[Any], Any]] = {
    "dropout": dropout,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "eps": lambda x: layer_norm(eps=x),
    "huber": huber,
    "smoothing": smoothed_cross_entropy,
    "sgd": sgd,
    "momentum": lambda x: sgd(0.1, momentum=x),
    "adam": lambda x: adam(b1=x),
    "max_norm": lambda x: clip_by_global_norm(sgd(0.1), x),
    "averaged": lambda x: averaged(sgd(0.1), x),
    "cosine": lambda x: cosine(x, 0, 3),
    "affine": lambda x: affine(scale=x),
    "elastic": lambda x: elastic(x, 1),
    "truncated_normal": truncated_normal,
}


@pytest.mark.parametrize("use", REALS.values(), ids=REALS)
def test_constructors_take_numpy_numbers_but_no_bools_or_texts(use: Callable[[Any], Any]) -> None:
    for kind in (np.float16, np.float32, np.float64, np.longdouble):
        made = use(kind(0.5))
        assert not isinstance(made, Op) or plain(list(made.config.values()))
    for wrong in (True, np.True_, "0.5", np.nan, 0.5j, np.array([0.5])):
        with pytest.raises(ValueError, match=r": expected a (finite )?number"):
            use(wrong)


def test_initialisers_repr_has_python_numbers() -> None:
    op = dense(3, w_init=truncated_normal(np.float32(0.5)), b_init=constant(np.int64(2)))  # type: ignore[arg-type]
    assert repr(op) == "dense(3, w_init=truncated_normal(0.5), b_init=constant(2))"


def test_operator_keeps_array_arguments() -> None:
    table, sizes = floats(3, 2), np.array([1, 2])

    @operator
    def lookup(table: Array, sizes: Any, rate: float) -> Op:
        return tanh

    made = lookup(table, sizes, np.float32(0.5))  # type: ignore[arg-type]
    assert made.config["table"] is table
    assert made.config["sizes"] == (1, 2)
    assert repr(made.config["rate"]) == "0.5"


# Arrays


class Mine(np.ndarray):
    """A user's subclass."""


def wrongs(array: Array) -> Iterator[Any]:
    """Returns the same numbers in arrays that are not plain native float16, float32 or float64."""
    if array.ndim == 2:
        yield np.matrix(array)
    yield np.ma.array(array)
    yield np.ma.masked_less(array, 0)
    yield array.view(np.recarray)
    yield array.view(Mine)
    yield array.tolist()
    if array.dtype.kind == "f":
        yield array.astype(array.dtype.newbyteorder("S"))
        yield array.astype(np.longdouble)
    yield array.astype(complex)
    yield array.astype(object)
    yield array.astype(bool)
    yield array.astype("U")
    yield np.zeros(array.shape, [("x", "f4")])


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("row", ROWS)
def test_every_operator_refuses_arrays_that_are_not_plain(row: Example) -> None:
    params, x = row.op.init(0, row.shape), inputs(row)
    y, vjp = row.op.apply(params, x, row.key)
    for wrong in wrongs(x):
        with pytest.raises(OpError, match=f"^{row.op.kind}: expected .*, got"):
            row.op.apply(params, wrong, row.key)
    for wrong in wrongs(y):
        with pytest.raises(OpError, match=f"^{row.op.kind}: cotangent: expected .*, got"):
            vjp(wrong)
    for path, leaf in tree_items(params):
        name = path.rpartition("/")[2]
        for wrong in wrongs(leaf):
            with pytest.raises(OpError, match=f"{name}: expected .*, got"):
                row.op.apply(put(params, tuple(path.split("/")), wrong), x, row.key)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (cross_entropy, LABELS),
        (smoothed_cross_entropy(0.1), LABELS),
        (mse, TARGETS),
        (huber(), TARGETS),
        (binary_cross_entropy, np.abs(TARGETS) % 1),
    ],
)
def test_every_loss_refuses_arrays_that_are_not_plain(loss: Loss, targets: Array) -> None:
    loss(TARGETS, targets)
    for wrong in wrongs(TARGETS):
        with pytest.raises(LossError, match=r"expected .*, got"):
            loss(wrong, targets)
    for wrong in wrongs(targets):
        with pytest.raises(LossError, match=r"expected .*, got"):
            loss(TARGETS, wrong)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize(
    "optimizer",
    [
        sgd(0.1),
        SGD,
        adam(),
        clip_by_global_norm(adam(), 1.0),
        averaged(sgd(0.1), 0.9),
        masked(sgd(0.1), lambda p: True),
    ],
)
def test_every_optimizer_refuses_arrays_that_are_not_plain(optimizer: Any) -> None:
    params = {"a": {"w": floats(3, 2)}}
    state = optimizer.init(params)
    optimizer.update(params, params, state)
    for wrong in wrongs(params["a"]["w"]):
        other = {"a": {"w": wrong}}
        for use, arguments in (
            (optimizer.init, (other,)),
            (optimizer.update, (other, params, state)),
            (optimizer.update, (params, other, state)),
        ):
            with pytest.raises(ValueError, match=r"^a/w: .*expected .*, got"):
                use(*arguments)


def on_disk(tree: Tree, folder: Path) -> Tree:
    """Returns the tree with its arrays as memmaps."""

    def mapped(leaf: Array) -> Any:
        path = folder / f"{len(list(folder.iterdir()))}.npy"
        np.save(path, leaf)
        return np.load(path, mmap_mode="r")

    return tree_map(mapped, tree)


@pytest.mark.parametrize("row", ROWS)
def test_every_operator_takes_memmaps_and_gives_plain_arrays(row: Example, tmp_path: Path) -> None:
    tree: dict[str, Any] = {"params": row.op.init(0, row.shape), "x": inputs(row)}
    files = on_disk(tree, tmp_path)
    assert all(isinstance(leaf, np.memmap) for leaf in tree_leaves(files))
    results = []
    for these in (tree, files):
        y, vjp = row.op.apply(these["params"], these["x"], row.key)
        dy = on_disk(np.ones_like(y), tmp_path) if these is files else np.ones_like(y)
        results.append({"y": y, "pulled": dict(enumerate(vjp(dy)))})
    assert {type(leaf) for leaf in tree_leaves(results[1])} == {np.ndarray}
    tree_map(np.testing.assert_array_equal, results[1], results[0])


def test_losses_and_optimizers_take_memmaps(tmp_path: Path) -> None:
    outputs, labels, params = (on_disk(tree, tmp_path) for tree in (TARGETS, LABELS, {"w": TARGETS}))
    for loss, targets in ((cross_entropy, labels), (smoothed_cross_entropy(0.1), labels), (mse, outputs)):
        value, vjp = loss(outputs, targets)
        assert value == loss(np.array(outputs), np.array(targets))[0]
        assert type(vjp()) is np.ndarray
    moved, _ = SGD.update(params, params, SGD.init(params))
    np.testing.assert_array_equal(moved["w"], SGD.update({"w": TARGETS}, {"w": TARGETS}, SGD.init(params))[0]["w"])


def test_operators_take_dtypes_with_metadata_and_from_pickle() -> None:
    dtype = np.dtype(np.float32, metadata={"unit": "m"})
    y, _ = NET.apply(tree_map(lambda leaf: leaf.astype(dtype), PARAMS), X.astype(dtype))
    np.testing.assert_array_equal(y, NET.apply(PARAMS, X)[0])


def test_embedding_and_labels_take_integers_of_any_byte_order() -> None:
    op = embedding(4, 2)
    params, x = op.init(0, (3,)), np.array([[0, 1, 3]])
    for kind in (">i8", "<i2", ">u4", np.uint8):
        np.testing.assert_array_equal(op.apply(params, x.astype(kind))[0], op.apply(params, x)[0])
        assert cross_entropy(TARGETS, LABELS.astype(kind))[0] == cross_entropy(TARGETS, LABELS)[0]


# First mistakes


@pytest.mark.parametrize("row", ROWS)
def test_operators_suggest_astype_for_float64_input(row: Example) -> None:
    params = row.op.init(0, row.shape)
    if not tree_leaves(params) or row.x is not None:
        return
    with pytest.raises(
        OpError, match=r"expected float32 input as the params are, got float64; use x\.astype\(np\.float32\)$"
    ):
        row.op.apply(params, inputs(row).astype(np.float64), row.key)


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (dense(3), (4,)),
        (dense(3), (2, 5)),
        (conv(3, 2), (2, 4, 4)),
        (maxpool(2), (2, 4, 4)),
        (global_avgpool, (2, 4, 4)),
        (batch_norm(), (3, 2)),
        (layer_norm(), (5,)),
        (attention(2), (3, 4)),
        (position_embedding(), (3, 4)),
        (softmax, (4,)),
        (serial(residual(dense(4)), tanh), (4,)),
        (parallel(dense(3), dense(3)), (4,)),
    ],
    ids=repr,
)
def test_operators_suggest_x_none_for_a_missing_batch_axis(op: Op, shape: tuple[int, ...]) -> None:
    params = op.init(0, shape)
    example = floats(*shape)
    op.apply(params, example[None])
    with pytest.raises(OpError, match=r"got \(.*\); for one example use x\[None\]$"):
        op.apply(params, example)


WRAPPERS: dict[str, Callable[[Any], Op]] = {
    "serial": lambda op: serial(tanh, op),
    "residual": residual,
    "parallel": lambda op: parallel(tanh, op),
    "repeat": lambda op: repeat(op, 2),
    "shared": lambda op: shared(op, 2),
    "named": lambda op: named("a", op),
    "shard": lambda op: shard(op, 1),
    "microbatch": lambda op: microbatch(op, 2),
    "remat": remat,
    "freeze": freeze,
    "check_finite": check_finite,
    "positionwise": positionwise,
    "value_and_grad": lambda op: value_and_grad(op, mse),  # type: ignore[dict-item, return-value]
    "per_example": lambda op: per_example(op, mse),  # type: ignore[dict-item, return-value]
    "check_op": lambda op: check_op(op, (3,)),  # type: ignore[dict-item, return-value]
    "summary": lambda op: summary(op, (3,)),  # type: ignore[dict-item, return-value]
    "Op": lambda op: Op(tanh.init, tanh.apply, parts={"a": op}),
}


@pytest.mark.parametrize("make", WRAPPERS.values(), ids=WRAPPERS)
def test_combinators_refuse_what_is_no_operator(make: Callable[[Any], Op]) -> None:
    for wrong, came in (
        (dense, DENSE),
        ([tanh, relu], "a list; unpack it with *"),
        (np.tanh, "the function tanh; use fnn.tanh"),
        ("softmax", "'softmax'; use fnn.softmax"),
        (None, "None"),
        (3, "3"),
    ):
        with pytest.raises(ValueError, match=f"expected an operator, got {re.escape(came)}$"):
            make(wrong)


@pytest.mark.parametrize("op", [relu, tanh, dense(3), NET], ids=repr)
@pytest.mark.parametrize("arguments", [(), (0.1,), (X,), (PARAMS, X)], ids=len)
def test_op_called_like_a_function_suggests_a_fix(op: Any, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(OpError, match=f"^{op.kind}: expected .*, got"):
        op(*arguments)
