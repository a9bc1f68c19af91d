"""The nets and layers of the benchmarks: all frameworks compute the same."""

import pytest

from benchmarks.catalogue import WORKLOADS
from benchmarks.harness import check_numbers
from benchmarks.layers import LAYERS
from benchmarks.nets import PREDICTING, TRAINING
from benchmarks.peers import PEERS
from benchmarks.worker import describe
from benchmarks.workloads import FAMILIES, Workload

NAMES = [work.name for works in (*FAMILIES.values(), TRAINING, PREDICTING, LAYERS) for work in works]


def small(name: str) -> Workload:
    """The workload with few examples and pixels."""
    work = WORKLOADS[name]
    pixels = 4 if work.net.kind == "conv_transpose" else 16
    shape = (work.shape[0], *(min(size, pixels) for size in work.shape[1:])) if len(work.shape) == 3 else work.shape
    return work._replace(batch=8, shape=shape)


def assert_agrees(peer: str, work: Workload) -> None:
    """Asserts that the peer computes what fnn computes."""
    ours, theirs = (describe(PEERS[name], work, 1, PEERS[name].step(work, 1)) for name in ("fnn", peer))
    assert theirs
    check_numbers(theirs, ours)


@pytest.mark.parametrize("name", NAMES)
def test_torch_computes_the_same_in_each_workload(name: str) -> None:
    pytest.importorskip("torch")
    assert_agrees("torch", small(name))


@pytest.mark.parametrize("name", [work.name for work in TRAINING])
def test_torch_computes_the_same_gradients_of_each_net(name: str) -> None:
    pytest.importorskip("torch")
    assert_agrees("torch-channels-last", small(name)._replace(task="vjp"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_jax_computes_the_same_in_each_workload(name: str) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_disable_most_optimizations", True)  # compiles faster
    assert_agrees("jax", small(name))


@pytest.mark.parametrize("name", [work.name for work in PREDICTING])
def test_onnxruntime_computes_the_same_forward_passes(name: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert_agrees("onnxruntime", small(name))


def test_catalogue_has_each_workload_once() -> None:
    assert len(NAMES) == len(set(NAMES))
    assert {work.optimizer for work in TRAINING} == {"adam"}
    assert {work.task for work in LAYERS} == {"vjp"}
