"""UncalibratedWarning: predicting with the initial statistics of a batch_norm warns, once for each net."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fnn import (
    Key,
    Op,
    OpError,
    UncalibratedWarning,
    batch_norm,
    calibrate,
    check_finite,
    conv,
    cross_entropy,
    dense,
    dropout,
    freeze,
    load,
    microbatch,
    named,
    operator,
    parallel,
    per_example,
    positionwise,
    relu,
    remat,
    repeat,
    residual,
    save,
    serial,
    sgd,
    shard,
    shared,
    summary,
    tanh,
    tree_map,
    value_and_grad,
)
from fnn.mpi import spread
from fnn.op import Array, Params, Shape, Vjp

X = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


def warned(call: Callable[[], object]) -> list[str]:
    """Returns the messages of the warnings of `call`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(warning.category is UncalibratedWarning for warning in caught)
    return [str(warning.message) for warning in caught]


def told(*paths: str) -> list[str]:
    """Returns the message of one warning about these operators."""
    fix = "after training, call params = calibrate(net, params, batches)"
    return [f"{', '.join(paths)}: predicting with the initial mean 0 and variance 1; {fix}"]


def block() -> Op:
    """Returns a new block that ends with a batch_norm."""
    return serial(dense(4), tanh, batch_norm())


def scale(op: Op) -> Op:
    """A user's combinator with params in the usual layout: multiplies the output of `op` by a learned number."""

    def apply(params: Params, x: Array, key: Key | None) -> tuple[Array, Vjp]:
        y, vjp = op.apply(params["inner"], x, key)

        def pull(dy: Array, need_dx: bool = True) -> Any:
            dparams, dx = vjp(dy * params["s"], need_dx)
            return {"s": (y * dy).sum(), "inner": dparams}, dx

        return y * params["s"], pull

    def init(key: Key, shape: Shape) -> Params:
        return {"s": np.ones((), np.float32), "inner": op.init(key, shape)}

    return Op(init, apply, parts={"inner": op}, takes_key=True, kind="scale")


@operator
def twice(op: Op) -> Op:
    """A user's constructor."""
    return serial(op, op)


NETS: dict[str, tuple[Callable[[], Op], list[str]]] = {
    "batch_norm": (batch_norm, ["batch_norm"]),
    "serial": (block, ["batch_norm1"]),
    "two": (lambda: serial(batch_norm(), relu, batch_norm()), ["batch_norm1", "batch_norm2"]),
    "nested": (lambda: serial(block(), serial(block())), ["serial1/batch_norm1", "serial2/serial1/batch_norm1"]),
    "residual": (lambda: residual(block()), ["serial1/batch_norm1"]),
    "parallel": (lambda: parallel(block(), batch_norm()), ["serial1/batch_norm1", "batch_norm1"]),
    "repeat": (lambda: repeat(block(), 2), ["serial1/batch_norm1", "serial2/batch_norm1"]),
    "shared": (lambda: serial(shared(block(), 2)), ["shared1/serial1/batch_norm1"]),
    "named": (lambda: serial(named("block", block())), ["block/batch_norm1"]),
    "shard": (lambda: shard(block(), 1, 2), ["batch_norm1"]),
    "shard, two threads": (lambda: shard(block(), 2, 2), ["batch_norm1"]),
    "spread": (lambda: spread(block(), workers=1, size=2), ["batch_norm1"]),
    "remat": (lambda: serial(remat(block())), ["serial1/batch_norm1"]),
    "microbatch": (lambda: microbatch(block(), 2), ["batch_norm1"]),
    "freeze": (lambda: serial(freeze(block()), dense(4)), ["serial1/batch_norm1"]),
    "check_finite": (lambda: check_finite(residual(check_finite(block()))), ["serial1/batch_norm1"]),
    "positionwise": (lambda: serial(positionwise(block())), ["serial1/batch_norm1"]),
    "dropout": (lambda: serial(dropout(0.5), batch_norm()), ["batch_norm1"]),
    "a user's combinator": (lambda: serial(scale(block())), ["scale1/inner/batch_norm1"]),
    "a user's constructor": (lambda: twice(block()), ["serial1/batch_norm1", "serial2/batch_norm1"]),
}


def batch_for(net: Op) -> Array:
    return np.stack([X, X + 1], 1) if "positionwise" in repr(net) else X


@pytest.mark.parametrize("name", NETS)
def test_apply_warns_once_about_uncalibrated_batch_norms(name: str) -> None:
    make, paths = NETS[name]
    net = make()
    x = batch_for(net)
    params = net.init(0, x.shape[1:])
    assert warned(lambda: net.apply(params, x, 0)[1](np.ones_like(x))) == []

    def predict() -> None:
        y, vjp = net.apply(params, x)
        vjp(y)

    assert warned(predict) == told(*paths)
    assert warned(predict) == []


@pytest.mark.parametrize("name", [name for name in NETS if name != "freeze"])
def test_apply_does_not_warn_about_calibrated_params(name: str) -> None:
    net = NETS[name][0]()
    x = batch_for(net)
    params = net.init(0, x.shape[1:])
    calibrated = calibrate(net, params, [x])
    assert warned(lambda: net.apply(calibrated, x)) == []
    assert len(warned(lambda: net.apply(params, x))) == 1  # and still warns of others


@pytest.mark.parametrize("name", NETS)
def test_apply_does_not_warn_in_init_and_for_empty_batches(name: str) -> None:
    net = NETS[name][0]()
    shape = batch_for(net).shape[1:]
    params = net.init(0, shape)
    assert warned(lambda: net.output_shape(params, shape)) == []
    assert warned(lambda: net.apply(params, np.empty((0, *shape), np.float32))) == []
    assert warned(lambda: summary(net, shape, params)) == []


def test_uncalibrated_warning_names_only_uncalibrated_batch_norms() -> None:
    net = serial(block(), block())
    params = net.init(0, (4,))
    calibrated = calibrate(net, params, [X])
    assert warned(lambda: net.apply({**calibrated, "serial2": params["serial2"]}, X)) == told("serial2/batch_norm1")


def test_uncalibrated_warning_shortens_many_paths() -> None:
    net = repeat(batch_norm(), 6)
    assert warned(lambda: net.apply(net.init(0, (4,)), X)) == told(
        "batch_norm1", "batch_norm2", "batch_norm3", "batch_norm4 and 2 more"
    )


def test_uncalibrated_warning_is_about_a_mean_of_zeros_because_weight_decay_changes_the_variance() -> None:
    net = batch_norm()
    params = net.init(0, (4,))
    params["mean"][3] = 0.5
    assert warned(lambda: net.apply(params, X)) == []
    net = serial(dense(4), batch_norm())
    params, optimizer = net.init(0, (4,)), sgd(0.1, weight_decay=0.01)
    _, grads = value_and_grad(net, cross_entropy)(params, X, np.arange(8) % 4, 0)
    params, _ = optimizer.update(params, grads, optimizer.init(params))
    assert (params["batch_norm1"]["var"] != 1).all()
    assert len(warned(lambda: net.apply(params, X))) == 1


def test_uncalibrated_warning_comes_for_each_net() -> None:
    norm = batch_norm()
    one, other = serial(norm, tanh), residual(serial(dense(4), norm))
    assert warned(lambda: one.apply(one.init(0, (4,)), X)) == told("batch_norm1")
    assert warned(lambda: other.apply(other.init(0, (4,)), X)) == told("serial1/batch_norm1")
    assert warned(lambda: serial(one).apply({"serial1": one.init(0, (4,))}, X)) == told("serial1/batch_norm1")


def test_uncalibrated_warning_of_a_part_and_then_of_its_net() -> None:
    inner = block()
    net = serial(inner, dense(3))
    params = net.init(0, (4,))
    assert warned(lambda: inner.apply(params["serial1"], X)) == told("batch_norm1")
    assert warned(lambda: net.apply(params, X)) == told("serial1/batch_norm1")


def test_uncalibrated_warning_comes_again_for_a_rebuilt_operator() -> None:
    net = block()
    params = net.init(0, (4,))
    assert warned(lambda: net.apply(params, X)) == told("batch_norm1")

    @operator
    def same() -> Op:
        return net

    assert warned(lambda: same().apply(params, X)) == told("batch_norm1")
    assert warned(lambda: net.apply(params, X)) == []


def test_uncalibrated_warning_points_at_the_call_of_apply() -> None:
    net = block()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net.apply(net.init(0, (4,)), X)
    assert Path(caught[0].filename).name == Path(__file__).name
    assert issubclass(UncalibratedWarning, RuntimeWarning)


@pytest.mark.parametrize(
    "call",
    [
        lambda net, params, y: value_and_grad(net, cross_entropy)(params, X, y, None),
        lambda net, params, y: per_example(net, cross_entropy)(params, X, y, None),
    ],
    ids=["value_and_grad", "per_example"],
)
def test_uncalibrated_warning_comes_once_in_training_without_a_key(call: Callable[..., object]) -> None:
    net = block()
    params = net.init(0, (4,))
    assert warned(lambda: call(net, params, np.arange(8) % 4)) == told("batch_norm1")
    assert warned(lambda: call(net, params, np.arange(8) % 4)) == []


def test_uncalibrated_warning_comes_for_an_op_that_no_constructor_made() -> None:
    inner = block()
    net = Op(inner.init, inner.apply, wraps=inner)
    params = net.init(0, (4,))
    assert warned(lambda: net.apply(params, X)) == told("batch_norm1")
    assert warned(lambda: net.apply(params, X)) == []


def test_uncalibrated_warning_as_an_error_comes_each_time() -> None:
    net = serial(block())
    params = net.init(0, (4,))
    for _ in range(2):
        with pytest.raises(UncalibratedWarning, match=re.escape(told("serial1/batch_norm1")[0])):
            net.apply(params, X)
        with pytest.raises(UncalibratedWarning, match=r"^batch_norm1: "):
            net.parts["serial1"].apply(params["serial1"], X)
    assert warned(lambda: net.apply(params, X)) == told("serial1/batch_norm1")


def test_uncalibrated_warning_comes_after_a_failed_apply() -> None:
    net = serial(block())
    params = net.init(0, (4,))

    def fail() -> None:
        with pytest.raises(OpError):
            net.apply(params, X[:, :3])

    assert warned(fail) == []
    assert warned(lambda: net.apply(params, X)) == told("serial1/batch_norm1")


@pytest.mark.parametrize("params", [None, {}, {"serial1": 3}, {"serial1": {"batch_norm1": {"mean": [0], "var": None}}}])
def test_uncalibrated_warning_does_not_hide_bad_params(params: Any) -> None:
    def fail() -> None:
        with pytest.raises(OpError):
            serial(block()).apply(params, X)

    assert warned(fail) == []


def test_uncalibrated_warning_for_params_from_files(tmp_path: Path) -> None:
    net = serial(tanh, block())
    save(tmp_path / "params.npz", net.init(0, (4,)))
    assert warned(lambda: net.apply(load(tmp_path / "params.npz"), X)) == told("serial1/batch_norm1")


def test_uncalibrated_warning_changes_no_result() -> None:
    net = serial(conv(3, 2), batch_norm(), relu, dense(2))
    params, x = net.init(0, (1, 5, 5)), np.random.default_rng(0).standard_normal((4, 1, 5, 5)).astype(np.float32)

    def outcome() -> Any:
        y, vjp = net.apply(params, x)
        return {"y": y, "vjp": vjp(y)[0]}

    with pytest.warns(UncalibratedWarning):
        first = outcome()
    tree_map(np.testing.assert_array_equal, first, outcome())


def test_op_statistics_are_empty_without_batch_norm() -> None:
    assert serial(dense(3), tanh, residual(dropout(0.5))).statistics == {}
    initial = {"mean": 0.0, "var": 1.0}
    assert serial(shard(block(), 1), tanh).statistics == {("serial1", "batch_norm1"): initial}
    assert remat(batch_norm()).statistics == {(): initial}
