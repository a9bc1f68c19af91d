import gzip
import hashlib
import os
import struct
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from fnn.data import DataError, MissingDataError, mnist
from fnn.data import mnist_files as module

rng = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


FILES = {
    "train-images-idx3-ubyte": idx(rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)),
    "train-labels-idx1-ubyte": idx(rng.integers(0, 10, 20, dtype=np.uint8)),
    "t10k-images-idx3-ubyte": idx(rng.integers(0, 256, (10, 28, 28), dtype=np.uint8)),
    "t10k-labels-idx1-ubyte": idx(rng.integers(0, 10, 10, dtype=np.uint8)),
}
PUBLISHED = {f"{name}.gz": gzip.compress(content) for name, content in FILES.items()}


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the cache, not created yet, on a machine without MNIST and network."""
    monkeypatch.delenv("FNN_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "_cache_folder", lambda: tmp_path / "cache" / "fnn")
    monkeypatch.setattr(module, "MIRRORS", ())
    monkeypatch.setattr(module, "MD5", {name[:-3]: hashlib.md5(body).hexdigest() for name, body in PUBLISHED.items()})
    return tmp_path / "cache" / "fnn"


# Folders


def test_a_folder_is_read_and_told(tmp_path: Path) -> None:
    data = mnist(fill(tmp_path / "here"))
    assert data.source == str(tmp_path / "here")
    for examples, part, n in [(data.train, "train", 20), (data.test, "t10k", 10)]:
        assert examples.images.shape == (n, 28, 28)
        assert examples.images.tobytes() == FILES[f"{part}-images-idx3-ubyte"][16:]
        assert examples.labels.astype(np.uint8).tobytes() == FILES[f"{part}-labels-idx1-ubyte"][8:]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
def test_every_spelling_is_read(tmp_path: Path, dot: str, suffix: str) -> None:
    for name, content in FILES.items():
        packed = gzip.compress(content) if suffix else content
        (tmp_path / f"{name.replace('-idx', f'{dot}idx')}{suffix}").write_bytes(packed)
    assert len(mnist(str(tmp_path)).train.labels) == 20


def test_a_file_that_something_has_unpacked_without_renaming_is_read(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / f"{name}.gz").write_bytes(content)
    assert len(mnist(tmp_path).test.labels) == 10


def test_the_argument_goes_before_the_environment_and_that_before_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache)
    assert mnist().source == str(cache)
    monkeypatch.setenv("FNN_DATA", "")
    assert mnist().source == str(cache)
    monkeypatch.setenv("FNN_DATA", str(fill(tmp_path / "environment")))
    assert mnist().source == str(tmp_path / "environment")
    assert mnist(fill(tmp_path / "argument")).source == str(tmp_path / "argument")


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_given_folder_without_the_files_is_an_error_though_the_cache_has_them(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    fill(cache)
    lacking = fill(tmp_path / "lacking")
    (lacking / "train-labels-idx1-ubyte").unlink()
    monkeypatch.setenv("FNN_DATA", str(lacking))
    with pytest.raises(
        DataError, match=r"lacking: expected MNIST's files, missing: train-labels-idx1-ubyte "
    ) as caught:
        mnist(lacking if by == "argument" else None)
    assert not isinstance(caught.value, MissingDataError)


def test_a_given_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: No such file or directory"):
        mnist(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: "):
        mnist(tmp_path / "file")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    damaged = fill(tmp_path / "here") / "t10k-images-idx3-ubyte"
    damaged.write_bytes(b"")
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte: expected an IDX header of 16 bytes, got nothing"):
        mnist(tmp_path / "here")


# Mirrors


@contextmanager
def mirror(files: dict[str, bytes], cut: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Serves `files` on this machine, or only half of each if `cut`; yields the URL and the list of requests."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/mnist/")
            requests.append(name)
            if name not in files:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(files[name])))
            self.end_headers()
            self.wfile.write(files[name][: len(files[name]) // 2] if cut else files[name])
            return None

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/mnist/", requests
        finally:
            server.shutdown()
            thread.join()


def test_what_the_cache_lacks_is_fetched_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mirror(PUBLISHED) as (url, requests):
        monkeypatch.setattr(module, "MIRRORS", (url,))
        first = mnist()
        assert sorted(requests) == sorted(PUBLISHED)
        assert np.array_equal(mnist().train.images, first.train.images)
        assert len(requests) == 4
        (cache / "t10k-labels-idx1-ubyte.gz").unlink()
        mnist()
        assert requests[4:] == ["t10k-labels-idx1-ubyte.gz"]
    assert first.source == str(cache)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == PUBLISHED


def closed() -> str:
    """The URL of a server that no longer runs."""
    with mirror({}) as (url, _):
        return url


@pytest.mark.parametrize("fault", ["wrong bytes", "not found", "cut off", "no server"])
def test_a_mirror_that_fails_gives_way_to_the_next(cache: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    wrong = dict.fromkeys(PUBLISHED, b"something else")
    bad = {"wrong bytes": wrong, "not found": {}}.get(fault, PUBLISHED)
    with mirror(bad, cut=fault == "cut off") as (first, _), mirror(PUBLISHED) as (second, requests):
        monkeypatch.setattr(module, "MIRRORS", (closed() if fault == "no server" else first, second))
        assert len(mnist().train.labels) == 20
        assert len(requests) == 4
    assert names(cache) == set(PUBLISHED)


def test_a_silent_mirror_is_left_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    def silent(url: str, timeout: float) -> Any:
        waited.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", silent)
    monkeypatch.setattr(module, "MIRRORS", ("http://one.invalid/", "http://two.invalid/"))
    with pytest.raises(MissingDataError, match=r"http://two\.invalid/train-images-idx3-ubyte\.gz: timed out"):
        mnist()
    assert waited == [module.TIMEOUT] * 2


def test_without_any_the_message_says_what_was_tried_and_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dict.fromkeys(PUBLISHED, b"something else")
    with mirror({}) as (first, _), mirror(wrong) as (second, _), mirror(PUBLISHED, cut=True) as (third, _):
        monkeypatch.setattr(module, "MIRRORS", (first, second, third))
        with pytest.raises(MissingDataError) as caught:
            mnist()
    message = str(caught.value)
    assert "\n" not in message
    assert f"{cache} lacks train-images-idx3-ubyte.gz" in message
    assert f"{first}train-images-idx3-ubyte.gz: HTTP Error 404: Not Found" in message
    assert f"{second}train-images-idx3-ubyte.gz: expected md5 {module.MD5['train-images-idx3-ubyte']}, got" in message
    assert f"{third}train-images-idx3-ubyte.gz: " in message
    assert "FNN_DATA" in message
    assert names(cache) == set()


def test_an_interrupted_fetch_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def __enter__(self) -> "Interrupted":
            return self

        def __exit__(self, *_: object) -> None: ...

        def read(self, _: int) -> bytes:
            assert len(names(cache)) == 1
            raise KeyboardInterrupt

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Interrupted())
    monkeypatch.setattr(module, "MIRRORS", ("http://one.invalid/",))
    with pytest.raises(KeyboardInterrupt):
        mnist()
    assert names(cache) == set()


def test_a_full_disk_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with mirror(PUBLISHED) as (url, _):
        monkeypatch.setattr(module, "MIRRORS", (url,))
        with pytest.raises(MissingDataError, match="fnn cannot be used: No space left on device"):
            mnist()
    assert names(cache) == set()


# The cache folder


def test_a_cache_folder_that_cannot_be_made_is_told(cache: Path) -> None:
    cache.parent.touch()
    with pytest.raises(MissingDataError, match=r"fnn cannot be used: .*FNN_DATA"):
        mnist()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is denied to root")
def test_a_cache_folder_that_cannot_be_written_to_is_told(cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o500)
    with pytest.raises(MissingDataError, match="fnn cannot be used: Permission denied"):
        mnist()


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/fnn"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/ann"}, "/home/ann/.cache/fnn"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/ann"}, "/home/ann/.cache/fnn"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="the folders are spelled as POSIX does")
def test_the_cache_is_where_the_system_has_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str
) -> None:
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        assert module._cache_folder() == Path(folder)
