import os
import pickle
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import fnn
from fnn.data import digits

PROGRAM = Path(__file__).parent.parent / "train.py"

DENSE = fnn.serial(fnn.dense(2), fnn.sigmoid, fnn.dense(3), fnn.sigmoid, fnn.dense(4))
"""A net of the same parts as the program's dense one, in other sizes."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in MNIST's form, with 300 images to train on and 100 to test on."""
    folder = tmp_path_factory.mktemp("few")
    for part, n in (("train", 300), ("t10k", 100)):
        images, labels = digits(n, n)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a machine without MNIST and without a network."""
    kept = {name: value for name, value in os.environ.items() if name != "FNN_DATA" and "proxy" not in name.lower()}
    closed = "http://127.0.0.1:9"
    return kept | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "https_proxy": closed, "http_proxy": closed}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def run(*flags: object, **more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(PROGRAM), *map(str, flags)]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=120)

    return run


def test_it_prints_its_progress_and_keeps_the_params(run: Run, few: Path, tmp_path: Path) -> None:
    done = run("--data", few, "--limit", 290, "--epochs", 2, "--out", tmp_path / "a" / "run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"data: {few}: 290 images to train on, 100 to test on"
    assert "): 369242 parameters" in lines
    assert re.fullmatch(r"epoch: 2 iter: 290 loss: \d\.\d{4} acc: [01]\.\d{3} n_correct: \d+", lines[-3])
    assert re.fullmatch(r"test acc: 0\.\d{4} \(\d+/100\)", lines[-2])
    assert re.fullmatch(r"time: \d+\.\d s", lines[-1])
    assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == ["params.pkl"]
    tested = run("--data", few, "--eval", tmp_path / "a" / "run" / "params.pkl")
    assert tested.stdout.splitlines()[-2] == lines[-2]


def test_the_same_run_twice_gives_the_same_bits_with_any_number_of_workers(run: Run, few: Path, tmp_path: Path) -> None:
    flags = ("--data", few, "--epochs", 2, "--batch-size", 200)  # two shards, so that there is work to share out
    for name, workers in (("a", 1), ("b", 2), ("c", 2)):
        assert run(*flags, "--out", tmp_path / name, "--workers", workers).returncode == 0
    trees = [pickle.dumps(fnn.load(tmp_path / name / "params.pkl")) for name in "abc"]
    assert trees[0] == trees[1] == trees[2]


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_what_was_good(run: Run, few: Path, tmp_path: Path) -> None:
    flags = ("--data", few, "--out", tmp_path)
    assert run(*flags, "--epochs", 1).returncode == 0
    good = (tmp_path / "params.pkl").read_bytes()
    done = run(*flags, "--epochs", 2, "--lr", 1e30)
    assert done.returncode == 1
    told = r"train\.py: error: epoch 1, step \d: the loss is (nan|inf); a lower --lr may help\n"
    assert re.fullmatch(told, done.stderr)
    assert (tmp_path / "params.pkl").read_bytes() == good


def test_the_dense_net_trains_too(run: Run, few: Path) -> None:
    assert ": 468874 parameters" in run("--data", few, "--epochs", 1, "--net", "fc").stdout


def test_without_mnist_it_says_so_and_learns_the_generated_digits(run: Run) -> None:
    done = run("--epochs", "1", "--limit", "5000")
    assert (done.returncode, done.stderr) == (0, "")
    first = done.stdout.splitlines()[0]
    assert first.startswith("training on generated digits instead of MNIST: no MNIST")
    assert "FNN_DATA" in first
    found = re.search(r"test acc: ([\d.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) > 0.5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--epochs", "0"), "argument --epochs: a whole number from 1 up is wanted, got '0'"),
        (("--batch-size", "1.5"), "argument --batch-size: a whole number from 1 up is wanted, got '1.5'"),
        (("--lr", "-1"), "argument --lr: a number over 0 is wanted, got '-1'"),
        (("--lr", "nan"), "argument --lr: a number over 0 is wanted, got 'nan'"),
        (("--seed", "x"), "argument --seed: a whole number from 0 up is wanted, got 'x'"),
        (("--workers", "0"), "argument --workers: a whole number from 1 up is wanted, got '0'"),
        (("--net", "rnn"), "argument --net: invalid choice: 'rnn'"),
        (("--out", ""), "argument --out: a path is wanted, got ''"),
        (("--eval", ""), "argument --eval: a path is wanted, got ''"),
        (("--data", ""), "argument --data: a path is wanted, got ''"),
        (("--fast",), "unrecognized arguments: --fast"),
        (("--eval", "a", "--out", "b"), "--eval trains nothing, so there is nothing to keep in --out"),
    ],
)
def test_a_bad_flag_is_refused_before_anything_else(run: Run, flags: tuple[str, ...], message: str) -> None:
    done = run(*flags)
    assert done.returncode == 2
    usage, error = done.stderr.splitlines()
    assert (usage, message in error, done.stdout) == ("usage: python train.py [flags]", True, "")


def test_a_folder_that_cannot_be_made_is_told_before_training(run: Run, few: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("--data", few, "--out", tmp_path / "file" / "run")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"train.py: error: .*Not a directory: '.*/file/run'\n", done.stderr)


def test_a_data_folder_without_the_files_is_told(run: Run, tmp_path: Path) -> None:
    for done in (run("--data", tmp_path), run(FNN_DATA=str(tmp_path))):
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"train.py: error: {tmp_path} lacks train-images-idx3-ubyte")
        assert done.stderr.count("\n") == 1


def test_a_damaged_data_file_is_told(run: Run, tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(bytes(10))
    done = run("--data", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"train.py: error: {tmp_path / 'train-images-idx3-ubyte'}: an IDX header of 16 bytes")
    assert done.stderr.count("\n") == 1


class Hostile:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo harm",)


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
    """SIGINT as a terminal's programs have it; what a background job starts would ignore it, as the job does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
@pytest.mark.skipif(os.name != "posix", reason="the signal is sent as POSIX has it")
def test_ctrl_c_keeps_the_last_whole_epoch(environment: dict[str, str], few: Path, tmp_path: Path) -> None:
    flags = ("--data", str(few), "--epochs", "5000", "--out", str(tmp_path))
    command = [sys.executable, "-u", str(PROGRAM), *flags]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as program:
        assert program.stdout is not None
        assert any(line.startswith("test acc") for line in program.stdout)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (130, "")
    assert out.endswith(f"stopped; the last whole epoch's params are in {tmp_path / 'params.pkl'}\n")
    assert fnn.tree_size(fnn.load(tmp_path / "params.pkl")) == 369_242


@pytest.mark.skipif("FNN_DATA" not in os.environ, reason="FNN_DATA does not say where MNIST is")
def test_ten_thousand_images_of_mnist_are_enough_for_97_percent(run: Run) -> None:
    done = run("--data", os.environ["FNN_DATA"], "--limit", "10000", "--epochs", "5")
    found = re.findall(r"test acc: ([\d.]+)", done.stdout)
    assert float(found[-1]) >= 0.97
