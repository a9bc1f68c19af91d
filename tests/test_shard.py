import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnn
from fnn import Op, OpError, batch_norm, conv, cross_entropy, dense, maxpool, named, serial, shard, tanh, value_and_grad
from fnn.kernels import threads
from fnn.kernels.process import BLAS_VARIABLES, limited_blas
from fnn.transforms import shard_slices
from tests.support.programs import python

NET = serial(conv(3, 3, padding=1), maxpool(2), tanh, dense(4))
SHAPE = (1, 6, 6)


def batch(n: int, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x: np.ndarray = rng.standard_normal((n, *SHAPE)).astype(dtype)
    x.flags.writeable = False
    return x, rng.integers(0, 4, n)


@given(st.integers(0, 300), st.integers(1, 40))
def test_shard_slices_are_a_power_of_two_and_as_few_as_possible(n: int, size: int) -> None:
    slices = shard_slices(n, size)
    lengths = [piece.stop - piece.start for piece in slices]
    assert len(slices).bit_count() == 1
    assert max(lengths) <= size
    assert len(slices) == 1 or n > size * len(slices) // 2
    assert max(lengths) - min(lengths) <= 1
    assert [i for piece in slices for i in range(n)[piece]] == list(range(n))


@pytest.mark.parametrize("n", [0, 1, 5, 8, 21])
def test_shard_has_the_same_bits_for_any_number_of_workers(n: int) -> None:
    params = NET.init(0, SHAPE)
    x, _ = batch(n)
    results: list[list[bytes]] = []
    for workers in (1, 2, 5):
        y, vjp = shard(NET, workers, size=4).apply(params, x)
        dparams, dx = vjp(np.cos(y))
        results.append([a.tobytes() for a in (y, dx, *fnn.tree_leaves(dparams))])
    assert results[0] == results[1] == results[2]


DEEP = serial(conv(3, 3, padding=1), tanh, named("inner", serial(conv(2, 3), tanh)), dense(6), tanh, dense(4))


def test_shard_with_idle_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MIN_SHARED_MACS", 1)
    params, (x, _) = DEEP.init(0, SHAPE), batch(4)
    results: list[list[bytes]] = []
    for workers in (1, 3):
        y, vjp = shard(DEEP, workers).apply(params, x)
        results.append([a.tobytes() for need_dx in (True, False) for a in fnn.tree_leaves(vjp(np.cos(y), need_dx)[0])])
    assert results[0] == results[1]


def test_an_error_in_a_gradient_on_an_idle_thread_names_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(threads, "MIN_SHARED_MACS", 1)
    y, vjp = shard(DEEP, 2).apply(DEEP.init(0, SHAPE), batch(4)[0])
    monkeypatch.setattr(sys.modules["fnn.ops.convolution"], "correlate_weights", wrong)
    with pytest.raises(ZeroDivisionError) as caught:
        vjp(y)
    assert caught.value.__notes__ == ["in conv1", "in inner"]


def test_shard_equals_its_operator_up_to_rounding() -> None:
    params = fnn.tree_map(lambda a: a.astype(np.float64), NET.init(0, SHAPE))
    x, labels = batch(21, np.float64)
    (loss, out), grads = value_and_grad(NET, cross_entropy)(params, x, labels)
    (sharded_loss, sharded_out), sharded = value_and_grad(shard(NET, 2, size=4), cross_entropy)(params, x, labels)
    np.testing.assert_allclose(sharded_out, out, rtol=1e-12)
    np.testing.assert_allclose(sharded_loss, loss, rtol=1e-12)
    fnn.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), sharded, grads)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("n", [2, 3, 200])
def test_shard_of_a_net_with_batch_norm_equals_the_net(monkeypatch: pytest.MonkeyPatch, workers: int, n: int) -> None:
    monkeypatch.setattr(threads, "MIN_SHARED_MACS", 1)
    net = serial(conv(3, 3, padding=1), batch_norm(), maxpool(2), tanh, dense(4))
    params, (x, labels) = net.init(0, SHAPE), batch(n)
    key = fnn.Key(0)
    wanted = value_and_grad(net, cross_entropy)(params, x, labels, key.fold(0))
    came = value_and_grad(shard(net, workers, size=4), cross_entropy)(params, x, labels, key)
    for a, b in zip(
        (came[0][0], came[0][1], *fnn.tree_leaves(came[1])),
        (wanted[0][0], wanted[0][1], *fnn.tree_leaves(wanted[1])),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_shard_predicts_with_a_batch_norm_in_shards() -> None:
    sizes: list[int] = []

    def apply(params: fnn.Params, x: np.ndarray) -> tuple[np.ndarray, object]:
        sizes.append(len(x))
        return x.copy(), lambda dy, need_dx=True: ({}, dy)

    net = serial(Op(lambda key, shape: {}, apply), batch_norm())  # type: ignore[arg-type]
    params, (x, _) = net.init(0, SHAPE), batch(8)
    params["batch_norm1"]["mean"] += 1
    sizes.clear()
    shard(net, 2, size=4).apply(params, x)
    shard(net, 2, size=4).apply(params, x, 0)
    assert sizes == [4, 4, 8]


def test_shard_has_the_params_of_its_operator() -> None:
    fnn.tree_map(np.testing.assert_array_equal, shard(NET, 2).init(3, SHAPE), NET.init(3, SHAPE))


def failing(at: float) -> Op:
    """The identity, which raises an error if the first number of the batch is at least `at`."""

    def apply(params: fnn.Params, x: np.ndarray) -> tuple[np.ndarray, object]:
        if len(x) and x[0, 0] >= at:
            raise ZeroDivisionError(f"{x[0, 0]:g}")
        return x.copy(), lambda dy, need_dx=True: ({}, dy.copy())

    return Op(lambda key, shape: {}, apply, kind="failing")  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_shard_raises_the_error_of_the_first_shard(workers: int) -> None:
    x = np.arange(16, dtype=np.float32)[:, None]
    with pytest.raises(ZeroDivisionError, match=r"^8$"):
        shard(failing(8), workers, size=4).apply({}, x)
    shard(failing(16), workers, size=4).apply({}, x)


def test_shard_inside_a_shard_does_not_deadlock() -> None:
    net = shard(shard(shard(NET, 2, size=2), 2, size=4), 2, size=8)
    params, x = net.init(0, SHAPE), batch(40)[0]
    y, vjp = net.apply(params, x)
    np.testing.assert_allclose(y, NET.apply(params, x)[0], rtol=1e-5, atol=1e-6)
    assert vjp(y)[1].shape == x.shape


def test_shard_uses_the_callers_error_state() -> None:
    square = Op(lambda key, shape: {}, lambda params, x: (x * x, lambda dy, need_dx=True: ({}, dy)))
    x = np.full((8, 1), 1e30, np.float32)
    with np.errstate(over="ignore"):
        assert np.isinf(shard(square, 2, size=2).apply({}, x)[0]).all()
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        shard(square, 2, size=2).apply({}, x)


def keys_of(n: int) -> Iterator[fnn.Key]:
    drawn: list[fnn.Key] = []

    def apply(params: fnn.Params, x: np.ndarray, key: fnn.Key) -> tuple[np.ndarray, object]:
        if len(x):
            drawn.append(key)
        return x, lambda dy, need_dx=True: ({}, dy)

    op = Op(lambda key, shape: {}, apply, takes_key=True)  # type: ignore[arg-type]
    shard(op, 2, size=4).apply({}, np.zeros((n, 1), np.float32), fnn.Key(7))
    return iter(sorted(drawn))


def test_shard_folds_the_shard_number_into_the_key() -> None:
    assert list(keys_of(16)) == [fnn.Key(7, (i,)) for i in range(4)]
    assert list(keys_of(3)) == [fnn.Key(7, (0,))]


IMAGES, VECTORS, TOKENS = np.zeros((300, 1, 2, 2), np.float32), np.zeros((300, 3), np.float32), np.zeros((300, 3), int)


@pytest.mark.parametrize(
    ("x", "sizes"),
    [
        (IMAGES[:64], [64]),
        (IMAGES[:65], [32, 33]),
        (IMAGES[:256], [128, 128]),
        (IMAGES, [75, 75, 75, 75]),
        (TOKENS[:65], [32, 33]),
        (VECTORS[:128], [128]),
        (VECTORS[:129], [64, 65]),
    ],
)
def test_shard_default_size_is_at_most_128(x: np.ndarray, sizes: list[int]) -> None:
    came: list[int] = []

    def apply(params: fnn.Params, x: np.ndarray) -> tuple[np.ndarray, object]:
        came.append(len(x))
        return x, lambda dy, need_dx=True: ({}, dy)

    op = Op(lambda key, shape: {}, apply, integers=x.dtype.kind == "i")  # type: ignore[arg-type]
    shard(op, 1).apply({}, x)
    assert came == sizes


@pytest.mark.parametrize("numbers", [{"workers": 0}, {"size": 0}, {"size": 2.5}])
def test_shard_refuses_bad_workers_and_sizes(numbers: dict[str, int]) -> None:
    with pytest.raises(OpError, match=r"^shard: (workers|size): expected an int of at least 1, got"):
        shard(NET, **numbers)


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "workers", "told"), [("", "2, 2", 1), ("", "1, 1", 0), ("1", "2, 2", 0)])
def test_shard_warns_if_blas_uses_several_threads(threads: str, workers: str, told: int) -> None:
    code = f"import sys; sys.modules['threadpoolctl'] = None; import fnn; [fnn.shard(fnn.tanh, n) for n in ({workers})]"
    done = python("-c", code, **dict.fromkeys(BLAS_VARIABLES, threads))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("OPENBLAS_NUM_THREADS=1 before you import NumPy, or pip install '.[threads]'") == told


def test_shard_limits_blas_only_while_it_works() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    code = """
import threadpoolctl, numpy as np, fnn
def threads(): return [one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]
threadpoolctl.threadpool_limits(2, "blas")
seen = []
def apply(params, x):
    seen.append(threads())
    return x, lambda dy, need_dx=True: ({}, dy)
watch = fnn.Op(lambda key, shape: {}, apply)
net = fnn.shard(watch, 2, 4)
assert threads() == [2], threads()
x = np.ones((16, 3), np.float32)
y, vjp = net.apply({}, x)
vjp(y)
assert threads() == [2], threads()
print(seen[0])
"""
    assert threadpoolctl is not None
    environment = dict.fromkeys(BLAS_VARIABLES, "2")
    assert python("-c", code, **environment).stdout == "[1]\n"
    assert python("-c", code, **environment, FNN_LIMIT_BLAS="0").stdout == "[2]\n"


def test_limited_blas_can_be_nested_and_restores_after_an_error() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads() -> list[int]:
        return [one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]

    before = threads()
    with limited_blas():
        with limited_blas():
            assert set(threads()) <= {1}
        assert set(threads()) <= {1}
    assert threads() == before

    def fail() -> None:
        with limited_blas():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert threads() == before


def test_shard_gives_the_same_bits_with_any_number_of_workers_if_blas_has_threads() -> None:
    pytest.importorskip("threadpoolctl")
    code = """
import numpy as np, fnn
net = fnn.serial(fnn.conv(16, 3, padding=1), fnn.relu, fnn.maxpool(2), fnn.dense(128), fnn.tanh, fnn.dense(10))
params, x = net.init(0, (1, 28, 28)), np.random.default_rng(0).standard_normal((100, 1, 28, 28)).astype(np.float32)
results = set()
for workers in (1, 2, 3):
    y, vjp = fnn.shard(net, workers).apply(params, x)
    results.add(b"".join(a.tobytes() for a in [y, *fnn.tree_leaves(vjp(np.cos(y), False)[0])]))
print(len(results))
"""
    assert python("-c", code, **dict.fromkeys(BLAS_VARIABLES, "2")).stdout == "1\n"
