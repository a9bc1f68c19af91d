"""Training data: MNIST, generated digits, shuffled batches and augmentation.

You can understand the rest of the library without reading this package: operators take any NumPy array.
"""

from fnn.data.augment import affine, compose, elastic, erase, shift
from fnn.data.examples import SCALING, Dataset, Examples, as_float, batches
from fnn.data.generated import digits
from fnn.data.mnist_files import DataError, MissingDataError, mnist
from fnn.data.pictures import read_picture

__all__ = ["SCALING", "DataError", "Dataset", "Examples", "MissingDataError"]
__all__ += ["affine", "as_float", "batches", "compose", "digits", "elastic", "erase", "mnist"]
__all__ += ["read_picture", "shift"]
