"""The data of a run: MNIST or generated digits, and a digest that detects other data when the run continues."""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np

from fnn.checks.values import check_int
from fnn.data import DataError, Dataset, Examples, MissingDataError, digits, mnist
from fnn.random import Key
from fnn.run.folder import RunError
from fnn.run.settings import Config

DIGITS = "generated digits"


def read_data(source: str | None, limit: int | None, log: Callable[[str], None], validation: int = 0) -> Dataset:
    """Returns MNIST from the folder `source` (None: as `mnist` finds it), or generated digits if that is "digits".

    Without MNIST, logs the reason and returns generated digits. The last `validation` training examples become the
    validation examples. Of the others, only the first `limit` are kept. Raises DataError as `mnist` does.
    """
    limit = None if limit is None else check_int("limit", limit, 1)
    validation = check_int("validation", validation, 0)
    try:
        data = None if source == "digits" else mnist(source)
    except MissingDataError as error:
        log(f"using generated digits: {error} (or use --data)")
        data = None
    if data is None:
        key = Key(0).fold("digits")
        data = Dataset(digits(20_000, key.fold("train")), digits(4_000, key.fold("test")), DIGITS)
    if not (len(data.train.labels) and len(data.test.labels)):
        raise DataError(f"{data.source}: expected training and test images, got none")
    total = len(data.train.labels)
    if validation >= total:
        raise DataError(f"validation: expected less than the {total} training images, got {validation}")
    count = total - validation
    kept = count if limit is None else min(limit, count)
    images, labels = data.train
    last = Examples(images[count:], labels[count:]) if validation else None
    return data._replace(train=Examples(images[:kept], labels[:kept]), validation=last)


def add_data(config: Config, data: Dataset, folder: Path) -> Config:
    """Returns the run's configuration with the source and the digest of its data. Raises RunError for other data."""
    digest = sha256()
    for array in (*data.train, *data.test, *(data.validation or ())):
        digest.update(np.ascontiguousarray(array).data)
    if config.get("data_sha256") not in (None, digest.hexdigest()):
        raise RunError(f"{data.source}: expected the data of the run in {folder}, got other images or labels")
    source = "digits" if data.source == DIGITS else os.path.abspath(data.source)
    return config | {"data": config.get("data") or source, "data_sha256": digest.hexdigest()}
