"""What a run learns from: MNIST or generated digits, and a digest by which it is known again."""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np

from fnn.checks.values import check_int
from fnn.data import DataError, Dataset, Examples, MissingDataError, digits, mnist
from fnn.random import Key
from fnn.run.folder import Config, RunError

DIGITS = "generated digits"


def read(source: str | None, limit: int | None, tell: Callable[[str], None]) -> Dataset:
    """The data: generated digits if asked for or if there is no MNIST, else MNIST from the folder or where it is.

    Only the first `limit` examples are to train on. Raises DataError as `mnist` does, and where there are no examples.
    """
    limit = None if limit is None else check_int("limit", limit, 1)
    try:
        data = None if source == "digits" else mnist(source)
    except MissingDataError as error:
        tell(f"training on generated digits instead of MNIST: {error} (here means: with --data)")
        data = None
    if data is None:
        key = Key(0).fold("digits")
        data = Dataset(digits(20_000, key.fold("train")), digits(4_000, key.fold("test")), DIGITS)
    if not (len(data.train.labels) and len(data.test.labels)):
        raise DataError(f"{data.source} has no images to train on, or none to test on")
    return data._replace(train=Examples(data.train.images[:limit], data.train.labels[:limit]))


def with_data(config: Config, data: Dataset, folder: Path) -> Config:
    """The configuration of the run in the folder with where its data is, and a digest of what it is.

    Raises RunError when the configuration has the digest of other data.
    """
    digest = sha256()
    for array in (*data.train, *data.test):
        digest.update(np.ascontiguousarray(array).data)
    if config["data_sha256"] not in (None, digest.hexdigest()):
        raise RunError(f"{data.source} is not what the run in {folder} learns from: images or labels differ")
    source = "digits" if data.source == DIGITS else os.path.abspath(data.source)
    return config | {"data": config["data"] or source, "data_sha256": digest.hexdigest()}
