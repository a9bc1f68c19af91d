"""Data to learn from: MNIST's files, digits drawn without any file, and the order in which batches visit them."""

from fnn.data.batches import batches
from fnn.data.digits import digits
from fnn.data.examples import Dataset, Examples, as_float
from fnn.data.idx import DataError
from fnn.data.mnist import MissingDataError, mnist

__all__ = ["DataError", "Dataset", "Examples", "MissingDataError", "as_float", "batches", "digits", "mnist"]
