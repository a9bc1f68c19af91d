"""Training over MPI: with threads in place of ranks, and with mpiexec if it is installed."""

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

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
from tests.support import mpi_main, programs
from tests.support.mpi_main import NET, SHAPE, SIZE, N

T = TypeVar("T")


class Team:
    """The state shared by the ranks of a communicator, which are threads of this process."""

    def __init__(self, size: int) -> None:
        self.size, self.slots = size, list[Any]([None] * size)
        self.barrier = threading.Barrier(size, timeout=30)
        self.mail = {(i, j): queue.Queue[Any]() for i in range(size) for j in range(size)}
        self.sent: list[int] = []


class Rank:
    """A communicator like mpi4py's, for one thread of a team."""

    def __init__(self, team: Team, rank: int) -> None:
        self.team, self.rank, self.size = team, rank, team.size

    def allgather(self, sendobj: Any) -> list[Any]:
        self.team.slots[self.rank] = sendobj
        self.team.barrier.wait()
        gathered = list(self.team.slots)
        self.team.barrier.wait()
        return gathered

    def Allgather(self, sendbuf: np.ndarray, recvbuf: np.ndarray) -> None:  # noqa: N802
        recvbuf.reshape(self.size, -1)[...] = [row.reshape(-1) for row in self.allgather(sendbuf.copy())]

    def Sendrecv(self, sendbuf: np.ndarray, dest: int, *, recvbuf: np.ndarray, source: int) -> None:  # noqa: N802
        self.team.sent.append(sendbuf.nbytes)
        self.team.mail[self.rank, dest].put(sendbuf.copy())
        recvbuf[...] = self.team.mail[source, self.rank].get(timeout=30)

    def bcast(self, obj: Any, root: int = 0) -> Any:
        return self.allgather(obj)[root]

    def Barrier(self) -> None:  # noqa: N802
        self.team.barrier.wait()

    def Abort(self, errorcode: int = 0) -> None:  # noqa: N802
        raise AssertionError


def together(size: int, f: Callable[[Comm], T]) -> list[T]:
    """Runs `f` on all ranks of a team; returns their results or raises the first rank's exception."""
    team, results, errors = Team(size), dict[int, T](), dict[int, Exception]()

    def run(rank: int) -> None:
        try:
            results[rank] = f(Rank(team, rank))
        except Exception as error:
            errors[rank] = error
            team.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise min(errors.items(), key=lambda item: (isinstance(item[1], threading.BrokenBarrierError), item[0]))[1]
    return [results[rank] for rank in range(size)]


def bits(tree: Any) -> list[bytes]:
    return [leaf.tobytes("A") for leaf in tree_leaves(tree)]


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 20))
def test_every_shard_belongs_to_one_rank_and_the_parts_follow_one_another(n: int, size: int, count: int) -> None:
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
def test_over_powers_of_two_all_bits_are_those_of_shard(count: int, n: int, size: int, seed: int) -> None:
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

    for rows, own_y, own_dparams, own_dx in together(count, apply):
        np.testing.assert_array_equal(own_y, y[rows])
        np.testing.assert_array_equal(own_dx, dx[rows])
        assert bits(own_dparams) == bits(dparams)


REFERENCE = mpi_main.train(shard(NET, 1, SIZE), cross_entropy, slice(None))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8])
def test_ranks_train_the_params_that_one_process_does(count: int) -> None:
    def train(comm: Comm) -> fnn.Params:
        return mpi_main.train(spread(NET, comm, 1, SIZE), spread_loss(cross_entropy, comm), part(N, SIZE, comm))

    trained = together(count, train)
    assert all(bits(params) == bits(trained[0]) for params in trained)
    if count.bit_count() == 1:
        assert bits(trained[0]) == bits(REFERENCE)
    fnn.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), trained[0], REFERENCE)


@given(st.sampled_from([2, 3, 4]), st.integers(1, 30), st.sampled_from([cross_entropy, smoothed_cross_entropy(0.1)]))
def test_the_loss_is_that_of_the_whole_batch(count: int, n: int, loss: fnn.losses.Loss) -> None:
    rng = np.random.default_rng(n)
    logits, labels = rng.standard_normal((5, n)).astype(np.float32).T, rng.integers(0, 5, n)
    value, vjp = loss(logits, labels)

    def own(comm: Comm) -> tuple[Any, fnn.Array, fnn.Array]:
        rows = part(n, 4, comm)
        # A copy, because each rank has its own output array.
        own_value, own_vjp = spread_loss(loss, comm)(logits[rows].copy("A"), labels[rows])
        return own_value, own_vjp(), vjp()[rows]

    losses = together(count, own)
    assert len({float(own_value) for own_value, _, _ in losses}) == 1
    for own_value, d, wanted in losses:
        assert isinstance(own_value, type(value))
        assert d.dtype == "float32"
        np.testing.assert_allclose(own_value, value, rtol=1e-6)
        np.testing.assert_allclose(d, wanted, rtol=2e-7, atol=0)
        if count != 3:
            np.testing.assert_array_equal(d, wanted)


def test_targets_that_are_not_the_outputs_are_refused_in_words() -> None:
    outputs, labels = np.zeros((3, 5), np.float32), np.zeros(6, int)
    with pytest.raises(
        LossError, match=r"spread_loss: targets: expected one for each output, float32 \(3, 5\), got int64 \(6,\)"
    ):
        together(2, lambda comm: spread_loss(cross_entropy, comm)(outputs, labels))


def test_a_loss_of_nothing_is_refused_as_ever() -> None:
    none = np.zeros((0, 3), np.float32)
    with pytest.raises(LossError, match="at least one example"):
        together(2, lambda comm: spread_loss(cross_entropy, comm)(none, np.zeros(0, int)))


def test_a_number_that_is_none_is_seen_by_all_ranks_at_once() -> None:
    def value(comm: Comm) -> float:
        errors = np.full((4, 1), np.nan if comm.rank == 1 else 1.0)
        return float(spread_loss(mse, comm)(errors, np.zeros((4, 1)))[0])

    assert np.isnan(together(3, value)).all()


def test_no_more_is_sent_than_twice_the_params_in_one_message_halved() -> None:
    params, x = NET.init(0, SHAPE), mpi_main.batch()[0]
    size = sum(leaf.nbytes for leaf in tree_leaves(params))

    def sent(comm: Comm) -> list[int]:
        y, vjp = spread(NET, comm, 1).apply(params, x[part(N, comm=comm)])
        vjp(y)
        assert isinstance(comm, Rank)
        return comm.team.sent

    messages = together(8, sent)[0]
    assert len(messages) == 8 * 2 * 3
    assert sum(messages) / 8 <= 2 * size
    assert max(messages) <= size / 2 + 4


def test_dtypes_and_memory_orders_are_kept_and_each_dtype_is_a_message() -> None:
    leaves = {"w": np.zeros((3, 5)), "turned": np.zeros((5, 3)).T, "b": np.zeros(()), "none": np.zeros((0, 2))}
    params = {dtype: {name: leaf.astype(dtype) for name, leaf in leaves.items()} for dtype in ("float16", "float32")}

    def apply(params: fnn.Params, x: fnn.Array) -> tuple[fnn.Array, Any]:
        return x, lambda dy, need_dx=True: (fnn.tree_map(lambda a: np.full(a.shape, dy.sum(), a.dtype), params), dy)

    def grads(comm: Comm) -> tuple[fnn.Params, int]:
        x = np.ones((6, 1), np.float32)[part(6, comm=comm)]
        y, vjp = spread(Op(lambda key, shape: params, apply), comm, 1).apply(params, x)
        assert isinstance(comm, Rank)
        return vjp(y)[0], len(comm.team.sent)

    for summed, sent in together(2, grads):
        assert sent == 2 * 2 * 2
        fnn.tree_map(lambda a, p: np.testing.assert_array_equal(a, np.full_like(p, 6), strict=True), summed, params)
        assert [leaf.flags.fnc for leaf in tree_leaves(summed)] == [False, True, False, False] * 2


def test_a_part_of_another_size_is_an_error_on_every_rank() -> None:
    def apply(comm: Comm) -> str:
        x = np.zeros((3 if comm.rank == 2 else 2, 4), np.float32)
        with pytest.raises(OpError) as raised:
            spread(dense(2), comm, 1).apply(dense(2).init(0, (4,)), x)
        return str(raised.value)

    [message] = set(together(4, apply))
    assert message == "spread: rank 2: expected its part, 2 of 9 examples, got 3"


@pytest.mark.parametrize("other", [dense(3), dense(2, bias=False)])
def test_other_params_on_a_rank_are_an_error_on_every_rank(other: Op) -> None:
    def apply(comm: Comm) -> str:
        op = other if comm.rank == 1 else dense(2)
        with pytest.raises(OpError) as raised:
            spread(op, comm, 1).apply(op.init(0, (4,)), np.zeros((2, 4), np.float32))
        return str(raised.value)

    [message] = set(together(2, apply))
    expected = "the names, shapes, dtypes and memory orders of rank 0"
    assert message == f"spread: params: expected {expected}, got others on rank 1"


@pytest.mark.parametrize(("workers", "size"), [(0, 128), (1, 0), (1, 2.5)])
def test_numbers_that_cannot_be_are_refused(workers: int, size: int) -> None:
    with pytest.raises(OpError, match=r"^spread: (workers|size): expected an int of at least 1, got"):
        spread(NET, workers=workers, size=size)


@pytest.mark.parametrize(("n", "size"), [(-1, 2), (2, 0), (1.5, 2)])
def test_there_is_no_part_of_what_is_no_batch(n: int, size: int) -> None:
    with pytest.raises(OpError, match=r"^(n: expected an int of at least 0|size: expected an int of at least 1), got"):
        part(n, size)


def test_cores_are_shared_out_among_the_ranks_that_may_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "cores", lambda: 8)
    assert together(3, ranks.cores_per_rank) == [2, 2, 2]
    monkeypatch.setattr(ranks, "cores", lambda: 1)
    assert together(2, ranks.cores_per_rank) == [1, 1]


def alone(code: str, *launcher: str) -> "subprocess.CompletedProcess[str]":
    """Runs Python code with these variables of a launcher, and no others, in the environment."""
    launchers = ("PMI", "OMPI_", "MPI_")
    kept = {name: value for name, value in programs.environment().items() if not name.startswith(launchers)}
    variables = kept | dict(setting.split("=") for setting in launcher)
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)


def test_without_a_launcher_a_process_is_alone_and_mpi_is_not_touched() -> None:
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
    done = alone(code)
    assert (done.returncode, done.stdout, done.stderr) == (7, "spread(dense(3), workers=1)\n", "")


@pytest.mark.parametrize("reason", ["sys.modules['mpi4py'] = None", "sys.meta_path.insert(0, Broken())"])
def test_a_launched_program_without_mpi_names_the_extra_once_a_machine(reason: str) -> None:
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
    first, second = (alone(code, f"PMI_RANK={rank}", "PMI_SIZE=2", f"MPI_LOCALRANKID={rank}") for rank in (0, 1))
    message = "error: a program under mpiexec needs mpi4py and its MPI: pip install '.[mpi]'\n"
    assert (first.returncode, first.stderr) == (1, message)
    assert (second.returncode, second.stderr) == (1, "")


def test_an_mpiexec_of_another_mpi_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(COMM_WORLD=SimpleNamespace(rank=0, size=1))
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=other))
    monkeypatch.setenv("PMI_RANK", "3")
    assert world().size == 1
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(MPIError, match=r"^expected 4 processes, got 1: use the mpiexec of mpi4py's MPI"):
        world()


with_mpi = pytest.mark.skipif(
    not (launcher() and find_spec("mpi4py")), reason="needs mpi4py and mpiexec: pip install '.[mpi]'"
)


def mpiexec(count: int, task: str, path: Path = Path()) -> "subprocess.CompletedProcess[str]":
    """Runs a task of `mpi_main` on `count` ranks, for at most two minutes."""
    return subprocess.run(command(count, task, path), env=environment(), capture_output=True, text=True, timeout=120)


def command(count: int, task: str, path: Path = Path()) -> list[str]:
    return [str(launcher()), "-n", str(count), sys.executable, mpi_main.__file__, task, str(path)]


def environment() -> dict[str, str]:
    """The environment, with settings that let Open MPI's mpiexec run as root and with more ranks than cores."""
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return programs.environment(PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe", **allowed)


@with_mpi
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_mpiexec_trains_the_params_that_one_process_does(count: int, tmp_path: Path) -> None:
    done = mpiexec(count, "trained", tmp_path / "params.pkl")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{count} ranks\n0\n")
    params = fnn.load(tmp_path / "params.pkl")
    if count != 3:
        assert bits(params) == bits(REFERENCE)
    fnn.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), params, REFERENCE)


@with_mpi
def test_one_rank_of_mpi_has_the_properties_of_an_operator() -> None:
    done = mpiexec(1, "checked")
    assert (done.returncode, done.stderr) == (0, "")


@with_mpi
@pytest.mark.parametrize(
    ("count", "task", "status", "stderr"),
    [
        (3, "failing", 1, "rank 1 of 3: Traceback (most recent call last):\n.*RuntimeError: the disk is on fire\n"),
        (4, "failing_alike", 3, "mpi_main.py: error: no such file: .\n"),
        (2, "misused", 2, "usage: mpi_main.py [-h]\nmpi_main.py: error: a bad flag\n"),
        (
            2,
            "misfit",
            1,
            "Traceback (most recent call last):\n.*rank 0: expected its part, 68 of 136 examples, got 45",
        ),
    ],
)
def test_a_rank_that_fails_ends_all_with_one_message(count: int, task: str, status: int, stderr: str) -> None:
    done = mpiexec(count, task)
    assert done.returncode == status
    start, *end = stderr.split(".*")
    assert done.stderr.startswith(start)
    assert all(text in done.stderr for text in end)
    assert done.stderr.count("rror: ") == 1


@with_mpi
def test_a_rank_that_is_killed_ends_all() -> None:
    done = mpiexec(3, "killed")
    assert done.returncode != 0
    assert (done.stdout + done.stderr).lower().count("killed") == 1
    assert "Traceback" not in done.stderr


@with_mpi
def test_a_signal_stops_all_ranks_after_the_same_step() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(command(3, "stopped"), env=environment(), stdout=pipe, stderr=pipe, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "three steps\n"
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=120)
    assert (run.returncode, out, err) == (143, "all stopped after the same step\n", "")
