"""Training over MPI: with threads in place of ranks, and with mpiexec if it is installed."""

import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnn
from benchmarks.scaling import launcher
from fnn import Key, Op, OpError, cross_entropy, dense, mse, tree_leaves
from fnn.losses import LossError, smoothed_cross_entropy
from fnn.mpi import MPIError, part, ranks, shards, spread, spread_loss, world
from fnn.mpi.ranks import Comm
from fnn.transforms import shard, shard_slices
from tests.support import mpi_program, programs
from tests.support.mpi_program import NET, SHAPE, SIZE, N
from tests.support.ranks import Rank, Team, run_on_ranks


def bits(tree: Any) -> list[bytes]:
    """Returns the bytes of each leaf."""
    return [leaf.tobytes("A") for leaf in tree_leaves(tree)]


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 20))
def test_shards_and_part_split_the_batch_in_order(n: int, size: int, count: int) -> None:
    team = Team(count)
    owned = [shards(n, size, Rank(team, rank)) for rank in range(count)]
    every = [item for own in owned for item in own.items()]
    assert [number for number, _ in every] == list(range(len(every)))
    if len(shard_slices(n, size)) >= count:
        assert [one for _, one in every] == shard_slices(n, size)
    assert max(map(len, owned)) - min(map(len, owned)) <= 1
    parts = [range(n)[part(n, size, Rank(team, rank))] for rank in range(count)]
    assert [i for one in parts for i in one] == list(range(n))
    assert list(map(list, parts)) == [[i for one in own.values() for i in range(n)[one]] for own in owned]


@given(st.sampled_from([1, 2, 4, 8]), st.integers(0, 60), st.integers(1, 3), st.integers(0, 9))
def test_spread_over_a_power_of_two_equals_shard_bit_for_bit(count: int, n: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.moveaxis(rng.standard_normal((*SHAPE, n + 4 * count)).astype(np.float32), -1, 0)
    params = NET.init(seed, SHAPE)
    y, vjp = shard(NET, 1, size).apply(params, x, Key(seed))
    dy = np.cos(y)
    dparams, dx = vjp(dy)

    def apply(comm: Comm) -> tuple[slice, fnn.Array, fnn.Params, fnn.Array]:
        rows = part(len(x), size, comm)
        y, vjp = spread(NET, comm, 1, size).apply(params, x[rows], Key(seed))
        return rows, y, *vjp(dy[rows])

    for rows, own_y, own_dparams, own_dx in run_on_ranks(count, apply):
        np.testing.assert_array_equal(own_y, y[rows])
        np.testing.assert_array_equal(own_dx, dx[rows])
        assert bits(own_dparams) == bits(dparams)


REFERENCE = mpi_program.train(shard(NET, 1, SIZE), cross_entropy, slice(None))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8])
def test_spread_trains_the_same_params_as_one_process(count: int) -> None:
    def train(comm: Comm) -> fnn.Params:
        return mpi_program.train(spread(NET, comm, 1, SIZE), spread_loss(cross_entropy, comm), part(N, SIZE, comm))

    trained = run_on_ranks(count, train)
    assert all(bits(params) == bits(trained[0]) for params in trained)
    if count.bit_count() == 1:
        assert bits(trained[0]) == bits(REFERENCE)
    fnn.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), trained[0], REFERENCE)


@given(st.sampled_from([2, 3, 4]), st.integers(1, 30), st.sampled_from([cross_entropy, smoothed_cross_entropy(0.1)]))
def test_spread_loss_is_the_loss_of_the_whole_batch(count: int, n: int, loss: fnn.losses.Loss) -> None:
    rng = np.random.default_rng(n)
    logits, labels = rng.standard_normal((5, n)).astype(np.float32).T, rng.integers(0, 5, n)
    value, vjp = loss(logits, labels)

    def on_rank(comm: Comm) -> tuple[Any, fnn.Array, fnn.Array]:
        rows = part(n, 4, comm)
        # A copy, because each rank has its own output array.
        own_value, own_vjp = spread_loss(loss, comm)(logits[rows].copy("A"), labels[rows])
        return own_value, own_vjp(), vjp()[rows]

    losses = run_on_ranks(count, on_rank)
    assert len({float(own_value) for own_value, _, _ in losses}) == 1
    for own_value, d, expected in losses:
        assert isinstance(own_value, type(value))
        assert d.dtype == "float32"
        np.testing.assert_allclose(own_value, value, rtol=1e-6)
        np.testing.assert_allclose(d, expected, rtol=2e-7, atol=0)
        if count != 3:
            np.testing.assert_array_equal(d, expected)


def test_spread_loss_refuses_targets_that_do_not_match_the_outputs() -> None:
    outputs, labels = np.zeros((3, 5), np.float32), np.zeros(6, int)
    with pytest.raises(
        LossError, match=r"spread_loss: targets: expected one for each output, float32 \(3, 5\), got int64 \(6,\)"
    ):
        run_on_ranks(2, lambda comm: spread_loss(cross_entropy, comm)(outputs, labels))


def test_spread_loss_refuses_an_empty_batch() -> None:
    none = np.zeros((0, 3), np.float32)
    with pytest.raises(LossError, match="at least one example"):
        run_on_ranks(2, lambda comm: spread_loss(cross_entropy, comm)(none, np.zeros(0, int)))


def test_spread_loss_is_nan_on_all_ranks_if_it_is_on_one() -> None:
    def value(comm: Comm) -> float:
        errors = np.full((4, 1), np.nan if comm.rank == 1 else 1.0)
        return float(spread_loss(mse, comm)(errors, np.zeros((4, 1)))[0])

    assert np.isnan(run_on_ranks(3, value)).all()


def test_spread_sends_at_most_twice_the_size_of_the_params() -> None:
    params, x = NET.init(0, SHAPE), mpi_program.batch()[0]
    size = sum(leaf.nbytes for leaf in tree_leaves(params))

    def sent(comm: Comm) -> list[int]:
        y, vjp = spread(NET, comm, 1).apply(params, x[part(N, comm=comm)])
        vjp(y)
        assert isinstance(comm, Rank)
        return comm.team.sent

    messages = run_on_ranks(8, sent)[0]
    assert len(messages) == 8 * 2 * 3
    assert sum(messages) / 8 <= 2 * size
    assert max(messages) <= size / 2 + 4


def test_spread_keeps_dtypes_and_memory_orders_and_sends_a_message_per_dtype() -> None:
    leaves = {"w": np.zeros((3, 5)), "transposed": np.zeros((5, 3)).T, "b": np.zeros(()), "none": np.zeros((0, 2))}
    params = {dtype: {name: leaf.astype(dtype) for name, leaf in leaves.items()} for dtype in ("float16", "float32")}

    def apply(params: fnn.Params, x: fnn.Array) -> tuple[fnn.Array, Any]:
        return x, lambda dy, need_dx=True: (fnn.tree_map(lambda a: np.full(a.shape, dy.sum(), a.dtype), params), dy)

    def grads(comm: Comm) -> tuple[fnn.Params, int]:
        x = np.ones((6, 1), np.float32)[part(6, comm=comm)]
        y, vjp = spread(Op(lambda key, shape: params, apply), comm, 1).apply(params, x)
        assert isinstance(comm, Rank)
        return vjp(y)[0], len(comm.team.sent)

    for summed, sent in run_on_ranks(2, grads):
        assert sent == 2 * 2 * 2
        fnn.tree_map(lambda a, p: np.testing.assert_array_equal(a, np.full_like(p, 6), strict=True), summed, params)
        assert [leaf.flags.fnc for leaf in tree_leaves(summed)] == [False, True, False, False] * 2


def test_spread_raises_on_every_rank_if_a_part_has_another_size() -> None:
    def apply(comm: Comm) -> str:
        x = np.zeros((3 if comm.rank == 2 else 2, 4), np.float32)
        with pytest.raises(OpError) as raised:
            spread(dense(2), comm, 1).apply(dense(2).init(0, (4,)), x)
        return str(raised.value)

    [message] = set(run_on_ranks(4, apply))
    assert message == "spread: rank 2: expected its part, 2 of 9 examples, got 3"


@pytest.mark.parametrize("other", [dense(3), dense(2, bias=False)])
def test_spread_raises_on_every_rank_if_params_differ(other: Op) -> None:
    def apply(comm: Comm) -> str:
        op = other if comm.rank == 1 else dense(2)
        with pytest.raises(OpError) as raised:
            spread(op, comm, 1).apply(op.init(0, (4,)), np.zeros((2, 4), np.float32))
        return str(raised.value)

    [message] = set(run_on_ranks(2, apply))
    expected = "the names, shapes, dtypes and memory orders of rank 0"
    assert message == f"spread: params: expected {expected}, got others on rank 1"


@pytest.mark.parametrize(("workers", "size"), [(0, 128), (1, 0), (1, 2.5)])
def test_spread_refuses_bad_workers_and_sizes(workers: int, size: int) -> None:
    with pytest.raises(OpError, match=r"^spread: (workers|size): expected an int of at least 1, got"):
        spread(NET, workers=workers, size=size)


@pytest.mark.parametrize(("n", "size"), [(-1, 2), (2, 0), (1.5, 2)])
def test_part_refuses_bad_numbers(n: int, size: int) -> None:
    with pytest.raises(OpError, match=r"^(n: expected an int of at least 0|size: expected an int of at least 1), got"):
        part(n, size)


def test_cores_per_rank_splits_the_cores_between_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "cores", lambda: 8)
    assert run_on_ranks(3, ranks.cores_per_rank) == [2, 2, 2]
    monkeypatch.setattr(ranks, "cores", lambda: 1)
    assert run_on_ranks(2, ranks.cores_per_rank) == [1, 1]


def run_alone(code: str, *launcher: str) -> "subprocess.CompletedProcess[str]":
    """Runs Python code with these variables of a launcher, and no others, in the environment."""
    launchers = ("PMI", "OMPI_", "MPI_")
    kept = {name: value for name, value in programs.environment().items() if not name.startswith(launchers)}
    variables = kept | dict(setting.split("=") for setting in launcher)
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)


@pytest.mark.slow
def test_mpi_is_not_imported_without_a_launcher() -> None:
    code = """
import sys
import fnn.mpi
from fnn import cross_entropy, dense
from fnn.mpi import part, program, spread, spread_loss, totals, world
from fnn.testing import check_op
def main():
    assert (world().rank, world().size, part(10), totals(1, 2)) == (0, 1, slice(0, 10), [1, 2])
    assert world().bcast(5) == 5
    assert spread_loss(cross_entropy) is cross_entropy
    check_op(spread(dense(3), size=2), (4,), batch=7)
    print(repr(spread(dense(3), workers=1)))
    return 7
status = program(main)
assert "mpi4py" not in sys.modules
sys.exit(status)
"""
    done = run_alone(code)
    assert (done.returncode, done.stdout, done.stderr) == (7, "spread(dense(3), workers=1)\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["sys.modules['mpi4py'] = None", "sys.meta_path.insert(0, Broken())"])
def test_program_without_mpi_names_the_extra_once_per_machine(reason: str) -> None:
    code = f"""
import sys
import fnn.mpi
class Broken:
    def find_spec(self, name, path, target=None):
        if name == "mpi4py":
            raise RuntimeError("cannot load MPI library")
{reason}
sys.exit(fnn.mpi.program(lambda: 0))
"""
    first, second = (run_alone(code, f"PMI_RANK={rank}", "PMI_SIZE=2", f"MPI_LOCALRANKID={rank}") for rank in (0, 1))
    message = "error: a program under mpiexec needs mpi4py and its MPI: pip install '.[mpi]'\n"
    assert (first.returncode, first.stderr) == (1, message)
    assert (second.returncode, second.stderr) == (1, "")


def test_world_refuses_the_mpiexec_of_another_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(COMM_WORLD=SimpleNamespace(rank=0, size=1))
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=other))
    monkeypatch.setenv("PMI_RANK", "3")
    assert world().size == 1
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(MPIError, match=r"^expected 4 processes, got 1: use the mpiexec of mpi4py's MPI"):
        world()


needs_mpi = pytest.mark.skipif(
    not (launcher() and find_spec("mpi4py")), reason="needs mpi4py and mpiexec: pip install '.[mpi]'"
)


def mpiexec(count: int, task: str, path: Path = Path()) -> "subprocess.CompletedProcess[str]":
    """Runs a task of `mpi_program` on `count` ranks, for at most two minutes."""
    return subprocess.run(command(count, task, path), env=environment(), capture_output=True, text=True, timeout=120)


def command(count: int, task: str, path: Path = Path()) -> list[str]:
    """Returns the command that runs a task of `mpi_program` on `count` ranks."""
    return [str(launcher()), "-n", str(count), sys.executable, mpi_program.__file__, task, str(path)]


def environment() -> dict[str, str]:
    """Returns the environment, with settings that let Open MPI's mpiexec run as root and with more ranks than cores."""
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return programs.environment(PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe", **allowed)


@needs_mpi
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_mpiexec_trains_the_same_params_as_one_process(count: int, tmp_path: Path) -> None:
    done = mpiexec(count, "train_and_save", tmp_path / "params.pkl")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{count} ranks\n0\n")
    params = fnn.load(tmp_path / "params.pkl")
    if count != 3:
        assert bits(params) == bits(REFERENCE)
    fnn.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), params, REFERENCE)


@needs_mpi
def test_check_op_of_spread_on_one_rank_of_mpi() -> None:
    done = mpiexec(1, "check_spread")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@needs_mpi
@pytest.mark.parametrize(
    ("count", "task", "status", "stderr"),
    [
        (
            3,
            "fail_on_one_rank",
            1,
            "rank 1 of 3: Traceback (most recent call last):\n.*RuntimeError: the disk is on fire\n",
        ),
        (4, "fail_on_all_ranks", 3, "mpi_program.py: error: no such file: .\n"),
        (2, "fail_on_a_flag", 2, "usage: mpi_program.py [-h]\nmpi_program.py: error: a bad flag\n"),
        (
            2,
            "pass_the_whole_batch",
            1,
            "Traceback (most recent call last):\n.*rank 0: expected its part, 68 of 136 examples, got 45",
        ),
    ],
)
def test_program_ends_all_ranks_with_one_message_if_one_fails(count: int, task: str, status: int, stderr: str) -> None:
    done = mpiexec(count, task)
    assert done.returncode == status
    start, *end = stderr.split(".*")
    assert done.stderr.startswith(start)
    assert all(text in done.stderr for text in end)
    assert done.stderr.count("rror: ") == 1


@needs_mpi
def test_mpiexec_ends_all_ranks_if_one_is_killed() -> None:
    done = mpiexec(3, "kill_one_rank")
    assert done.returncode != 0
    assert (done.stdout + done.stderr).lower().count("killed") == 1
    assert "Traceback" not in done.stderr


@needs_mpi
def test_totals_let_all_ranks_stop_after_the_same_step() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command(3, "stop_on_a_signal"), env=environment(), stdout=pipe, stderr=pipe, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "three steps\n"
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=120)
    assert (run.returncode, out, err) == (143, "all stopped after the same step\n", "")
