from pathlib import Path

import numpy as np
import pytest

import fnn
from fnn import batch_norm, conv, dense, dropout, maxpool, relu, run, serial
from fnn.mpi import Comm, spread
from fnn.random import Rng, as_key
from fnn.run.task import inputs
from tests.support.ranks import run_on_ranks
from tests.support.runs import NET, bits, make_task, no_log, stop_after


def spread_task(comm: Comm) -> run.Task:
    return make_task(net=spread(NET, comm, 1, 4), comm=comm, epochs=2)


def state_bits(state: run.State) -> list[object]:
    """Returns everything except the sums for metrics, which ranks add up in another order."""
    return [item for item in bits(state) if item[0] not in ("loss_sum", "best")]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_train_resume_on_ranks_gives_the_bits_of_one_process(count: int, tmp_path: Path) -> None:
    task = make_task(epochs=2)
    expected = run.train(task, run.start(task), log=no_log)
    run.train(task, run.start(task), tmp_path, 1e9, stop_after(5), no_log)

    def train_on_rank(comm: Comm) -> run.State:
        own_task = spread_task(comm)
        return run.train(own_task, run.read_state(tmp_path, own_task), tmp_path if comm.rank == 0 else None, log=no_log)

    for state in run_on_ranks(count, train_on_rank):
        assert state_bits(state) == state_bits(expected)
        assert state["best"] == expected["best"]
    for ours, theirs in zip(run.read_metrics(tmp_path), [1, 2], strict=True):
        assert ours["epoch"] == theirs


@pytest.mark.parametrize("count", [2, 3, 5, 8, 20])
def test_inputs_are_the_same_for_any_number_of_ranks(count: int) -> None:
    batch = np.arange(11)[::-1]
    expected = inputs(make_task(), 1, 2, batch)
    parts = run_on_ranks(count, lambda comm: inputs(spread_task(comm), 1, 2, batch))
    assert np.concatenate(parts).tobytes() == expected.copy().tobytes()


def test_train_error_of_one_rank_is_raised_on_every_rank() -> None:
    def spoil(images: fnn.Array, rng: Rng) -> fnn.Array:
        images[0, 0, 3, 3] = np.nan if as_key(rng).path[2:] == (1, 3) else 0
        return images

    def error_on_rank(comm: Comm) -> str:
        task = spread_task(comm)._replace(augment=spoil)
        with pytest.raises(run.NotFiniteError) as error:
            run.train(task, run.start(task), log=no_log)
        return str(error.value)

    message = "step 2 (epoch 1, batch 2): the input has 1 nan and 0 infinite of 3920 numbers"
    assert run_on_ranks(2, error_on_rank) == [message] * 2


def test_train_error_of_one_rank_names_the_path_of_the_operator() -> None:
    def spoil(images: fnn.Array, rng: Rng) -> fnn.Array:
        images[0, 0, 3, 3] = 1e30 if as_key(rng).path[2:] == (1, 3) else 0
        return images

    square = fnn.Op(lambda key, shape: {}, lambda params, x: (x * x, lambda dy, need_dx=True: ({}, 2 * x * dy)))
    net = fnn.serial(fnn.named("inner", fnn.residual(square)), fnn.flatten, fnn.dense(10))

    def error_on_rank(comm: Comm) -> str:
        task = make_task(net=spread(net, comm, 1, 4), comm=comm, augment=spoil)
        with pytest.raises(run.NotFiniteError) as error:
            run.train(task, run.start(task), log=no_log)
        return str(error.value)

    message = "step 2 (epoch 1, batch 2): inner/op1: output: expected finite numbers, got 0 nan and 1 infinite of 2352"
    assert run_on_ranks(2, error_on_rank) == [message] * 2


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_train_on_ranks_calibrates_like_one_process(count: int, tmp_path: Path) -> None:
    net = serial(conv(4, 3), batch_norm(), relu, maxpool(4), dense(8), batch_norm(), dropout(0.2), dense(10))
    task = make_task(net=fnn.shard(net, 1, 5), shard_size=5, batch_size=35, epochs=2)
    expected = run.train(task, run.start(task), log=no_log)

    def train_on_rank(comm: Comm) -> run.State:
        own_task = task._replace(net=spread(net, comm, 1, 5), comm=comm)
        return run.train(own_task, run.start(own_task), tmp_path if comm.rank == 0 else None, log=no_log)

    states = run_on_ranks(count, train_on_rank)
    for state in states:
        assert state_bits(run.final(state)) == state_bits(run.final(states[0]))
        if count != 3:
            assert state_bits(state) == state_bits(expected)
    fnn.tree_map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), run.final(states[0]), run.final(expected)
    )
    best = fnn.load(tmp_path / "params.pkl")
    assert fnn.tree_leaves(best["batch_norm1"]["mean"])[0].any()
