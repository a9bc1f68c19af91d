import errno
import json
import os
import pickle
import re
import shlex
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import fnn
from fnn.data import digits
from tests.support import programs
from tests.support.runs import bits, metrics_without_times

PROGRAM = Path(__file__).parent.parent / "train.py"

DENSE = fnn.serial(fnn.dense(2), fnn.sigmoid, fnn.dense(3), fnn.sigmoid, fnn.dense(4))
"""A net with the same layers as the program's dense net, but other sizes."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in MNIST's format, with 300 training and 100 test images."""
    folder = tmp_path_factory.mktemp("few")
    for part, n in (("train", 300), ("t10k", 100)):
        images, labels = digits(n, n)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without MNIST and without a network."""
    kept = {
        name: value
        for name, value in programs.environment().items()
        if name != "FNN_DATA" and "proxy" not in name.lower()
    }
    closed = "http://127.0.0.1:9"
    return kept | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "https_proxy": closed, "http_proxy": closed}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def run(*flags: object, **more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(PROGRAM), *map(str, flags)]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=120)

    return run


def test_it_prints_its_progress_and_keeps_the_run(run: Run, few: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    done = run("--data", few, "--limit", 290, "--epochs", 2, "--out", folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"data: {few}: 290 training images, 100 test images"
    assert any(line.startswith("total ") and " 369,242 " in line for line in lines)
    assert re.fullmatch(r"epoch: 2 iter: 290 loss: \d\.\d{4} acc: [01]\.\d{3} n_correct: \d+", lines[-3])
    assert re.fullmatch(r"test acc: 0\.\d{4} \(\d+/100\)", lines[-2])
    assert re.fullmatch(r"time: \d+\.\d s", lines[-1])
    assert "\r" not in done.stdout
    assert sorted(os.listdir(folder)) == ["best.pkl", "config.json", "lock", "metrics.jsonl", "state.pkl"]
    config = json.loads((folder / "config.json").read_text())
    wanted = {"recipe": "default", "net": "cnn", "epochs": 2, "batch_size": 100, "lr": 0.1, "limit": 290, "seed": 0}
    assert config | wanted | {"data": str(few)} == config
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert f"test acc: {metrics[1]['test_accuracy']:.4f}" in lines[-2]
    best = max(line["test_accuracy"] for line in metrics)
    for flags in ([folder], [folder / "best.pkl", "--data", few]):
        assert run("--eval", *flags).stdout.splitlines()[-2].startswith(f"test acc: {best:.4f}")


@pytest.mark.slow
def test_the_same_run_twice_gives_the_same_bits_with_any_number_of_workers(run: Run, few: Path, tmp_path: Path) -> None:
    flags = ("--data", few, "--epochs", 2, "--batch-size", 200)  # two shards, for two threads
    for name, workers in (("a", 1), ("b", 2), ("c", 2)):
        assert run(*flags, "--out", tmp_path / name, "--workers", workers).returncode == 0
    states = [bits(fnn.load(tmp_path / name / "state.pkl")) for name in "abc"]
    assert states[0] == states[1] == states[2]


@pytest.mark.slow
def test_a_rate_far_too_high_ends_the_run_and_keeps_what_was_good(run: Run, few: Path, tmp_path: Path) -> None:
    done = run("--data", few, "--epochs", 9, "--lr", 1e6, "--out", tmp_path)
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
def test_the_dense_net_trains_too(run: Run, few: Path) -> None:
    assert " 468,874 " in run("--data", few, "--epochs", 1, "--net", "fc").stdout


@pytest.mark.slow
def test_without_mnist_it_says_so_and_learns_the_generated_digits(run: Run) -> None:
    done = run("--epochs", "1", "--limit", "5000", "--lr", "0.05")
    assert (done.returncode, done.stderr) == (0, "")
    first = done.stdout.splitlines()[0]
    assert first.startswith("training on generated digits: MNIST not found: ")
    assert "FNN_DATA" in first
    found = re.search(r"test acc: ([\d.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--epochs", "0"), "argument --epochs: expected an integer of at least 1, got '0'"),
        (("--batch-size", "1.5"), "argument --batch-size: expected an integer of at least 1, got '1.5'"),
        (("--lr", "-1"), "argument --lr: expected a number above 0, got '-1'"),
        (("--lr", "nan"), "argument --lr: expected a number above 0, got 'nan'"),
        (("--seed", "x"), "argument --seed: expected an integer of at least 0, got 'x'"),
        (("--workers", "0"), "argument --workers: expected an integer of at least 1, got '0'"),
        (("--net", "rnn"), "argument --net: invalid choice: 'rnn'"),
        (("--out", ""), "argument --out: expected a path, got ''"),
        (("--eval", ""), "argument --eval: expected a path, got ''"),
        (("--data", ""), "argument --data: expected a path, got ''"),
        (("--fast",), "unrecognized arguments: --fast"),
        (("--keep-every", "-1"), "argument --keep-every: expected a number of seconds, 0 or more, got '-1'"),
        (("--recipe", "mine"), "argument --recipe: invalid choice: 'mine'"),
        (("--eval", "a", "--out", "b"), "argument --out: not allowed with argument --eval"),
        (("--resume", "a", "--out", "b"), "argument --out: not allowed with argument --resume"),
        (("--report", "a", "--export", "b"), "argument --export: not allowed with argument --report"),
    ],
)
def test_a_bad_flag_is_refused_before_anything_else(run: Run, flags: tuple[str, ...], message: str) -> None:
    done = run(*flags)
    assert done.returncode == 2
    usage, error = done.stderr.splitlines()
    assert (usage, message in error, done.stdout) == ("usage: python train.py [flags]", True, "")


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_told_before_training(run: Run, few: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("--data", few, "--out", tmp_path / "file" / "run")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"train.py: error: .*Not a directory: '.*/file/run'\n", done.stderr)


@pytest.mark.slow
def test_a_data_folder_without_the_files_is_told(run: Run, tmp_path: Path) -> None:
    for done in (run("--data", tmp_path), run(FNN_DATA=str(tmp_path))):
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(
            f"train.py: error: {tmp_path}: expected MNIST's files, missing: train-images-idx3-ubyte"
        )
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_damaged_data_file_is_told(run: Run, tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(bytes(10))
    done = run("--data", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"train.py: error: {tmp_path / 'train-images-idx3-ubyte'}: expected an IDX header")
    assert done.stderr.count("\n") == 1


class Hostile:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo harm",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", ["hostile", "truncated", "empty", "foreign", "other net", "other shapes", "missing"]
)
def test_a_file_of_params_that_is_none_is_told_in_one_line(run: Run, few: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.pkl"
    net = DENSE if content == "other shapes" else fnn.serial(fnn.dense(3))
    if content != "missing":
        fnn.save(path, net.init(0, (4,)))
    if content == "hostile":
        path.write_bytes(pickle.dumps(Hostile()))
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif content in ("empty", "foreign"):
        path.write_bytes(b"" if content == "empty" else b"PK\x03\x04 something")
    done = run("--data", few, "--net", "fc", "--eval", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("train.py: error: ")
    assert str(path) in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def heeded() -> Iterator[None]:
    """Handles SIGINT as in a terminal; programs started by a background job would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def begun(environment: dict[str, str]) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts the program with flags and returns it when it trains; kills it at the end of the test."""
    programs = []

    def begin(*flags: object) -> "subprocess.Popen[str]":
        command = [sys.executable, str(PROGRAM), *map(str, flags)]
        pipe = subprocess.PIPE
        program = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        programs.append(program)
        assert program.stdout is not None
        assert any(line.startswith("total") for line in program.stdout)
        return program

    yield begin
    for program in programs:
        program.kill()
        program.communicate()


FLAGS = ("--epochs", "3", "--batch-size", "10", "--net", "fc")
"""The flags of a run with 90 steps."""


@pytest.fixture(scope="module")
def undisturbed(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run with these flags."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = programs.python(PROGRAM, *FLAGS, "--data", few, "--out", folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def same(folder: Path, other: Path) -> None:
    """Asserts that two runs have identical results."""
    for name in ("state.pkl", "best.pkl"):
        assert bits(fnn.load(folder / name)) == bits(fnn.load(other / name))
    assert metrics_without_times(folder) == metrics_without_times(other)
    assert sorted(os.listdir(folder)) == sorted(os.listdir(other))


@pytest.mark.slow
@pytest.mark.usefixtures("heeded")
@pytest.mark.skipif(os.name != "posix", reason="the signal is sent as POSIX has it")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_by_a_signal_goes_on_to_the_same_bits(
    run: Run, begun: Callable[..., "subprocess.Popen[str]"], few: Path, undisturbed: Path, tmp_path: Path, number: int
) -> None:
    program = begun(*FLAGS, "--data", few, "--out", tmp_path, "--keep-every", 0)
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
    same(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the signal is sent as POSIX has it")
def test_a_run_killed_again_and_again_goes_on_to_the_same_bits(
    run: Run, begun: Callable[..., "subprocess.Popen[str]"], few: Path, undisturbed: Path, tmp_path: Path
) -> None:
    steps = []
    flags: tuple[object, ...] = ("--data", few, "--out", tmp_path)
    for delay in (0.05, 0.11, 0.17, 0.23):
        program = begun(*FLAGS, *flags, "--keep-every", 0)
        while program.poll() is None and not (tmp_path / "state.pkl").exists():
            time.sleep(0.01)
        time.sleep(delay)
        program.kill()
        program.communicate()
        steps.append(fnn.load(tmp_path / "state.pkl")["step"])
        flags = ("--resume", tmp_path)
    assert steps == sorted(steps)
    assert run("--resume", tmp_path).returncode == 0
    same(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.usefixtures("heeded")
def test_without_a_folder_nothing_is_kept_and_it_says_so(
    begun: Callable[..., "subprocess.Popen[str]"], few: Path
) -> None:
    program = begun("--epochs", 5000, "--data", few)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (130, "")
    assert re.search(r"stopped after step \d+ \(epoch \d+, \d+ images\); nothing was saved\n$", out)


@pytest.mark.slow
@pytest.mark.usefixtures("heeded")
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc/self/maps")
def test_ctrl_c_during_the_imports_prints_no_traceback(environment: dict[str, str], few: Path) -> None:
    command, pipe = [sys.executable, str(PROGRAM), "--epochs", "5000", "--data", str(few)], subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as program:
        while "numpy" not in Path(f"/proc/{program.pid}/maps").read_text():
            pass
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=60)
    assert err == ""
    assert program.returncode in (-signal.SIGINT, 130), "a shell reports 130 for both"


@pytest.mark.slow
@pytest.mark.usefixtures("heeded")
@pytest.mark.skipif(os.name != "posix", reason="pipes with names are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_waits_for_data_ends_it_in_one_line(
    environment: dict[str, str], tmp_path: Path, number: int
) -> None:
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            os.mkfifo(tmp_path / f"{part}-{kind}-ubyte")
    command, pipe = [sys.executable, str(PROGRAM), "--data", str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as program:
        feed = os.open(tmp_path / "train-images-idx3-ubyte", os.O_WRONLY)  # waits for the program to open it
        program.send_signal(number)
        assert program.communicate(timeout=60) == ("stopped\n", "")
        os.close(feed)
    assert program.returncode == 128 + number


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused(
    run: Run, begun: Callable[..., "subprocess.Popen[str]"], few: Path, tmp_path: Path
) -> None:
    begun("--epochs", 5000, "--data", few, "--out", tmp_path)
    for flags in (("--out", tmp_path, "--data", few), ("--resume", tmp_path)):
        done = run(*flags)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"train.py: error: {tmp_path}: in use by another run\n"


@pytest.mark.slow
def test_a_run_is_not_overwritten_and_goes_on_only_as_it_was_begun(run: Run, undisturbed: Path, few: Path) -> None:
    files = {path.name: path.read_bytes() for path in undisturbed.iterdir()}
    for flags, message in [
        (
            ("--out", undisturbed),
            f"{undisturbed}: expected a folder without a run; to continue its run, use --resume {undisturbed}",
        ),
        (
            ("--resume", undisturbed, "--lr", 0.5, "--net", "fc", "--epochs", 4, "--recipe", "best", "--limit", 9),
            f"{undisturbed}: expected the settings of its run, recipe 'default', epochs 3, lr 0.3, limit None; "
            "got recipe 'best', epochs 4, lr 0.5, limit 9",
        ),
        (("--resume", undisturbed.parent), f"{undisturbed.parent}: expected a run, got a folder without config.json"),
        (("--eval", undisturbed.parent), f"{undisturbed.parent}: expected a run, got a folder without config.json"),
        (
            ("--eval", undisturbed, "--net", "cnn"),
            f"{undisturbed}: expected the settings of its run, net 'fc'; got net 'cnn'",
        ),
    ]:
        done = run(*flags)
        assert done.returncode == 1
        assert done.stderr.startswith(f"train.py: error: {message}")
        assert done.stderr.count("\n") == 1
    done = run("--resume", undisturbed, "--epochs", 3, "--lr", 0.3, "--data", few, "--workers", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"\n{undisturbed}: complete, best test acc 0." in done.stdout
    assert {path.name: path.read_bytes() for path in undisturbed.iterdir()} == files


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the limit is set as POSIX has it")
def test_a_full_disk_is_told_in_one_line_and_leaves_the_last_good_state(
    environment: dict[str, str],
    run: Run,
    begun: Callable[..., "subprocess.Popen[str]"],
    few: Path,
    tmp_path: Path,
    undisturbed: Path,
) -> None:
    program = begun(*FLAGS, "--data", few, "--out", tmp_path, "--keep-every", 0)
    while program.poll() is None and not (tmp_path / "state.pkl").exists():
        time.sleep(0.01)
    program.kill()
    program.communicate()
    before = (tmp_path / "state.pkl").read_bytes()
    resume = shlex.join([sys.executable, str(PROGRAM), "--resume", str(tmp_path)])
    command = f"ulimit -f 1000; exec {resume}"  # in blocks of 1 kB or 512 bytes
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    message = f"train.py: error: [Errno {errno.EFBIG}] File too large: '{tmp_path}/"
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "state.pkl").read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert run("--resume", tmp_path).returncode == 0
    same(tmp_path, undisturbed)


@pytest.fixture
def lacking(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Returns environment variables that make the import of a package fail."""

    def without(package: str) -> dict[str, str]:
        (tmp_path / f"{package}.py").write_text("raise ImportError")
        return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}

    return without


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="terminals are opened as POSIX has it")
@pytest.mark.parametrize("kind", ["terminal", "dumb", "without a width", "without tqdm"])
def test_a_terminal_shows_a_bar_where_there_can_be_one(
    environment: dict[str, str], few: Path, lacking: Callable[[str], dict[str, str]], kind: str
) -> None:
    pytest.importorskip("tqdm")
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 0 if kind == "without a width" else 100))
    command = [sys.executable, str(PROGRAM), "--data", str(few), "--epochs", "2", "--batch-size", "5"]
    more = {"TERM": "dumb" if kind == "dumb" else "xterm"} | (lacking("tqdm") if kind == "without tqdm" else {})
    program = subprocess.Popen(command, env=environment | more, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # raised when the program closes the terminal
        while part := os.read(ours, 1 << 16):
            shown += part
    os.close(ours)
    assert program.wait(timeout=60) == 0
    text = shown.decode().replace("\r\n", "\n")
    assert ("\repoch 1: " in text and "/300" in text) == (kind == "terminal")
    assert ("\r" in text) == (kind == "terminal")
    lasts = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]
    message = [line.split(" loss")[0] for line in lasts if line.startswith("epoch")]
    assert message == ["epoch: 1 iter: 300", "epoch: 2 iter: 300"]


@pytest.mark.slow
def test_what_cannot_be_exported_is_told_before_training(
    run: Run, few: Path, tmp_path: Path, lacking: Callable[[str], dict[str, str]]
) -> None:
    for path, message, more in [
        (
            tmp_path / "nowhere" / "net.onnx",
            f"[Errno {errno.ENOENT}] No such file or directory: '{tmp_path}/nowhere/",
            {},
        ),
        (tmp_path / "net.onnx", "export: the package onnx is missing; run pip install '.[onnx]'\n", lacking("onnx")),
    ]:
        done = run("--data", few, "--export", path, **more)
        assert (done.returncode, "epoch" in done.stdout, path.exists()) == (1, False, False)
        assert done.stderr.startswith(f"train.py: error: {message}")
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_net_is_exported_after_training_and_without(run: Run, few: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    done = run("--data", few, "--net", "fc", "--epochs", 1, "--out", tmp_path / "a", "--export", tmp_path / "a.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert run("--eval", tmp_path / "a", "--export", tmp_path / "b.onnx").returncode == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.slow
def test_a_run_is_drawn(run: Run, undisturbed: Path) -> None:
    pytest.importorskip("matplotlib")
    done = run("--report", undisturbed)
    assert (done.returncode, done.stderr) == (0, "")
    paths = [Path(line.removeprefix("wrote: ")) for line in done.stdout.splitlines()]
    assert [path.name for path in paths] == ["curves.png", "confusion.png", "mistakes.png", "filters.png"]
    assert all(path.parent == undisturbed and path.read_bytes().startswith(b"\x89PNG") for path in paths)
    for path in paths:
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "net"), [("original", "369,242"), ("default", "369,242"), ("best", "329,962")])
def test_every_recipe_trains(run: Run, few: Path, recipe: str, net: str) -> None:
    done = run("--data", few, "--recipe", recipe, "--epochs", 1, "--limit", 100)
    assert (done.returncode, done.stderr) == (0, "")
    assert f" {net} " in done.stdout


def test_the_help_shows_the_recipes(run: Run) -> None:
    message = " ".join(run("--help").stdout.split())
    for wanted in ("original: net cnn, epochs 20", "best: net deep, epochs 14", "affine [10, 0.1, 0.1]"):
        assert wanted in message


@pytest.mark.slow
@pytest.mark.skipif(
    not any(Path(os.environ.get("FNN_DATA", "")).glob("train-images*")), reason="FNN_DATA does not say where MNIST is"
)
def test_ten_thousand_images_of_mnist_are_enough_for_97_percent(run: Run) -> None:
    done = run("--data", os.environ["FNN_DATA"], "--limit", "10000", "--epochs", "5")
    found = re.findall(r"test acc: ([\d.]+)", done.stdout)
    assert float(found[-1]) >= 0.97


NORMED = """
import sys
import train
from fnn import batch_norm, conv, dense, maxpool, relu, serial

net = serial(conv(4, 3), batch_norm(), relu, maxpool(4), dense(16), batch_norm(), relu, dense(10))
train.NETS["cnn"] = net
sys.exit(train.main())
"""


@pytest.mark.slow
def test_a_net_with_batch_norm_is_tested_exported_and_drawn_with_calibrated_params(
    environment: dict[str, str], few: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")

    def run(*flags: object) -> str:
        command = [sys.executable, "-W", "error::RuntimeWarning", "-c", NORMED, *map(str, flags)]
        found = environment | {"PYTHONPATH": str(PROGRAM.parent)}
        done = subprocess.run(command, env=found, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    folder, models = tmp_path / "a", [tmp_path / f"{name}.onnx" for name in "ab"]
    trained = run("--data", few, "--epochs", 2, "--out", folder, "--export", models[0])
    best = fnn.load(folder / "best.pkl")
    for name in "batch_norm1", "batch_norm2":
        assert np.ptp(best[name]["mean"]) > 0
        assert np.ptp(best[name]["var"]) > 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    accuracies = [line["test_accuracy"] for line in lines]
    assert f"test acc: {max(accuracies):.4f}" in run("--eval", folder, "--export", models[1])
    assert f"test acc: {accuracies[-1]:.4f}" in trained
    if accuracies[-1] > accuracies[0]:
        assert models[0].read_bytes() == models[1].read_bytes()
    pytest.importorskip("matplotlib")
    run("--report", folder)
