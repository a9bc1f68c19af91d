"""Commands that are killed twice and then run to their end: the result is the same, and no other file remains."""

import gzip
import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("fcntl")  # not on Windows

import fnn
import train
from fnn.__main__ import main
from fnn.data import mnist, mnist_files
from tests.support.children import child
from tests.support.damage import SMALL, SUFFIXES
from tests.support.mirrors import make_mirror, url_of
from tests.support.runs import bits, metrics_without_times, write_small_mnist

pytestmark = [pytest.mark.stress, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")]

KILLS = 2  # in a row, before the command runs to its end
FLAGS = ["--net", "serial(dense(16), tanh, dense(10))", "--lr", "0.1", "--epochs", "3", "--batch-size", "50"]
LIMIT = 600.0  # seconds for a command that is not killed


class Command(NamedTuple):
    """A command: `prepare` makes its folder, `run` runs it there as its user would, also after a kill."""

    prepare: Callable[[Path], object]
    run: Callable[[Path], int]


class Sources(NamedTuple):
    """What commands read: MNIST's files, a finished run, a picture of a digit, the address of a mirror, its files."""

    data: Path
    run: Path
    picture: Path
    url: str
    published: dict[str, bytes]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    """The sources, while the mirror runs."""
    for package in ("matplotlib", "onnx", "PIL.Image", "safetensors"):
        pytest.importorskip(package)  # imported before forks, which then take milliseconds
    from PIL import Image

    folder = tmp_path_factory.mktemp("sources")
    data = write_small_mnist(folder)
    with patch.object(sys, "argv", ["train.py", *FLAGS, "--data", str(data), "--out", str(folder / "run")]):
        assert train.main() == 0
    shutil.copytree(folder / "run", folder / "drawn")
    assert main(["report", str(folder / "drawn")]) == 0  # finds the fonts, which takes seconds
    Image.fromarray(255 - fnn.data.digits(1, 3).images[0]).resize((140, 140)).save(folder / "seven.png")
    published = {f"{name}.gz": gzip.compress((data / name).read_bytes()) for name in mnist_files.MD5}
    server, _ = make_mirror(published, pause=0.002)
    server.timeout, parent = 1, os.getpid()

    def serve() -> int:
        while os.getppid() == parent:  # it also ends if the tests are killed
            server.handle_request()
        return 0

    with server, child(serve, folder / "server.txt", folder):
        yield Sources(data, folder / "run", folder / "seven.png", url_of(server), published)


def run_train(folder: Path, data: Path) -> int:
    """Starts the run in the folder, or continues it."""
    run = str(folder / "run")
    flags = ["--resume", run] if (folder / "run" / "config.json").exists() else ["--out", run, "--data", str(data)]
    if "--out" in flags:
        flags += FLAGS
    with patch.object(sys, "argv", ["train.py", *flags, "--keep-every", "0"]):
        return train.main()


def run_report(folder: Path) -> int:
    """Draws the run in the folder without a layout, which takes most of the time and uses no file."""
    from fnn.run import pictures

    draw = pictures.to_png

    def draw_fast(figure: Any) -> bytes:
        figure.set_layout_engine("none")
        return draw(figure)

    with patch.object(pictures, "to_png", draw_fast):
        return main(["report", str(folder / "run")])


def run_download(folder: Path, sources: Sources) -> int:
    """Reads MNIST from a cache in the folder and the mirror, and prints its digest."""
    checksums = {name[:-3]: hashlib.md5(body).hexdigest() for name, body in sources.published.items()}
    os.environ |= {"XDG_CACHE_HOME": str(folder), "no_proxy": "*"}
    os.environ.pop("FNN_DATA", None)
    with patch.object(mnist_files, "MIRRORS", (sources.url,)), patch.object(mnist_files, "MD5", checksums):
        data = mnist()
    for array in (*data.train, *data.test):
        print(hashlib.sha256(array.tobytes()).hexdigest())
    return 0


def run_save(folder: Path, suffix: str) -> int:
    """Saves a tree of 8 MB in place of a small one."""
    fnn.save(folder / f"tree{suffix}", SMALL | {"large": {str(i): np.full(1000, i) for i in range(1000)}})
    return 0


def commands(sources: Sources) -> dict[str, Command]:
    """Returns all commands by name."""

    def copy_run(folder: Path) -> None:
        shutil.copytree(sources.run, folder / "run")

    def link_model(folder: Path) -> None:
        copy_run(folder)
        (folder / "models").mkdir()
        (folder / "model.onnx").symlink_to(folder / "models" / "model.onnx")

    def export(folder: Path) -> int:
        return main(["export", str(folder / "run"), str(folder / "model.onnx")])

    saves = {
        f"save{suffix}": Command(
            lambda folder, suffix=suffix: fnn.save(folder / f"tree{suffix}", SMALL),  # type: ignore[misc]
            lambda folder, suffix=suffix: run_save(folder, suffix),  # type: ignore[misc]
        )
        for suffix in SUFFIXES
    }
    return saves | {
        "train": Command(lambda folder: None, lambda folder: run_train(folder, sources.data)),
        "report": Command(copy_run, run_report),
        "export": Command(copy_run, export),
        "export to a link": Command(link_model, export),
        "predict": Command(copy_run, lambda folder: main(["predict", str(folder / "run"), str(sources.picture)])),
        "download": Command(lambda folder: None, lambda folder: run_download(folder, sources)),
    }


NAMES = ("train", "report", "export", "export to a link", "predict", "download", *(f"save{s}" for s in SUFFIXES))


def contents(folder: Path) -> dict[str, Any]:
    """Returns what a trial left: the content of each file, without the times in states and metrics."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "state.pkl":
            found[name] = bits(fnn.load(path))
        elif path.name == "metrics.jsonl":
            found[name] = metrics_without_times(path.parent)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


@contextmanager
def trial(command: Command, folder: Path) -> Iterator[Callable[[], int]]:
    """Yields the command for a child process: prepared in a new folder, which is removed after the block."""
    (folder / "tmp").mkdir(parents=True)
    command.prepare(folder)

    def run() -> int:
        os.environ["TMPDIR"] = str(folder / "tmp")  # what other packages leave there is found too
        os.chdir(folder)
        return command.run(folder)

    try:
        yield run
    finally:
        shutil.rmtree(folder)


class Whole(NamedTuple):
    """A command that was not killed: what it printed and left, its events, and its time in seconds."""

    result: Any
    events: int
    seconds: float


def run_to_its_end(run: Callable[[], int], folder: Path, output: Path, name: str) -> Whole:
    """Runs the command without a kill."""
    began = time.monotonic()
    with child(run, output, folder, None) as process:
        status = process.wait(LIMIT)
    seconds = time.monotonic() - began
    assert status == 0, f"status {status}: {output.read_text()}"
    *lines, events = output.read_text().splitlines()
    text = "\n".join(lines) if name != "train" else ""  # it has times and positions
    result = text.replace(str(folder), "FOLDER"), contents(folder)
    return Whole(result, int(events.removesuffix(" events")), seconds)


def kill_once(run: Callable[[], int], folder: Path, output: Path, rng: random.Random, whole: Whole) -> str:
    """Kills the command at a random time or at a random event; returns which, or "" if it ended before."""
    by_time = rng.random() < 0.5 or whole.events == 0
    with child(run, output, folder, 0 if by_time else rng.randint(1, whole.events)) as process:
        if by_time:
            time.sleep(rng.uniform(0, whole.seconds))
            status = process.kill()
        else:
            status = process.wait(LIMIT)
    if status == -signal.SIGKILL:
        return "killed at a random time" if by_time else "killed at a use of a file"
    assert status == 0, f"status {status}: {output.read_text()}"
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_kill_twice_then_the_command_gives_the_same_result_and_leaves_no_file(
    sources: Sources, tmp_path: Path, trials: int, rng: random.Random, counts: Counter[str], name: str
) -> None:
    command, output = commands(sources)[name], tmp_path / "output.txt"
    with trial(command, tmp_path / "trial") as run:
        whole = run_to_its_end(run, tmp_path / "trial", output, name)
    expected = whole.result
    while counts["trials with two kills"] < trials:
        with trial(command, tmp_path / "trial") as run:
            kills = [kill_once(run, tmp_path / "trial", output, rng, whole) for _ in range(KILLS)]
            last = run_to_its_end(run, tmp_path / "trial", output, name)
        counts["same results without other files"] += last.result == expected
        if last.result != expected:
            counts["other results: " + describe_difference(last.result, expected)] += 1
        if all(kills):
            counts.update(kills)
            counts["trials with two kills"] += 1
        else:
            counts["trials that ended before one of the kills"] += 1
        whole = whole._replace(seconds=min(2 * whole.seconds, last.seconds))  # follows the load of the machine
    assert not [what for what in counts if what.startswith("other results")]


def describe_difference(result: Any, expected: Any) -> str:
    """Returns the names of the files that differ, or the output."""
    (text, files), (expected_text, expected_files) = result, expected
    names = [n for n in files.keys() | expected_files.keys() if files.get(n, b"") != expected_files.get(n, b"")]
    return f"{sorted(names)}" if names else f"{text!r} instead of {expected_text!r}"
