"""Data to learn from: MNIST's files, digits drawn without any file, the order in which batches visit them, and changes
that make more of them."""

from fnn.data.augment import affine, compose, elastic, erase, shift
from fnn.data.batches import batches
from fnn.data.digits import digits
from fnn.data.examples import Dataset, Examples, as_float
from fnn.data.idx import DataError
from fnn.data.mnist import MissingDataError, mnist

__all__ = [
    "DataError",
    "Dataset",
    "Examples",
    "MissingDataError",
    "affine",
    "as_float",
    "batches",
    "compose",
    "digits",
    "elastic",
    "erase",
    "mnist",
    "shift",
]
