"""The scaling benchmark: its model compared with sums by hand, and its command."""

import re
from importlib.util import find_spec
from math import inf
from pathlib import Path

import pytest

from benchmarks.machine import usable_cores
from benchmarks.scaling import RANKS, TOTAL, Net, Network, arguments, launcher, limits, main, predictions

FREE, SLOW = Network("free", 0, inf), Network("slow", 1e-3, 1e6)


def net(packing: float = 0, swap: tuple[float, float] = (0, 0)) -> Net:
    """Returns a net with a million bytes of gradients; a step takes one second plus one second per image."""
    times = {f"one {images}": [9999.0, 1.0 + images] for images in RANKS}
    return Net("net", 1_000_000, {**times, "packing": [packing], "swap": [swap[0]], "swap all": [swap[1]]})


def test_net_step_adds_compute_packing_and_exchange() -> None:
    assert net().step(1, 1, SLOW) == 2
    assert net(packing=0.5).step(8, 4, FREE) == 3.5
    # 10 latencies: 2 levels of 2 exchanges and 3 small messages. 1.5 times the bytes: 2 * (1 - 1/4).
    assert net().step(8, 4, SLOW) == pytest.approx(3 + 10e-3 + 1.5)


def test_net_gain_is_a_ratio_of_images_per_second() -> None:
    assert net().gain(4 * 8, 8, 4, FREE) == 4
    assert net().gain(4, 4, 4, FREE) == 5 / 2


def test_net_gains_compare_times_of_the_same_round() -> None:
    times = {"one 256": [1.0, 2.0], "all 512": [1.0, 1.0], "one 512": [1.5, 3.0]}
    assert Net("net", 1, times).gains(512, 256) == [2, 4]
    assert Net("net", 1, times).gains(512, 512) == [1.5, 3]


def test_net_here_describes_this_machine_as_a_network() -> None:
    assert net(swap=(0.25, 0.75)).here() == Network("this machine", 0.25, 2_000_000)


def test_predictions_have_a_row_for_every_number_of_ranks() -> None:
    lines = predictions([net()], 256, SLOW).splitlines()
    assert lines[0] == "### Predicted efficiency with slow (assumed: 1000 µs and 0.001 GB/s)"
    rows = [line for line in lines if re.match(r"\| [\d,]+ ", line)]
    assert [row.split()[1] for row in rows] == [f"{ranks:,}" for ranks in RANKS]
    assert rows[0].split()[3::2] == ["100%", "100%"]


def test_limits_says_how_many_ranks_are_efficient() -> None:
    assert limits(net(), 256, FREE) == (
        "- net: with 256 images per rank, efficiency is at least 50% up to 1,024 ranks; with 1,024 in total, up to "
        "1,024, and the maximum speedup is 512, with 1,024 ranks."
    )
    assert "up to 512, and the maximum" in limits(net(packing=0.1), 256, FREE)
    assert TOTAL == 1024


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--ranks 1", "--ranks: expected 2 to "),
        ("--ranks 1000", "one per core, got 1000"),
        ("--batch 100", "--batch: expected a power of two up to 1024, got 100"),
        ("--rounds 0", "expected rounds from 1 and seconds from 0 to 3600, got 0 and 0.5"),
        ("--seconds nan", "got 5 and nan"),
        ("--nets tiny", "invalid choice: 'tiny'"),
        ("--out /nowhere/report.md", "--out: expected a file in a writable folder, got /nowhere/report.md"),
    ],
)
def test_arguments_refuses_bad_flags(flags: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(flags.split())
    assert message in capsys.readouterr().err


def test_arguments_names_the_extra_without_mpiexec(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.scaling.launcher", lambda: None)
    monkeypatch.setattr("benchmarks.scaling.usable_cores", lambda: 2)
    with pytest.raises(SystemExit):
        arguments([])
    assert "needs mpiexec and mpi4py: pip install '.[mpi]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    not (launcher() and find_spec("mpi4py")) or usable_cores() < 2, reason="needs two cores and the extra mpi"
)
def test_main_measures_two_ranks_and_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.md"
    main(["--nets", "fc", "--rounds", "1", "--seconds", "0.01", "--batch", "8", "--out", str(out)])
    report = out.read_text("utf-8")
    assert report == capsys.readouterr().out
    assert re.search(r"\| fc, weak, 16 +(\| +[\d,]+ ){2}\| \d+\.\d\d \(.*\) \| +\d+\.\d\d \|", report)
    assert re.search(r"\| 1,024 +(\| +\d+% ){2}\|", report)
