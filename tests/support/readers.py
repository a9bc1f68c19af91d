"""Readers of bytes, each with contents that it accepts: what they make of mutations of these contents.

A reader returns "refused" for a clear error, and "read" for a result that is right or possible. It raises any other
error of what it tests, and AssertionError for an error that is not clear.
"""

import gzip
import hashlib
import io
import json
import random
import socket
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import NamedTuple
from unittest.mock import patch

import numpy as np

import fnn
from fnn import run
from fnn.data import DataError, digits, mnist_files
from fnn.data.mnist_files import MissingDataError, read_examples
from fnn.data.pictures import read_picture
from fnn.files.checkpoint import CheckpointError, load
from fnn.page import PageServer, Pupil
from fnn.page.server import CANVAS
from fnn.run.folder import read_config
from tests.support.damage import SMALL, SUFFIXES, change_bytes, outcome
from tests.support.runs import make_task, no_log, write_small_mnist

SLOW = 10.0  # seconds for one content; no reader should need a tenth of a second


class Reader(NamedTuple):
    """Contents, what reads one of them, and how many mutations are one trial."""

    contents: list[bytes]
    read: Callable[[bytes], str]
    per_trial: int = 1000


def count_outcomes(reader: Reader, n: int, rng: random.Random) -> int:
    """Reads n mutations and prints the numbers of outcomes as JSON, in the last line; returns 0."""
    counts: Counter[str] = Counter()
    assert "read" in map(reader.read, reader.contents)
    for _ in range(n):
        content, began = change_bytes(rng.choice(reader.contents), rng), perf_counter()
        try:
            counts[reader.read(content)] += 1
        except Exception as error:
            what = f"FAILED with {type(error).__name__}"
            if not counts[what]:
                traceback.print_exc()
                print(f"{len(content)} bytes: {content[:2000]!r}")
            counts[what] += 1
        if perf_counter() - began > SLOW:
            counts[f"FAILED in more than {SLOW:g} s"] += 1
    print(json.dumps(counts))
    return 0


def check_message(error: Exception, name: object) -> str:
    """Returns "refused"; raises AssertionError unless the message begins with the name and is one short line."""
    message = str(error)
    if not message.startswith(str(name)) or not message.isprintable() or len(message) > 2000 + len(str(name)):
        raise AssertionError(f"unclear error: {message[:500]!r}") from error
    return "refused"


@contextmanager
def tree_files(folder: Path, suffix: str) -> Iterator[Reader]:
    """A file of a tree, read without and with a template."""
    path = folder / f"params{suffix}"
    fnn.save(path, SMALL)
    without_like, turn = load(path), iter(range(1 << 60))

    def read(content: bytes) -> str:
        if next(turn) % 2:
            return outcome(path, content, SMALL, SMALL)
        return outcome(path, content, None, without_like)

    yield Reader([path.read_bytes()], read)


@contextmanager
def idx_files(folder: Path, compress: bool) -> Iterator[Reader]:
    """MNIST's files, gzipped or not: images or labels are mutated."""
    write_small_mnist(folder)
    names = [folder / f"t10k-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    contents = [path.read_bytes() for path in names]
    contents = [gzip.compress(content) for content in contents] if compress else contents
    for path, content in zip(names, contents, strict=True):
        path.write_bytes(content)

    def read(content: bytes) -> str:
        for number in range(2):
            paths = [*names]
            paths[number] = folder / "damaged"
            paths[number].write_bytes(content)
            try:
                images, labels = read_examples(*paths)
            except DataError as error:
                check_message(error, folder)
            else:
                assert images.shape == (len(labels), 28, 28)
                assert labels.min(initial=0) >= 0
                assert labels.max(initial=0) <= 9
                return "read"
        return "refused"

    yield Reader(contents, read)


def make_run(folder: Path) -> Path:
    """Returns the folder of a finished run on generated digits, with all files of `train.py`."""
    task = make_task()
    run.write_config(folder, run.IMAGES | {"net": run.format_net(task.net.wraps or task.net), "epochs": 3, "lr": 0.1})
    run.train(task, run.start(task), folder, log=no_log)
    return folder


@contextmanager
def run_files(folder: Path, name: str) -> Iterator[Reader]:
    """config.json, metrics.jsonl or state.pkl of a run."""
    path, task = make_run(folder) / name, make_task()

    def read(content: bytes) -> str:
        path.write_bytes(content)
        try:
            if name == "config.json":
                read_config(folder)
                run.load_run(folder)
            elif name == "metrics.jsonl":
                lines = run.read_metrics(folder)
                assert all(np.isfinite(list(line.values())).all() for line in lines)
            else:
                run.read_state(folder, task)
        except (run.RunError, CheckpointError) as error:
            return check_message(error, folder)
        return "read"

    yield Reader([path.read_bytes()], read, 1000 if name == "metrics.jsonl" else 100)


@contextmanager
def nets(folder: Path) -> Iterator[Reader]:
    """Nets as text."""

    def read(content: bytes) -> str:
        try:
            net = fnn.parse_net(content.decode("latin-1"))
        except fnn.OpError as error:
            return check_message(error, "")
        assert repr(fnn.parse_net(repr(net))) == repr(net)
        return "read"

    texts = [repr(make_task().net), "serial(named('a', dense(3, b_init=zeros)), parallel(relu, conv(2, (3, 3))))"]
    yield Reader([text.encode() for text in texts], read, 100)


@contextmanager
def pictures(folder: Path) -> Iterator[Reader]:
    """Images of digits in several formats."""
    from PIL import Image

    contents = []
    grey = Image.fromarray(255 - digits(1, 3).images[0]).resize((60, 60))
    for kind, mode in (("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "I;16"), ("JPEG", "L"), ("JPEG", "RGB")):
        grey.convert(mode).save(file := io.BytesIO(), kind)
        contents.append(file.getvalue())
    for kind in ("GIF", "BMP", "TIFF", "WEBP", "PPM"):
        grey.convert("RGB").save(file := io.BytesIO(), kind)
        contents.append(file.getvalue())
    path = folder / "picture"

    def read(content: bytes) -> str:
        path.write_bytes(content)
        try:
            image = read_picture(path)
        except DataError as error:
            return check_message(error, path)
        assert (image.shape, image.dtype.str) == ((28, 28), "|u1")
        return "read"

    yield Reader(contents, read)


@contextmanager
def requests(folder: Path) -> Iterator[Reader]:
    """Requests to the server of the page; "read" for status 200, "refused" for 4xx."""
    net = fnn.serial(fnn.dense(10))
    pupil = Pupil(net, net.init(0, (1, 28, 28)), list("0123456789"), folder, None)
    drawing = np.kron(digits(1, 5).images[0], np.ones((10, 10), np.uint8)).tobytes()
    assert len(drawing) == CANVAS**2
    with PageServer(pupil) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        head = f"Host: {server.host}\r\nOrigin: http://{server.host}\r\nContent-Type: application/octet-stream\r\n"
        contents = [f"GET /{server.token}/ HTTP/1.1\r\n{head}\r\n".encode()]
        for action, body in (("answer", drawing), ("answer/3", drawing), ("teach/3", drawing), ("undo", b"")):
            text = f"POST /{server.token}/{action} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n"
            contents += [text.encode() + body, *([text.encode()] if body else [])]

        def read(content: bytes) -> str:
            with socket.create_connection(("127.0.0.1", server.server_port), timeout=SLOW) as client:
                received = b""
                with suppress(OSError):  # the server may have closed the connection already
                    client.sendall(content)
                    client.shutdown(socket.SHUT_WR)
                with suppress(ConnectionError):
                    while part := client.recv(1 << 16):
                        received += part
            if not received:
                return "closed without a response"
            assert b"Traceback" not in received
            status = received[:12]
            assert status.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4")), received[:500]
            return "read" if status.endswith(b"200") else "refused"

        assert [read(content) for content in contents[:2]] == ["read"] * 2
        yield Reader(contents, read, 20)
        assert read(contents[1]) == "read"
        server.shutdown()


@contextmanager
def responses(folder: Path) -> Iterator[Reader]:
    """Responses of a mirror; "read" if the file has the right checksum in spite of the mutation."""
    body = gzip.compress(bytes(range(200)))
    checksum, answers = hashlib.md5(body).hexdigest(), list[bytes]()
    kind = b"Content-Type: application/gzip\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:20], body[20:])) + b"0\r\n\r\n"
    contents = [
        b"HTTP/1.1 200 OK\r\n" + kind + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        b"HTTP/1.1 200 OK\r\n" + kind + b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
        b"HTTP/1.0 200 OK\r\n\r\n" + body,
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/mnist/file.gz\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
    ]

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client = server.accept()[0]
                with client, suppress(OSError):
                    client.recv(9999)
                    client.sendall(answers[-1])

    def read(content: bytes) -> str:
        answers[:] = [content]
        try:
            got = mnist_files._download(folder / "file.gz", checksum)
        except MissingDataError as error:
            return check_message(error, "MNIST not found: ")
        assert got == body
        return "read"

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=serve, args=(server,), daemon=True).start()
        mirror = f"http://127.0.0.1:{server.getsockname()[1]}/mnist/"
        with patch.object(mnist_files, "MIRRORS", (mirror,)), patch.dict("os.environ", {"no_proxy": "*"}):
            assert [read(content) for content in contents[:3]] == ["read"] * 3
            yield Reader(contents, read, 20)


READERS: dict[str, Callable[[Path], AbstractContextManager[Reader]]] = {
    **{f"load {suffix}": partial(tree_files, suffix=suffix) for suffix in SUFFIXES},
    "MNIST": partial(idx_files, compress=False),
    "MNIST, gzipped": partial(idx_files, compress=True),
    **{name: partial(run_files, name=name) for name in ("config.json", "metrics.jsonl", "state.pkl")},
    "nets as text": nets,
    "pictures": pictures,
    "requests to the page": requests,
    "responses of a mirror": responses,
}
"""Each reader, as a context manager that gets an empty folder."""
