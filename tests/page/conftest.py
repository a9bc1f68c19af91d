import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

import fnn
from fnn import conv, dense, maxpool, serial, tanh
from fnn.data import Dataset, as_float, digits
from fnn.page import Pupil, make_server
from fnn.page.server import PageServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a default run of one epoch, on MNIST if the environment says where it is."""
    folder = tmp_path_factory.mktemp("runs") / "one-epoch"
    data = [] if "FNN_DATA" in os.environ else ["--data", "digits"]
    command = [sys.executable, str(ROOT / "train.py"), "--epochs", "1", "--out", str(folder), *data]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=300)
    return folder


def make_pupil(folder: Path) -> Pupil:
    """Returns a small net after some steps on generated digits, with data for lessons."""
    data = Dataset(digits(500, 0), digits(200, 1), "digits")
    net = serial(conv(4, 3), maxpool(4), tanh, dense(10))
    params, optimizer = net.init(0, (1, 28, 28)), fnn.sgd(0.5)
    state, gradient = optimizer.init(params), fnn.value_and_grad(net, fnn.cross_entropy)
    for start in range(0, 500, 50):
        rows = slice(start, start + 50)
        _, grads = gradient(params, as_float(data.train.images[rows]), data.train.labels[rows])
        params, state = optimizer.update(params, grads, state)
    return Pupil(net, params, list("0123456789"), folder, data)


@pytest.fixture
def pupil(tmp_path: Path) -> Pupil:
    return make_pupil(tmp_path)


@contextmanager
def serving(pupil: Pupil) -> Iterator[PageServer]:
    """Yields a server that answers in the block."""
    with make_server(pupil) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(pupil: Pupil) -> Iterator[PageServer]:
    with serving(pupil) as server:
        yield server


@pytest.fixture(scope="session")
def drawing() -> bytes:
    """A canvas with a large digit, as bytes."""
    large = np.kron(digits(1, 5).images[0], np.ones((10, 10), np.uint8))
    return large.tobytes()
