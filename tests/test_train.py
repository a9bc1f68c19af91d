import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

import fnn
import train
from fnn.run import IMAGES
from fnn.run.settings import NETS_BY_NAME
from tests.support import programs
from tests.support.runs import bits, metrics_without_times, write_small_mnist
from tests.support.signals import NUMBERS, default_handlers

PROGRAM = Path(__file__).parent.parent / "train.py"

DENSE = fnn.serial(fnn.dense(2), fnn.sigmoid, fnn.dense(3), fnn.sigmoid, fnn.dense(4))
"""A net with the same layers as the program's dense net, but other sizes."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def small_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in MNIST's format, with 300 training and 100 test images."""
    return write_small_mnist(tmp_path_factory.mktemp("mnist"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment variables of a machine without MNIST and without a network."""
    variables = {
        name: value
        for name, value in programs.environment().items()
        if name != "FNN_DATA" and "proxy" not in name.lower()
    }
    closed = "http://127.0.0.1:9"
    return variables | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "https_proxy": closed, "http_proxy": closed}


@pytest.fixture
def run(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs the program with flags, in this process, because a new one takes 0.2 s to start."""

    def run(*flags: object, **more: str) -> "subprocess.CompletedProcess[str]":
        arguments = ["train.py", *map(str, flags)]
        with patch.object(sys, "argv", arguments), patch.dict(os.environ, environment | more, clear=True):
            try:
                status = train.main()
            except SystemExit as ended:  # of a wrong flag, or of --help
                status = int(ended.code or 0)
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run


def test_train_prints_progress_and_saves_the_run(small_mnist: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    done = programs.python(PROGRAM, "--data", small_mnist, "--limit", 290, "--epochs", 2, "--out", folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"data: {small_mnist}: 290 training images, 100 test images"
    assert any(line.startswith("total ") and " 369,242 " in line for line in lines)
    assert re.fullmatch(r"epoch: 2 iter: 290 loss: \d\.\d{4} acc: [01]\.\d{3} n_correct: \d+", lines[-3])
    assert re.fullmatch(r"test acc: 0\.\d{4} \(\d+/100\)", lines[-2])
    saved = re.escape(str(folder / "params.pkl"))
    assert re.fullmatch(rf"finished in \d+\.\d s; test acc: 0\.\d{{4}}; params: {saved}", lines[-1])
    assert "\r" not in done.stdout
    assert sorted(os.listdir(folder)) == ["config.json", "lock", "metrics.jsonl", "params.pkl", "state.pkl"]
    config = json.loads((folder / "config.json").read_text())
    expected = {
        "recipe": "default",
        "net": NETS_BY_NAME["cnn"],
        "epochs": 2,
        "batch_size": 100,
        "lr": 0.1,
        "limit": 290,
        "seed": 0,
    }
    assert config | expected | IMAGES | {"data": str(small_mnist)} == config
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert f"test acc: {metrics[1]['test_accuracy']:.4f}" in lines[-2]


@pytest.mark.slow
def test_train_gives_the_same_bits_twice_and_for_any_workers(run: Run, small_mnist: Path, tmp_path: Path) -> None:
    flags = ("--data", small_mnist, "--epochs", 2, "--batch-size", 200)  # two shards, for two threads
    for name, workers in (("a", 1), ("b", 2), ("c", 2)):
        assert run(*flags, "--out", tmp_path / name, "--workers", workers).returncode == 0
    states = [bits(fnn.load(tmp_path / name / "state.pkl")) for name in "abc"]
    assert states[0] == states[1] == states[2]


def test_train_resume_without_the_data_names_the_file_with_the_settings(run: Run, tmp_path: Path) -> None:
    moved = write_small_mnist(tmp_path)
    assert (
        run("--data", moved, "--net", "dense(10)", "--lr", 0.1, "--epochs", 1, "--out", tmp_path / "a").returncode == 0
    )
    (moved / "t10k-labels-idx1-ubyte").unlink()
    done = run("--resume", tmp_path / "a")
    assert (done.returncode, done.stdout) == (1, "")
    place = f"; the settings are in {tmp_path / 'a' / 'config.json'}; use --data to name another folder\n"
    assert done.stderr.startswith(f"train.py: error: {moved}: expected MNIST's files, missing: t10k-labels-idx1-ubyte ")
    assert done.stderr.endswith(place)


@pytest.mark.parametrize("recipe", train.RECIPES)
def test_train_every_recipe_trains_a_net_of_one_layer(run: Run, small_mnist: Path, recipe: str) -> None:
    done = run("--data", small_mnist, "--recipe", recipe, "--net", "dense(10)", "--lr", 1e-3, "--epochs", 1)
    assert (done.returncode, done.stderr) == (0, "")


def test_train_names_the_settings_if_the_optimizer_or_the_memory_does_not_fit(run: Run, small_mnist: Path) -> None:
    done = run("--data", small_mnist, "--recipe", "best", "--net", "serial()", "--lr", 1e-3)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "train.py: error: settings: where: expected True for one path or more, got none of []\n"
    done = run("--data", small_mnist, "--net", "dense(10000000000000)", "--lr", 1e-3)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"train\.py: error: settings: Unable to allocate .*\n", done.stderr)


@pytest.mark.slow
def test_train_lr_too_high_stops_and_keeps_the_last_good_state(run: Run, small_mnist: Path, tmp_path: Path) -> None:
    done = run("--data", small_mnist, "--epochs", 9, "--lr", 1e9, "--out", tmp_path)
    assert done.returncode == 1
    message = (
        r"train\.py: error: step (\d+) \(epoch \d, batch \d\): (the loss is inf, .*|.*(conv|dense)\d.* infinite of .*)"
        rf"; a lower learning rate may help; the state before it is in {re.escape(str(tmp_path))}\n"
    )
    found = re.fullmatch(message, done.stderr)
    assert found is not None, done.stderr
    state = fnn.load(tmp_path / "state.pkl")
    assert state["step"] == int(found[1]) - 1
    assert all(np.isfinite(leaf).all() for leaf in fnn.tree_leaves(state["params"]))


@pytest.mark.slow
def test_train_net_fc_trains(run: Run, small_mnist: Path) -> None:
    assert " 468,874 " in run("--data", small_mnist, "--epochs", 1, "--net", "fc").stdout


@pytest.mark.slow
def test_train_without_mnist_says_so_and_learns_generated_digits(run: Run) -> None:
    done = run("--epochs", "1", "--limit", "5000", "--lr", "0.05")
    assert (done.returncode, done.stderr) == (0, "")
    first = done.stdout.splitlines()[0]
    assert first.startswith("using generated digits: MNIST not found: ")
    assert "FNN_DATA" in first
    found = re.search(r"test acc: ([\d.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) > 0.5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--epochs", "0"), "argument --epochs: expected an integer from 1 to 2**63 - 1, got '0'"),
        (("--batch-size", "1.5"), "argument --batch-size: expected an integer from 1 to 2**63 - 1, got '1.5'"),
        (("--lr", "-1"), "argument --lr: expected a number above 0, got '-1'"),
        (("--lr", "nan"), "argument --lr: expected a number above 0, got 'nan'"),
        (("--seed", "x"), "argument --seed: expected an integer from 0 to 2**63 - 1, got 'x'"),
        (("--workers", "0"), "argument --workers: expected an integer from 1 to 2**63 - 1, got '0'"),
        (("--net", "rnn"), "argument --net: expected one of ['cnn', 'fc', 'deep'] or a net as text, got 'rnn': net: "),
        (("--seed", "12345678901234567890"), "expected an integer from 0 to 2**63 - 1, got '12345678901234567890'"),
        (("--out", ""), "argument --out: expected a text, got ''"),
        (("--data", ""), "argument --data: expected a text, got ''"),
        (("--keep-every", "9"), "argument --keep-every: needs --out or --resume, because nothing is saved without"),
        (("--eval", "a"), "argument --eval: this is now a command: python -m fnn eval RUN"),
        (("--report", "a"), "argument --report: this is now a command: python -m fnn report RUN"),
        (("--export", "a"), "argument --export: this is now a command: python -m fnn export RUN"),
        (("--fast",), "unrecognized arguments: --fast"),
        (("--keep-every", "-1"), "argument --keep-every: expected a number of seconds, 0 or more, got '-1'"),
        (("--recipe", "mine"), "argument --recipe: invalid choice: 'mine'"),
        (("--resume", "a", "--out", "b"), "argument --out: not allowed with argument --resume"),
    ],
)
def test_train_refuses_bad_flags_with_a_short_usage(run: Run, flags: tuple[str, ...], message: str) -> None:
    done = run(*flags)
    assert done.returncode == 2
    usage, error = done.stderr.splitlines()
    assert (usage, message in error, done.stdout) == ("usage: python train.py [flags]", True, "")


@pytest.mark.slow
def test_train_out_names_a_folder_that_cannot_be_created(run: Run, small_mnist: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("--data", small_mnist, "--out", tmp_path / "file" / "run")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"train.py: error: .*/file/run: Not a directory\n", done.stderr)


@pytest.mark.slow
def test_train_data_names_a_folder_without_mnist(run: Run, tmp_path: Path) -> None:
    for done in (run("--data", tmp_path), run(FNN_DATA=str(tmp_path))):
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(
            f"train.py: error: {tmp_path}: expected MNIST's files, missing: train-images-idx3-ubyte"
        )
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_train_data_names_a_damaged_file(run: Run, tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(bytes(10))
    done = run("--data", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"train.py: error: {tmp_path / 'train-images-idx3-ubyte'}: expected an IDX header")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def terminal() -> Iterator[None]:
    with default_handlers():
        yield


@pytest.fixture
def start_training(environment: dict[str, str]) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """A function that starts the program with flags and returns it when it trains; it is killed after the test."""
    programs = []

    def start(*flags: object) -> "subprocess.Popen[str]":
        command = [sys.executable, str(PROGRAM), *map(str, flags)]
        pipe = subprocess.PIPE
        program = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        programs.append(program)
        assert program.stdout is not None
        assert any(line.startswith("total") for line in program.stdout)
        return program

    yield start
    for program in programs:
        program.kill()
        program.communicate()


FLAGS = ("--epochs", "3", "--batch-size", "10", "--net", "fc")
"""The flags of a run with 90 steps."""


@pytest.fixture(scope="module")
def full_run(small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run with these flags."""
    folder = tmp_path_factory.mktemp("full_run")
    done = programs.python(PROGRAM, *FLAGS, "--data", small_mnist, "--out", folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def assert_same_results(folder: Path, other: Path) -> None:
    """Asserts that two runs have identical results."""
    for name in ("state.pkl", "params.pkl"):
        assert bits(fnn.load(folder / name)) == bits(fnn.load(other / name))
    assert metrics_without_times(folder) == metrics_without_times(other)
    assert sorted(os.listdir(folder)) == sorted(os.listdir(other))


@pytest.mark.slow
@pytest.mark.usefixtures("terminal")
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", NUMBERS)
def test_train_resume_after_a_signal_continues_with_the_same_bits(
    run: Run,
    start_training: Callable[..., "subprocess.Popen[str]"],
    small_mnist: Path,
    full_run: Path,
    tmp_path: Path,
    number: int,
) -> None:
    program = start_training(*FLAGS, "--data", small_mnist, "--out", tmp_path, "--keep-every", 0)
    time.sleep(0.05)
    for _ in range(3):  # the later ones arrive while it saves or exits
        program.send_signal(number)
    out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (128 + number, "")
    step = fnn.load(tmp_path / "state.pkl")["step"]
    where = re.escape(str(tmp_path))
    assert re.search(rf"stopped after step {step} \(epoch \d, \d+ images\); to continue, use --resume {where}\n$", out)
    assert step < 90
    done = run("--resume", tmp_path, "--workers", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"\n{tmp_path}: continuing after step {step} (epoch " in done.stdout
    assert_same_results(tmp_path, full_run)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_train_resume_after_several_kills_continues_with_the_same_bits(
    run: Run, start_training: Callable[..., "subprocess.Popen[str]"], small_mnist: Path, full_run: Path, tmp_path: Path
) -> None:
    steps = []
    flags: tuple[object, ...] = ("--data", small_mnist, "--out", tmp_path)
    for delay in (0.01, 0.03, 0.05, 0.07):  # together a part of the run, also on a fast machine
        program = start_training(*FLAGS, *flags, "--keep-every", 0)
        while program.poll() is None and not (tmp_path / "state.pkl").exists():
            time.sleep(0.01)
        time.sleep(delay)
        program.kill()
        program.communicate()
        state = fnn.load(tmp_path / "state.pkl")
        steps.append(state["step"])
        flags = ("--resume", tmp_path)
        if state["epoch"] > 3:  # already complete: the next program would end at once
            break
    assert steps == sorted(steps)
    assert len(steps) > 1
    assert run("--resume", tmp_path).returncode == 0
    assert_same_results(tmp_path, full_run)


@pytest.mark.slow
@pytest.mark.usefixtures("terminal")
def test_train_without_out_says_that_nothing_was_saved(
    start_training: Callable[..., "subprocess.Popen[str]"], small_mnist: Path
) -> None:
    program = start_training("--epochs", 5000, "--data", small_mnist)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (130, "")
    assert re.search(r"stopped after step \d+ \(epoch \d+, \d+ images\); nothing was saved\n$", out)


@pytest.mark.slow
@pytest.mark.usefixtures("terminal")
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc/self/maps")
def test_train_prints_no_traceback_for_ctrl_c_during_its_imports(
    environment: dict[str, str], small_mnist: Path
) -> None:
    command, pipe = [sys.executable, str(PROGRAM), "--epochs", "5000", "--data", str(small_mnist)], subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as program:
        while "numpy" not in Path(f"/proc/{program.pid}/maps").read_text():
            pass
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=60)
    assert err == ""
    assert program.returncode in (-signal.SIGINT, 130), "a shell reports 130 for both"


@pytest.mark.slow
@pytest.mark.usefixtures("terminal")
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_train_stops_in_one_line_for_a_signal_while_it_waits_for_data(environment: dict[str, str], number: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        variables = environment | {"https_proxy": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        command, pipe = [sys.executable, str(PROGRAM)], subprocess.PIPE
        with (
            subprocess.Popen(command, env=variables, stdout=pipe, stderr=pipe, text=True) as program,
            silent.accept()[0],  # the program waits for an answer
        ):
            program.send_signal(number)
            assert program.communicate(timeout=60) == ("stopped\n", "")
        assert program.returncode == 128 + number


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-"])
def test_train_and_report_work_in_a_service_without_streams(small_mnist: Path, tmp_path: Path, closed: str) -> None:
    pytest.importorskip("matplotlib")
    python, run = shlex.quote(sys.executable), shlex.quote(str(tmp_path / "run"))
    flags = f"--net 'dense(10)' --lr 0.1 --epochs 1 --data {shlex.quote(str(small_mnist))} --out {run}"
    for command in (f"{shlex.quote(str(PROGRAM))} {flags}", f"-m fnn report {run}"):
        done = subprocess.run(f"{python} {command} {closed}", shell=True, env=programs.environment(), timeout=300)
        assert done.returncode == 0
    pictures = ["confusion.png", "curves.png", "filters.png", "mistakes.png"]
    assert sorted(os.listdir(tmp_path / "run")) == sorted(
        [*pictures, "config.json", "lock", "metrics.jsonl", "params.pkl", "state.pkl"]
    )


@pytest.mark.slow
def test_train_refuses_a_folder_in_use(
    run: Run, start_training: Callable[..., "subprocess.Popen[str]"], small_mnist: Path, tmp_path: Path
) -> None:
    start_training("--epochs", 5000, "--data", small_mnist, "--out", tmp_path)
    while not (tmp_path / "config.json").exists():
        time.sleep(0.01)
    for flags in (("--out", tmp_path, "--data", small_mnist), ("--resume", tmp_path)):
        done = run(*flags)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"train.py: error: {tmp_path}: in use by another run\n"


@pytest.mark.slow
def test_train_keeps_the_params_with_the_best_validation_accuracy(run: Run, small_mnist: Path, tmp_path: Path) -> None:
    done = run("--data", small_mnist, "--net", "fc", "--validation", 90, "--epochs", 4, "--out", tmp_path / "a")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"data: {small_mnist}: 210 training images, 90 validation images, 100 test images"
    assert sum(line.startswith("validation acc: ") for line in lines) == 4
    metrics = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    best = max(metrics, key=lambda line: line["validation_accuracy"])
    path, accuracy = tmp_path / "a" / "params.pkl", best["validation_accuracy"]
    assert lines[-1].endswith(
        f"s; test acc: {best['test_accuracy']:.4f}; params: {path} (of epoch {best['epoch']}, "
        f"which has the best validation acc: {accuracy:.4f})"
    )
    evaluated = programs.python("-m", "fnn", "eval", tmp_path / "a")
    assert f"test acc: {best['test_accuracy']:.4f} " in evaluated.stdout
    done = run("--resume", tmp_path / "a", "--validation", 80)
    assert done.returncode == 1
    assert "expected the settings of its run, validation 90; got validation 80" in done.stderr
    done = run("--data", small_mnist, "--validation", 300)
    assert done.returncode == 1
    assert "validation: expected less than the 300 training images, got 300" in done.stderr


@pytest.mark.slow
def test_train_refuses_to_overwrite_a_run_or_to_resume_it_with_other_settings(
    run: Run, full_run: Path, small_mnist: Path
) -> None:
    files = {path.name: path.read_bytes() for path in full_run.iterdir()}
    for flags, message in [
        (
            ("--out", full_run),
            f"{full_run}: expected a folder without a run; to continue its run, use --resume {full_run}",
        ),
        (
            ("--resume", full_run, "--lr", 0.5, "--net", "fc", "--epochs", 4, "--recipe", "best", "--limit", 9),
            f"{full_run}: expected the settings of its run, recipe 'default', epochs 3, lr 0.3, limit None; "
            "got recipe 'best', epochs 4, lr 0.5, limit 9",
        ),
        (
            ("--resume", full_run.parent),
            f"{full_run.parent}: expected a run, got no file {full_run.parent}/config.json",
        ),
        (
            ("--resume", full_run, "--net", "cnn"),
            f"{full_run}: expected the settings of its run, net 'serial(dense(512),",
        ),
        (
            ("--resume", full_run, "--epochs", 4),
            f"{full_run}: cannot be extended: its schedule one_cycle ends with epoch 3, where the rate is lowest; "
            "start a new run with --epochs 4",
        ),
        (
            ("--resume", full_run, "--epochs", 2),
            f"{full_run}: expected the settings of its run, epochs 3; got epochs 2",
        ),
        (("--out", full_run / "params.pkl"), f"{full_run / 'params.pkl'}: expected a folder, got a file"),
    ]:
        done = run(*flags)
        assert done.returncode == 1
        assert done.stderr.startswith(f"train.py: error: {message}")
        assert done.stderr.count("\n") == 1
    done = run("--resume", full_run, "--epochs", 3, "--lr", 0.3, "--data", small_mnist, "--workers", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        rf"{full_run}: already complete; test acc: 0\.\d{{4}}; params: {full_run}/params.pkl\n",
        done.stdout,
    )
    assert {path.name: path.read_bytes() for path in full_run.iterdir()} == files


@pytest.fixture
def old_run(full_run: Path, tmp_path: Path) -> Path:
    """A copy of the run in the format of earlier versions: the net by its name, and nothing about the input."""
    folder = tmp_path / "old_run"
    shutil.copytree(full_run, folder)
    config = json.loads((folder / "config.json").read_text())
    old = {name: value for name, value in config.items() if name not in IMAGES} | {"net": "fc"}
    (folder / "config.json").write_text(json.dumps(old))
    return folder


@pytest.mark.slow
def test_train_continues_a_run_of_an_earlier_version(run: Run, full_run: Path, old_run: Path) -> None:
    state = fnn.load(old_run / "state.pkl")
    for name in ("params.pkl", "metrics.jsonl", "state.pkl"):
        (old_run / name).unlink()
    done = run("--resume", old_run, "--net", "fc")
    assert (done.returncode, done.stderr) == (0, "")
    assert bits(fnn.load(old_run / "state.pkl")) == bits(state)
    assert_same_results(old_run, full_run)


@pytest.mark.slow
def test_train_net_as_text_is_that_of_its_name(run: Run, small_mnist: Path, tmp_path: Path) -> None:
    for folder, net in (("a", "fc"), ("b", NETS_BY_NAME["fc"].replace(", ", ",  "))):
        done = run("--data", small_mnist, "--epochs", 1, "--net", net, "--out", tmp_path / folder)
        assert (done.returncode, done.stderr) == (0, "")
    assert_same_results(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "config.json").read_bytes() == (tmp_path / "b" / "config.json").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs ulimit")
def test_train_on_a_full_disk_names_the_file_and_keeps_the_last_good_state(
    environment: dict[str, str],
    run: Run,
    start_training: Callable[..., "subprocess.Popen[str]"],
    small_mnist: Path,
    tmp_path: Path,
    full_run: Path,
) -> None:
    program = start_training(*FLAGS, "--data", small_mnist, "--out", tmp_path, "--keep-every", 0)
    while program.poll() is None and not (tmp_path / "state.pkl").exists():
        time.sleep(0.01)
    program.kill()
    program.communicate()
    before = (tmp_path / "state.pkl").read_bytes()
    resume = shlex.join([sys.executable, str(PROGRAM), "--resume", str(tmp_path)])
    command = f"ulimit -f 1000; exec {resume}"  # in blocks of 1 kB or 512 bytes
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.match(rf"train\.py: error: {re.escape(str(tmp_path))}/.+: File too large; .*\n\Z", done.stderr)
    assert (tmp_path / "state.pkl").read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert run("--resume", tmp_path).returncode == 0
    assert_same_results(tmp_path, full_run)


@pytest.fixture
def without_package(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """A function of a package: returns environment variables that make the import of it fail."""

    def variables_without(package: str) -> dict[str, str]:
        (tmp_path / f"{package}.py").write_text("raise ImportError")
        return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}

    return variables_without


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")
@pytest.mark.parametrize("kind", ["terminal", "dumb", "without a width", "without tqdm"])
def test_train_shows_a_progress_bar_only_on_a_capable_terminal(
    environment: dict[str, str], small_mnist: Path, without_package: Callable[[str], dict[str, str]], kind: str
) -> None:
    pytest.importorskip("tqdm")
    import pty
    import termios

    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 0 if kind == "without a width" else 100))
    flags = ("--epochs", "2", "--batch-size", "5", "--net", "dense(10)", "--lr", "0.1")
    command = [sys.executable, str(PROGRAM), "--data", str(small_mnist), *flags]
    variables = {"TERM": "dumb" if kind == "dumb" else "xterm"} | (
        without_package("tqdm") if kind == "without tqdm" else {}
    )
    program = subprocess.Popen(command, env=environment | variables, stdout=terminal, stderr=terminal)
    os.close(terminal)
    output = b""
    with suppress(OSError):  # raised when the program closes the terminal
        while part := os.read(screen, 1 << 16):
            output += part
    os.close(screen)
    assert program.wait(timeout=60) == 0
    text = output.decode().replace("\r\n", "\n")
    assert ("\repoch 1: " in text and "/300" in text) == (kind == "terminal")
    assert ("\r" in text) == (kind == "terminal")
    last_parts = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]
    epochs = [line.split(" loss")[0] for line in last_parts if line.startswith("epoch")]
    lines = {epoch: [line for line in epochs if line.startswith(f"epoch: {epoch} ")] for epoch in (1, 2)}
    assert [of_epoch[-1] for of_epoch in lines.values()] == ["epoch: 1 iter: 300", "epoch: 2 iter: 300"]
    assert {len(of_epoch) for of_epoch in lines.values()} == {1 if kind == "terminal" else 8}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "net"), [("original", "369,242"), ("default", "369,242"), ("fast", "369,242"), ("best", "329,962")]
)
def test_train_recipe_selects_the_net(run: Run, small_mnist: Path, recipe: str, net: str) -> None:
    done = run("--data", small_mnist, "--recipe", recipe, "--epochs", 1, "--limit", 150)
    assert (done.returncode, done.stderr) == (0, "")
    assert f" {net} " in done.stdout


def test_train_help_shows_the_recipes(run: Run) -> None:
    lines = run("--help", COLUMNS="80").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for expected in ("original: net cnn, epochs 20", "best: net deep, epochs 14", "affine [10, 0.1, 0.1]"):
        assert expected in text


@pytest.mark.slow
@pytest.mark.skipif(
    not any(Path(os.environ.get("FNN_DATA", "")).glob("train-images*")), reason="needs MNIST in FNN_DATA"
)
def test_train_reaches_97_percent_with_10000_images_of_mnist(run: Run) -> None:
    done = run("--data", os.environ["FNN_DATA"], "--limit", "10000", "--epochs", "3")
    found = re.findall(r"test acc: ([\d.]+)", done.stdout)
    assert float(found[-1]) >= 0.97


@pytest.mark.slow
def test_train_extends_a_finished_run_as_if_it_had_been_longer(run: Run, small_mnist: Path, tmp_path: Path) -> None:
    flags = ("--data", small_mnist, "--recipe", "original")
    assert run(*flags, "--epochs", 4, "--out", tmp_path / "long").returncode == 0
    assert run(*flags, "--epochs", 2, "--out", tmp_path / "short").returncode == 0
    done = run("--resume", tmp_path / "short", "--epochs", 4)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"\n{tmp_path}/short: extended from 2 to 4 epochs; the learning rate is now 0.2\n" in done.stdout
    assert_same_results(tmp_path / "short", tmp_path / "long")
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("short", "long")]
    assert configs[0] == configs[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch-size", 301), "batch size: expected at most 300, the training images, got 301"),
        (("--recipe", "best", "--net", "fc"), "--lr is missing: recipe best has a rate only for deep"),
        (("--net", "dense(10)"), "--lr is missing: recipe default has a rate only for cnn, fc"),
        (("--net", "dense(9)", "--lr", 1), "net: expected outputs of shape (10,), one for each class, got (9,)"),
    ],
)
def test_train_refuses_settings_that_do_not_fit(
    run: Run, small_mnist: Path, flags: tuple[object, ...], message: str
) -> None:
    done = run("--data", small_mnist, *flags)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"train.py: error: {message}\n")


@pytest.mark.slow
def test_train_output_is_short(run: Run, small_mnist: Path) -> None:
    done = run("--data", small_mnist, "--epochs", 1, "--batch-size", 5, "--lr", 1e9)
    assert done.returncode == 1
    assert max(map(len, done.stdout.splitlines()[1:])) <= 80
    done = run("--data", small_mnist, "--epochs", 2, "--batch-size", 5, "--net", "fc", "--validation", 9)
    assert len([line for line in done.stdout.splitlines() if line.startswith(("epoch", "validation", "test"))]) == 20
    assert re.search(r"; test acc: 0\.\d{4}; nothing was saved, use --out to save the run$", done.stdout.strip())


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs sh")
@pytest.mark.parametrize("output", [">&-", "| head -n 1 >&2", ">/dev/full"])
@pytest.mark.parametrize("name", ["plain", "é🙂", "~"])
def test_train_works_without_an_output(
    environment: dict[str, str], small_mnist: Path, tmp_path: Path, output: str, name: str
) -> None:
    out = f"--out={'~' if name == '~' else tmp_path}/{name}"
    command = [sys.executable, str(PROGRAM), "--data", str(small_mnist), "--epochs", "1", out]
    variables = environment | {"PYTHONIOENCODING": "ascii", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)} {output}"], env=variables, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr.count(b"\n")) == (0, output.count("|"))
    assert (tmp_path / name / "params.pkl").exists()
