import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, machine
from benchmarks.__main__ import arguments, describe_setup, main
from benchmarks.catalogue import WORKLOADS
from benchmarks.fnn_peer import flops
from benchmarks.harness import Job, Outcome, Reply, WorkerError, run_rounds, start_worker
from benchmarks.machine import FORCING, blas_kernel, forcing_variables, peak_mb, processor, usable_cores
from benchmarks.peers import PEERS, Peer
from benchmarks.profile import Stopwatch, profile, timed_step
from benchmarks.report import NOTHING, best_peer, geometric_mean, left_out, ratio_text, ratios, table, time_text
from benchmarks.sections import Section, core_gflops, summary
from benchmarks.worker import answer, measure_memory, norms
from benchmarks.workloads import CNN, FAMILIES, SGEMM, Shape, Workload, select


def test_flops_of_inference_counts_one_product_per_layer() -> None:
    conv1, conv2, dense = 28 * 28 * 6 * 9, 14 * 14 * 12 * 54, 588 * 512 + 512 * 128 + 128 * 10
    assert flops(WORKLOADS["infer-256"]) == 256 * 2 * (conv1 + conv2 + dense)


def test_flops_of_training_counts_three_products_per_layer_and_two_for_the_first() -> None:
    conv1, conv2, dense = 84_672, 254_016, 2 * (588 * 512 + 512 * 128 + 128 * 10)
    assert flops(WORKLOADS["cnn-100"]) == 100 * (2 * conv1 + 3 * (conv2 + dense))
    assert flops(WORKLOADS["tiny"]) == 32 * 2 * (2 * 16 * 32 + 3 * 32 * 4)


def test_workloads_have_the_layers_that_their_names_say() -> None:
    def dense(name: str) -> list[Shape]:
        params = WORKLOADS[name].data()[0]
        return [params[part]["w"].shape for part in params if part.startswith("dense")]

    assert dense("cnn-32") == dense("infer-1") == [(588, 512), (512, 128), (128, 10)]
    assert dense("lenet") == [(3136, 128), (128, 10)]
    assert dense("fc") == [(784, 512), (512, 128), (128, 10)]
    assert dense("tiny") == [(16, 32), (32, 4)]


def test_workload_data_is_reproducible_and_its_labels_are_classes() -> None:
    (_, x, y), (_, x2, _) = WORKLOADS["tiny"].data(), WORKLOADS["tiny"].data()
    assert x.shape == (32, 16)
    assert x.dtype == "float32"
    assert (x == x2).all()
    assert 0 <= y.min() <= y.max() < 4


def test_select_takes_families_and_names_and_returns_each_workload_once_in_order() -> None:
    assert [work.name for work in select(["fc", "cnn-256", "fc"])] == ["cnn-256", "fc"]
    assert select(list(FAMILIES)) == [work for family in FAMILIES.values() for work in family]
    with pytest.raises(
        ValueError, match=r"^expected workloads from cnn, fc, tiny, lenet, infer, cnn-100.*, got 'cnn-33'$"
    ):
        select(["fc", "cnn-33"])


TIMES = {"fnn": [1.0, 2.0, 4.0], "old": [1.0, 1.0, 1.0], "torch": [3.0, 3.0, 30.0], "jax": [9.0, 3.5, 3.6]}


def test_best_peer_has_the_lowest_median_and_is_never_fnn() -> None:
    assert best_peer(TIMES) == "torch"
    assert best_peer({"fnn": [1.0]}) is None


def test_ratios_compare_times_of_the_same_round() -> None:
    assert ratios(TIMES, "torch") == [3.0, 1.5, 7.5]
    assert ratio_text(ratios(TIMES, "torch")) == "3.00 (1.50 to 7.50)"


def test_ratios_without_fnn_or_without_a_peer_are_empty() -> None:
    assert ratios({"torch": [1.0]}, "torch") == ratios({"fnn": [1.0]}, None) == []
    assert ratio_text([]) == NOTHING


def test_geometric_mean_of_half_and_twice_the_speed_is_1() -> None:
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1)
    assert geometric_mean([4.0]) == pytest.approx(4)


def test_summary_has_the_geometric_mean_and_the_worst_case_of_each_section() -> None:
    section = Section("Nets, 1 thread", "", {"best peer": {"unet": 0.5, "vgg": 2.0}, "old": {"unet": 3.0}})
    lines = summary([section, Section("Empty", "", {})]).splitlines()
    assert re.search(r"Nets, 1 thread, fnn / best peer +\| +2 \| +1\.00 \| 0\.50 \(unet\)", lines[4])
    assert re.search(r"Nets, 1 thread, fnn / old +\| +1 \| +3\.00 \| 3\.00 \(unet\)", lines[5])
    assert len(lines) == 6


def test_table_is_markdown_with_aligned_columns() -> None:
    assert table(["a", "long one"], [["row", "1"], ["x", "22"]]).splitlines() == [
        "| a   | long one |",
        "| --- | -------: |",
        "| row |        1 |",
        "| x   |       22 |",
    ]


def test_table_may_have_no_rows() -> None:
    assert table(["peer", "ms"], []).splitlines() == ["| peer |  ms |", "| ---- | --: |"]


def test_time_text_has_three_digits() -> None:
    assert [time_text(ms) for ms in (0.0351, 0.24, 6.0862, 13.71)] == ["0.0351", "0.240", "6.09", "13.7"]


def test_left_out_has_a_line_for_each_peer_and_reason() -> None:
    failures = {"jax": {"fc": "none", "tiny": "none", "cnn-32": "too slow"}}
    assert left_out(failures) == ["Left out: jax (fc, tiny): none", "Left out: jax (cnn-32): too slow"]


class FakeWorker:
    """A worker that answers with these times, then fails."""

    def __init__(self, peer: str, *times: float, numbers: Sequence[float] = ()) -> None:
        self.peer, self.times, self.numbers, self.requests = peer, list(times), numbers, 0

    def ask(self, workload: str, seconds: float) -> Reply:
        self.requests += 1
        if not self.times:
            raise WorkerError("no more")
        return Reply(self.times.pop(0), numbers=self.numbers)


def run(*workers: FakeWorker, rounds: int) -> Outcome:
    jobs = [Job(worker, "tiny") for worker in workers]
    return run_rounds(jobs, rounds, 0.1, lambda text: None)


def test_run_rounds_asks_each_worker_in_turn() -> None:
    messages: list[str] = []
    run_rounds([Job(FakeWorker(name, 1, 2), "tiny") for name in ("a", "b")], 2, 0.1, messages.append)
    assert messages == [f"round {nth} of 2: tiny, {name}" for nth in (1, 2) for name in ("a", "b")]


def test_run_rounds_drops_a_worker_that_fails() -> None:
    good, bad = FakeWorker("good", 1, 2, 3), FakeWorker("bad", 1)
    outcome = run(good, bad, rounds=3)
    assert outcome.times("tiny") == {"good": [1, 2, 3]}
    assert outcome.failures == {"bad": {"tiny": "no more"}}
    assert bad.requests == 2


def test_run_rounds_drops_a_worker_that_computes_something_else() -> None:
    good, wrong = FakeWorker("good", 1, numbers=[1.0, 0.0]), FakeWorker("wrong", 1, numbers=[1.001, 0.0])
    short = FakeWorker("short", 1, numbers=[1.0])
    outcome = run(good, wrong, short, FakeWorker("rounded", 1, numbers=[1.00001, 1e-20]), rounds=1)
    assert outcome.times("tiny").keys() == {"good", "rounded"}
    assert outcome.failures["wrong"] == {"tiny": "computes something else: 1.001 instead of 1"}
    assert outcome.failures["short"] == {"tiny": "expected 2 numbers that describe the results, got 1"}


def test_core_gflops_is_the_best_median_of_the_timed_products() -> None:
    flops = SGEMM["sgemm-1024"].flops
    replies = {"sgemm-1024": {"fnn": [Reply(ms, None) for ms in (flops / 50e6, flops / 100e6, flops / 90e6)]}}
    assert core_gflops(Outcome(replies, {})) == pytest.approx(90)
    assert core_gflops(Outcome({}, {})) is None


def test_worker_reports_an_error_and_continues() -> None:
    with start_worker("fnn", 1) as worker:
        with pytest.raises(WorkerError, match="KeyError: 'nothing'"):
            worker.ask("nothing", 0.01)
        assert worker.ask("sgemm-small", 0.01).ms > 0


def test_worker_that_answers_too_late_is_ended_and_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with start_worker("fnn", 1) as worker:
        monkeypatch.setattr(harness, "PATIENCE", -9.0)
        with pytest.raises(WorkerError, match=r"^no answer in -9 s$"):
            worker.ask("sgemm-small", 9.0)
        monkeypatch.undo()
        assert worker.ask("sgemm-small", 0.01).ms > 0


def test_worker_uses_the_fnn_of_another_checkout(tmp_path: Path) -> None:
    (tmp_path / "fnn").mkdir()
    (tmp_path / "fnn" / "__init__.py").write_text("raise RuntimeError('another checkout')", "utf-8")
    with start_worker("old", 1, checkout=tmp_path) as worker, pytest.raises(WorkerError, match="another checkout"):
        worker.ask("tiny", 0.01)


def test_answer_describes_the_results_and_the_memory_of_a_step() -> None:
    reply = answer(PEERS["fnn"], 1, {}, "dense-16-32", 0.0)
    assert reply["ms"] == 0
    assert isinstance(reply["numbers"], list)
    assert len(reply["numbers"]) == 6
    assert norms([np.array([3.0, -4.0]), np.zeros(2)]) == (5, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_measure_memory_counts_the_arrays_of_a_step() -> None:
    assert 60 < (measure_memory(lambda: (np.ones(8_000_000).sum(),)) or 0) < 70


def test_answer_of_a_missing_package_is_an_error_of_one_line() -> None:
    reply = answer(Peer("nowhere"), 1, {}, "tiny", 0.01)
    assert reply == {"error": "the package benchmarks.nowhere_peer is missing; run pip install '.[benchmarks]'"}


@pytest.mark.slow
def test_main_runs_fnn_alone_and_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.md"
    flags = ["--workloads", "tiny", "--threads", "1", "--rounds", "2", "--seconds", "0.02", "--peers", "fnn", "--out"]
    main([*flags, str(out)])
    assert re.search(r"\| tiny +\| +\d+\.\d+ \| +\d+% \|", out.read_text("utf-8"))
    assert out.read_text("utf-8") == capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--workloads cnn-33", "got 'cnn-33'; also allowed: memory, growth, imports"),
        ("--threads 0", "--threads: expected 1 to "),
        ("--rounds 0", "expected rounds from 1 and seconds from 0 to 3600, got 0 and None"),
        ("--seconds nan", "got 5 and nan"),
        ("--nets u* alexnet", "--nets: expected patterns of residual, separable, unet"),
        ("--layers lstm", "memory-group-norm, got 'lstm'"),
        ("--isa sse2", "--isa: invalid choice: 'sse2'"),
        ("--against /nowhere", "--against: expected a folder with fnn, got /nowhere"),
        ("--peers keras", "invalid choice: 'keras'"),
        ("--out /nowhere/report.md", "--out: expected a file in a writable folder, got /nowhere/report.md"),
    ],
)
def test_arguments_refuses_bad_flags(flags: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(flags.split())
    assert message in capsys.readouterr().err


def test_peer_environment_sets_one_blas_thread_for_fnn_and_all_for_others() -> None:
    assert PEERS["fnn"].environment(2)["OPENBLAS_NUM_THREADS"] == "1"
    assert PEERS["torch"].environment(2)["OMP_NUM_THREADS"] == "2"


def test_peer_environment_limits_every_framework_to_avx2() -> None:
    environment = PEERS["jax"].environment(2, "avx2")
    assert environment.items() >= {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2"}.items()
    assert environment["XLA_FLAGS"].startswith("--xla_cpu_max_isa=AVX2 --xla_cpu_multi_thread_eigen=true")
    assert "OPENBLAS_CORETYPE" not in PEERS["jax"].environment(2)


def test_peers_without_fnn_do_not_keep_its_settings_of_the_process() -> None:
    assert PEERS["torch"].environment(1)["FNN_KEEP_PAGES"] == "0"
    assert "FNN_KEEP_PAGES" not in PEERS["fnn"].environment(1)


def test_peers_take_their_tasks_and_orders_of_images() -> None:
    taken = {name: [peer for peer in PEERS if PEERS[peer].takes(WORKLOADS[name])] for name in ("tiny", "relu")}
    assert taken["tiny"] == ["fnn", "old", "torch", "torch-compile", "jax"]
    assert taken["relu"] == ["fnn", "old", "torch", "torch-channels-last", "jax"]
    assert PEERS["torch-channels-last"].takes(WORKLOADS["generator"])
    assert PEERS["onnxruntime"].takes(WORKLOADS["cnn-infer-1"])


def test_arguments_select_nets_and_layers_by_pattern_instead_of_workloads() -> None:
    args = arguments(["--nets", "u*", "*infer-1", "--layers", "memory-c*", "relu"])
    assert [work.name for work in args.nets] == ["unet", "cnn-infer-1", "residual-infer-1", "transformer-infer-1"]
    assert [work.name for work in args.layers] == ["relu"]
    assert len(args.strided) == 5
    assert args.workloads == []
    assert len(arguments(["--nets"]).nets) == 14
    assert arguments([]).workloads
    assert not arguments([]).nets


def test_report_starts_with_what_the_environment_forces_and_names_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FORCING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    first, *_ = describe_setup(arguments(["--peers", "fnn"])).splitlines()
    assert first.endswith("because the environment sets OPENBLAS_CORETYPE=Haswell.")
    assert "limited to avx2; NumPy's BLAS: " in describe_setup(arguments(["--isa", "avx2"]))
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    assert forcing_variables({"PATH": "", "NPY_DISABLE_CPU_FEATURES": "X86_V4"}) == "NPY_DISABLE_CPU_FEATURES=X86_V4"
    assert forcing_variables({}) == ""


@pytest.mark.skipif(find_spec("threadpoolctl") is None, reason="needs the extra threads")
def test_blas_kernel_depends_on_the_environment() -> None:
    assert blas_kernel(os.environ)
    if platform.machine() == "x86_64" and "openblas" in blas_kernel(os.environ):
        assert blas_kernel({**os.environ, "OPENBLAS_CORETYPE": "Haswell"}).endswith("for Haswell")


def test_blas_kernel_names_the_extra_without_threadpoolctl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "threadpoolctl.py").write_text("raise ImportError(\"No module named 'threadpoolctl'\")", "utf-8")
    found = blas_kernel({**os.environ, "PYTHONPATH": str(tmp_path)})
    assert found == "unknown; pip install '.[threads]' to see it"


def test_timed_step_records_every_part_forward_and_backward() -> None:
    watch = Stopwatch()
    timed_step(Workload("small", CNN, (1, 8, 8), 4), 1, watch)()
    parts = ["conv1", "maxpool1", "tanh1", "conv2", "maxpool2", "tanh2", "dense1", "tanh3", "dense2", "tanh4", "dense3"]
    both = {(name, part) for name in [*parts, "loss"] for part in ("forward", "vjp")}
    assert watch.spent().keys() >= both
    assert watch.spent().keys() - both == {("update", "forward")}


def test_profile_shares_add_up_to_100_percent() -> None:
    lines = profile(WORKLOADS["tiny"], 1, 0.05).splitlines()
    shares = [float(share) for line in lines for share in re.findall(r"(-?[\d.]+)% \|$", line)]
    assert len(shares) == len(["dense1", "tanh1", "dense2", "loss", "update", "rest"])
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))


def test_processor_and_usable_cores_describe_the_machine() -> None:
    assert processor()
    assert usable_cores() >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_peak_mb_includes_a_large_array() -> None:
    block = np.ones(16_000_000)
    assert (peak_mb() or 0) > block.nbytes / 1e6


def test_others_cores_excludes_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, busy, own = iter([10.0, 14.0]), iter([100.0, 106.0]), iter([5.0, 9.0])
    monkeypatch.setattr(machine, "monotonic", lambda: next(clock))
    monkeypatch.setattr(machine, "_busy_seconds", lambda: next(busy))
    monkeypatch.setattr(machine, "_own_seconds", lambda: next(own))
    assert machine.Others().cores() == pytest.approx(0.5)


def test_busy_seconds_excludes_idle_and_waiting_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: "cpu  100 20 3 7000 9000 4 5 6 0 0\ncpu0 1 2\n")
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    assert machine._busy_seconds() == pytest.approx((100 + 20 + 3 + 4 + 5 + 6) / 100)
