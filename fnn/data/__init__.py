"""Data to learn from: MNIST's files, digits drawn without any file, the order in which batches visit them, and changes
that make more of them."""

from fnn.data.augment import affine, compose, elastic, erase, shift
from fnn.data.batching import batches
from fnn.data.examples import Dataset, Examples, as_float
from fnn.data.generated import digits
from fnn.data.idx import DataError
from fnn.data.mnist_files import MissingDataError, mnist

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
