from pathlib import Path

import numpy as np
import pytest

import fnn
from fnn import batch_norm, conv, dense, dropout, maxpool, relu, run, serial
from fnn.mpi import Comm, spread
from fnn.random import Rng, as_key
from fnn.run.task import inputs
from tests.mpi.test_mpi import together
from tests.support.runs import NET, after, bits, silent, task_of


def spread_task(comm: Comm) -> run.Task:
    return task_of(net=spread(NET, comm, 1, 4), comm=comm, epochs=2)


def state_bits(state: run.State) -> list[object]:
    """Everything except the sums for metrics, which ranks add up in another order."""
    return [item for item in bits(state) if item[0] not in ("loss_sum", "best")]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_ranks_come_to_the_bits_of_one_process_and_go_on_where_it_stopped(count: int, tmp_path: Path) -> None:
    alone = task_of(epochs=2)
    whole = run.train(alone, run.start(alone), log=silent)
    run.train(alone, run.start(alone), tmp_path, 1e9, after(5), silent)

    def part(comm: Comm) -> run.State:
        task = spread_task(comm)
        return run.train(task, run.read_state(tmp_path, task), tmp_path if comm.rank == 0 else None, log=silent)

    for state in together(count, part):
        assert state_bits(state) == state_bits(whole)
        assert state["best"] == whole["best"]
    for ours, theirs in zip(run.read_metrics(tmp_path), [1, 2], strict=True):
        assert ours["epoch"] == theirs


@pytest.mark.parametrize("count", [2, 3, 5, 8, 20])
def test_any_number_of_ranks_has_the_same_images(count: int) -> None:
    batch = np.arange(11)[::-1]
    whole = inputs(task_of(), 1, 2, batch)
    parts = together(count, lambda comm: inputs(spread_task(comm), 1, 2, batch))
    assert np.concatenate(parts).tobytes() == whole.copy().tobytes()


def test_the_rank_that_has_the_fault_names_it_for_all() -> None:
    def spoil(images: fnn.Array, rng: Rng) -> fnn.Array:
        images[0, 0, 3, 3] = np.nan if as_key(rng).path[2:] == (1, 3) else 0
        return images

    def part(comm: Comm) -> str:
        task = spread_task(comm)._replace(augment=spoil)
        with pytest.raises(run.NotFiniteError) as error:
            run.train(task, run.start(task), log=silent)
        return str(error.value)

    assert together(2, part) == ["step 2 (epoch 1, batch 2): the input has 1 nan and 0 infinite of 3920 numbers"] * 2


def test_the_rank_that_has_the_fault_names_the_operator_by_its_path_without_the_other_ranks() -> None:
    def spoil(images: fnn.Array, rng: Rng) -> fnn.Array:
        images[0, 0, 3, 3] = 1e30 if as_key(rng).path[2:] == (1, 3) else 0
        return images

    square = fnn.Op(lambda key, shape: {}, lambda params, x: (x * x, lambda dy, need_dx=True: ({}, 2 * x * dy)))
    net = fnn.serial(fnn.named("inner", fnn.residual(square)), fnn.flatten, fnn.dense(10))

    def part(comm: Comm) -> str:
        task = task_of(net=spread(net, comm, 1, 4), comm=comm, augment=spoil)
        with pytest.raises(run.NotFiniteError) as error:
            run.train(task, run.start(task), log=silent)
        return str(error.value)

    told = "step 2 (epoch 1, batch 2): inner/op1: output: expected finite numbers, got 0 nan and 1 infinite of 2352"
    assert together(2, part) == [told] * 2


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_ranks_calibrate_as_one_process_does(count: int, tmp_path: Path) -> None:
    net = serial(conv(4, 3), batch_norm(), relu, maxpool(4), dense(8), batch_norm(), dropout(0.2), dense(10))
    alone = task_of(net=fnn.shard(net, 1, 5), shard_size=5, batch_size=35, epochs=2)
    whole = run.train(alone, run.start(alone), log=silent)

    def part(comm: Comm) -> run.State:
        task = alone._replace(net=spread(net, comm, 1, 5), comm=comm)
        return run.train(task, run.start(task), tmp_path if comm.rank == 0 else None, log=silent)

    states = together(count, part)
    for state in states:
        assert state_bits(run.final(state)) == state_bits(run.final(states[0]))
        if count != 3:
            assert state_bits(state) == state_bits(whole)
    fnn.tree_map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), run.final(states[0]), run.final(whole)
    )
    best = fnn.load(tmp_path / "best.pkl")
    assert fnn.tree_leaves(best["batch_norm1"]["mean"])[0].any()
