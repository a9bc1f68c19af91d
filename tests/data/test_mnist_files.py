import gzip
import hashlib
import os
import socket
import struct
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from fnn.data import DataError, MissingDataError, mnist
from fnn.data import mnist_files as module
from fnn.data.mnist_files import read_examples
from tests.support.mirrors import make_mirror, url_of

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
LABELS = np.arange(30, dtype=np.uint8) % 10


def idx(array: np.ndarray) -> bytes:
    """Returns the array in the IDX format of MNIST."""
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


FILES = {
    "train-images-idx3-ubyte": idx(IMAGES[:20]),
    "train-labels-idx1-ubyte": idx(LABELS[:20]),
    "t10k-images-idx3-ubyte": idx(IMAGES[20:]),
    "t10k-labels-idx1-ubyte": idx(LABELS[20:]),
}
PUBLISHED = {f"{name}.gz": gzip.compress(content) for name, content in FILES.items()}


def write_files(folder: Path) -> Path:
    """Creates the folder and writes the files of MNIST into it."""
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def names_in(folder: Path) -> set[str]:
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


# Files


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").write_bytes(idx(IMAGES))
    return tmp_path / "images"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "labels").write_bytes(idx(LABELS))
    return tmp_path / "labels"


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_read_examples_returns_writable_images_and_labels(tmp_path: Path, compress: type[bytes]) -> None:
    (tmp_path / "i").write_bytes(compress(idx(IMAGES)))
    (tmp_path / "l").write_bytes(compress(idx(LABELS)))
    examples = read_examples(tmp_path / "i", tmp_path / "l")
    assert np.array_equal(examples.images, IMAGES)
    assert np.array_equal(examples.labels, LABELS)
    assert examples.images.dtype == np.uint8
    assert examples.labels.dtype == np.int64
    assert examples.images.flags.writeable
    assert examples.labels.flags.writeable


def test_read_examples_takes_gzip_of_several_members(images: Path, labels: Path) -> None:
    content = images.read_bytes()
    images.write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]))
    assert np.array_equal(read_examples(images, labels).images, IMAGES)


def test_read_examples_takes_files_without_examples(images: Path, labels: Path) -> None:
    images.write_bytes(idx(IMAGES[:0]))
    labels.write_bytes(idx(LABELS[:0]))
    assert read_examples(images, labels).images.shape == (0, 28, 28)


def flip_byte(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


PLAIN, PACKED = idx(IMAGES), gzip.compress(idx(IMAGES))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "expected an IDX header of 16 bytes, got nothing", id="empty"),
        pytest.param(gzip.compress(b""), "expected an IDX header of 16 bytes, got nothing", id="empty gzip"),
        pytest.param(PLAIN[:10], "expected an IDX header of 16 bytes, got 10", id="part of a header"),
        pytest.param(idx(np.tile(LABELS, 9)), "magic number 0x00000803, got 0x00000801", id="labels"),
        pytest.param(b"<!DOCTYPE html><html></html>", "magic number 0x00000803, got 0x3c21444f", id="web page"),
        pytest.param(idx(IMAGES[:, 1:]), "expected images of 28 x 28, got 27 x 28", id="not 28 x 28"),
        pytest.param(PLAIN[:-1], "expected 23520 bytes after the header, got 23519", id="short"),
        pytest.param(PLAIN + b"x", "expected 23520 bytes after the header, got more", id="long"),
        pytest.param(gzip.compress(PLAIN[:-1]), "expected 23520 bytes after the header, got 23519", id="short gzip"),
        pytest.param(gzip.compress(PLAIN + b"x"), "expected 23520 bytes after the header, got more", id="long gzip"),
        pytest.param(PACKED[:-1], "damaged gzip", id="gzip without its end"),
        pytest.param(PACKED[: len(PACKED) // 2], "damaged gzip", id="half a gzip"),
        pytest.param(PACKED[:2], "damaged gzip", id="a gzip's first bytes"),
        pytest.param(flip_byte(PACKED, 2), "damaged gzip", id="gzip of another method"),
        pytest.param(flip_byte(PACKED, len(PACKED) // 2), "damaged gzip", id="gzip with a wrong byte"),
        pytest.param(flip_byte(PACKED, -8), "damaged gzip: CRC", id="gzip with a wrong checksum"),
        pytest.param(PACKED + b"tail", "damaged gzip", id="gzip with a tail"),
    ],
)
def test_read_examples_refuses_a_damaged_file_and_names_it(
    images: Path, labels: Path, content: bytes, message: str
) -> None:
    images.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_examples(images, labels)
    assert str(images) in str(caught.value)


def test_read_examples_refuses_different_counts_and_names_both_files(images: Path, labels: Path) -> None:
    labels.write_bytes(idx(LABELS[:-1]))
    with pytest.raises(DataError) as caught:
        read_examples(images, labels)
    assert str(caught.value) == f"{labels}: expected 30 labels, one for each image in {images}, got 29"


def test_read_examples_refuses_labels_above_nine(images: Path, labels: Path) -> None:
    labels.write_bytes(idx(np.where(LABELS == 7, 17, LABELS).astype(np.uint8)))
    with pytest.raises(DataError, match="expected labels from 0 to 9, got 17 at index 7") as caught:
        read_examples(images, labels)
    assert str(labels) in str(caught.value)


def test_read_examples_names_a_folder_in_place_of_a_file(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a regular file, got a folder") as caught:
        read_examples(images, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_read_examples_names_a_file_without_permission(images: Path, labels: Path) -> None:
    images.chmod(0)
    with pytest.raises(DataError, match="images: Permission denied"):
        read_examples(images, labels)


def test_read_examples_names_a_missing_file(images: Path, labels: Path) -> None:
    labels.unlink()
    with pytest.raises(DataError, match="labels: No such file"):
        read_examples(images, labels)


HUGE = struct.pack(">4I", 0x803, 0xFFFFFFFF, 28, 28)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(HUGE + PLAIN[16:], id="plain"),
        pytest.param(gzip.compress(HUGE + PLAIN[16:]), id="gzip"),
        pytest.param(gzip.compress(HUGE + bytes(32 << 20)), id="bomb with its size in the header"),
        pytest.param(gzip.compress(PLAIN + bytes(32 << 20)), id="bomb with a smaller size in the header"),
    ],
)
def test_read_examples_uses_little_memory_for_a_hostile_file(images: Path, labels: Path, content: bytes) -> None:
    images.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"expected \d+ bytes after the header, got"):
            read_examples(images, labels)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


# Folders


def test_mnist_reads_a_folder_and_returns_its_path(tmp_path: Path) -> None:
    data = mnist(write_files(tmp_path / "here"))
    assert data.source == str(tmp_path / "here")
    for examples, part, n in [(data.train, "train", 20), (data.test, "t10k", 10)]:
        assert examples.images.shape == (n, 28, 28)
        assert examples.images.tobytes() == FILES[f"{part}-images-idx3-ubyte"][16:]
        assert examples.labels.astype(np.uint8).tobytes() == FILES[f"{part}-labels-idx1-ubyte"][8:]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
def test_mnist_reads_every_spelling_of_the_names(tmp_path: Path, dot: str, suffix: str) -> None:
    for name, content in FILES.items():
        data = gzip.compress(content) if suffix else content
        (tmp_path / f"{name.replace('-idx', f'{dot}idx')}{suffix}").write_bytes(data)
    assert len(mnist(str(tmp_path)).train.labels) == 20


def test_mnist_reads_unpacked_files_with_the_suffix_gz(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / f"{name}.gz").write_bytes(content)
    assert len(mnist(tmp_path).test.labels) == 10


def test_mnist_prefers_the_argument_to_the_environment_to_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(cache)
    assert mnist().source == str(cache)
    monkeypatch.setenv("FNN_DATA", "")
    assert mnist().source == str(cache)
    monkeypatch.setenv("FNN_DATA", str(write_files(tmp_path / "environment")))
    assert mnist().source == str(tmp_path / "environment")
    assert mnist(write_files(tmp_path / "argument")).source == str(tmp_path / "argument")


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_mnist_refuses_an_incomplete_folder_even_if_the_cache_is_complete(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    write_files(cache)
    incomplete = write_files(tmp_path / "incomplete")
    (incomplete / "train-labels-idx1-ubyte").unlink()
    monkeypatch.setenv("FNN_DATA", str(incomplete))
    with pytest.raises(
        DataError, match=r"incomplete: expected MNIST's files, missing: train-labels-idx1-ubyte "
    ) as caught:
        mnist(incomplete if source == "argument" else None)
    assert not isinstance(caught.value, MissingDataError)


def test_mnist_names_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: No such file or directory"):
        mnist(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: "):
        mnist(tmp_path / "file")


def test_mnist_names_a_damaged_file(tmp_path: Path) -> None:
    damaged = write_files(tmp_path / "here") / "t10k-images-idx3-ubyte"
    damaged.write_bytes(b"")
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte: expected an IDX header of 16 bytes, got nothing"):
        mnist(tmp_path / "here")


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_mnist_refuses_pipes_and_folders(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = write_files(tmp_path / "here") / "t10k-labels-idx1-ubyte"
    path.unlink()
    make(path)
    with pytest.raises(DataError, match=rf"^{path}: expected a regular file, got a folder or a device$"):
        mnist(tmp_path / "here")


# Mirrors


@contextmanager
def mirror(files: dict[str, bytes], cut: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Serves `files` on this machine, or only half of each if `cut`; yields the URL and the list of requests."""
    server, requests = make_mirror(files, cut)
    with server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield url_of(server), requests
        finally:
            server.shutdown()
            thread.join()


def test_mnist_downloads_missing_files_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def url_of_closed_server() -> str:
    """Returns the URL of a server that no longer runs."""
    with mirror({}) as (url, _):
        return url


@pytest.mark.parametrize("fault", ["wrong bytes", "not found", "cut off", "no server"])
def test_mnist_uses_the_next_mirror_if_one_fails(cache: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    wrong = dict.fromkeys(PUBLISHED, b"something else")
    bad = {"wrong bytes": wrong, "not found": {}}.get(fault, PUBLISHED)
    with mirror(bad, cut=fault == "cut off") as (first, _), mirror(PUBLISHED) as (second, requests):
        monkeypatch.setattr(module, "MIRRORS", (url_of_closed_server() if fault == "no server" else first, second))
        assert len(mnist().train.labels) == 20
        assert len(requests) == 4
    assert names_in(cache) == set(PUBLISHED)


def test_mnist_leaves_a_silent_mirror_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts = []

    def silent(url: str, timeout: float) -> Any:
        timeouts.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", silent)
    monkeypatch.setattr(module, "MIRRORS", ("http://one.invalid/", "http://two.invalid/"))
    with pytest.raises(MissingDataError, match=r"http://two\.invalid/train-images-idx3-ubyte\.gz: timed out"):
        mnist()
    assert timeouts == [module.TIMEOUT] * 2


def test_mnist_error_lists_the_mirrors_and_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert names_in(cache) == set()


def test_mnist_leaves_no_file_after_an_interrupted_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def __enter__(self) -> "Interrupted":
            return self

        def __exit__(self, *_: object) -> None: ...

        def read(self, _: int) -> bytes:
            assert len(names_in(cache)) == 1
            raise KeyboardInterrupt

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Interrupted())
    monkeypatch.setattr(module, "MIRRORS", ("http://one.invalid/",))
    with pytest.raises(KeyboardInterrupt):
        mnist()
    assert names_in(cache) == set()


def test_mnist_leaves_no_file_on_a_full_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with mirror(PUBLISHED) as (url, _):
        monkeypatch.setattr(module, "MIRRORS", (url,))
        with pytest.raises(MissingDataError, match="fnn cannot be used: No space left on device"):
            mnist()
    assert names_in(cache) == set()


# The cache folder


def test_mnist_names_a_cache_folder_that_cannot_be_created(cache: Path) -> None:
    cache.parent.touch()
    with pytest.raises(MissingDataError, match=r"fnn cannot be used: .*FNN_DATA"):
        mnist()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write every folder")
def test_mnist_names_a_cache_folder_that_cannot_be_written(cache: Path) -> None:
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
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX paths")
def test_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str
) -> None:
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        assert module._cache_folder() == Path(folder)


def test_mnist_downloads_a_damaged_file_of_the_cache_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True)
    (cache / ".fnn-0123456789abcdef").touch()
    for name, content in PUBLISHED.items():
        (cache / name).write_bytes(content)
    (cache / "train-images-idx3-ubyte.gz").write_bytes(PUBLISHED["train-images-idx3-ubyte.gz"][:-9])
    (cache / "t10k-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: damaged gzip: "):  # without a network
        mnist()
    with mirror(PUBLISHED) as (url, _):
        monkeypatch.setattr(module, "MIRRORS", (url,))
        assert np.array_equal(mnist().train.images, IMAGES[:20])
    assert names_in(cache) == PUBLISHED.keys()
    monkeypatch.setattr(module, "MIRRORS", ())
    assert np.array_equal(mnist().test.labels, LABELS[20:])


@pytest.mark.parametrize("drip", ["header", "body"])
def test_mnist_leaves_a_slow_mirror_after_the_time_limit(monkeypatch: pytest.MonkeyPatch, drip: str) -> None:
    def answer(server: socket.socket) -> None:
        client = server.accept()[0]
        with client, suppress(OSError):
            client.sendall(b"HTTP/1.0 200 OK\r\n" + (b"" if drip == "header" else b"Content-Length: 999\r\n\r\n"))
            while True:
                client.sendall(b"x")
                time.sleep(0.05)

    monkeypatch.setattr(module, "TIME_LIMIT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=answer, args=(server,), daemon=True).start()
        monkeypatch.setattr(module, "MIRRORS", (f"http://127.0.0.1:{server.getsockname()[1]}/",))
        with pytest.raises(MissingDataError, match=r"expected an answer within 0\.3 seconds, got none or a part of it"):
            mnist()


def test_mnist_escapes_texts_from_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(server: socket.socket) -> None:
        client = server.accept()[0]
        with client:
            client.recv(9999)
            client.sendall(b"HTTP/1.0 404 \x1b[31m\x07red\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=answer, args=(server,), daemon=True).start()
        monkeypatch.setattr(module, "MIRRORS", (f"http://127.0.0.1:{server.getsockname()[1]}/",))
        with pytest.raises(MissingDataError, match=r"HTTP Error 404: \\x1b\[31m\\x07red;"):
            mnist()


def test_mnist_refuses_a_small_file_that_announces_gigabytes(images: Path, labels: Path) -> None:
    images.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 60_000, 28, 28) + bytes(60_000 * 784)))
    assert images.stat().st_size < 60_000
    with pytest.raises(DataError, match=r"expected 47040000 bytes after the header, got a file of \d+ bytes$"):
        read_examples(images, labels)


def test_mnist_expands_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_files(tmp_path / "here")
    assert mnist("~/here").source == str(tmp_path / "here")
