"""Any image of a digit as an image like those of MNIST: from a file, which needs Pillow (extra `images`), or drawn."""

import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fnn.checks.errors import escape
from fnn.data.mnist_files import DataError
from fnn.files.disk import check_regular

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats of Pillow for which it calls no other program: it would run Ghostscript for others."""

MAX_PIXELS = 1 << 26  # of an image, which Pillow needs 16 bytes each for
SIZE, BOX = 28, 20  # of MNIST's images, and of the square into which each digit was scaled
MIN_CONTRAST = 32  # between the digit and its background, in grey levels


def read_picture(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Reads an image of one digit and returns it like MNIST's: 28 x 28, light on dark, uint8.

    The digit must be darker or lighter than its plain background; the edge of the image shows which. Transparent pixels
    become white. As in MNIST, the digit is scaled to 20 pixels and its centre of mass moved to the middle. An image of
    28 x 28 pixels keeps its size and position. Raises DataError for other files and for an image without a digit, and
    ImportError without Pillow.
    """
    levels = _read_grey(path)
    background = np.median(np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]]))
    if background > 127:
        levels, background = 255 - levels, 255 - background
    if levels.max() - background < MIN_CONTRAST:
        raise DataError(f"{path}: expected a digit on a plain background, got an image without contrast")
    if levels.shape != (SIZE, SIZE):
        return fit_digit((levels - background).clip(0))
    return levels.round().astype(np.uint8)


def _read_grey(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Returns the grey levels of an image file, (height, width), from 0 to 255."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(f"{path}: the package Pillow is missing; run pip install '.[images]'") from error
    with open(check_regular(path, DataError), "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd files that Pillow can read
        try:
            image: Any = Image.open(file, formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS}")
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits
                return np.asarray(image).astype(np.float32) / np.float32(257)
            white = Image.new("RGBA", image.size, "white")
            return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("L")).astype(np.float32)
        except MemoryError:
            raise DataError(f"{path}: expected an image that fits into the memory") from None
        except Exception as error:  # Pillow raises errors of any kind for damaged files
            raise DataError(f"{path}: expected an image that Pillow can read: {escape(str(error)[:200])}") from error


def fit_digit(levels: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Returns a light digit on black, (height, width) of any size, like MNIST's: 28 x 28, uint8.

    The digit is scaled to BOX pixels and full contrast, and its centre of mass moved to the middle. At least one pixel
    must be above 0.
    """
    rows, columns = (np.flatnonzero((levels > levels.max() / 4).any(axis)) for axis in (1, 0))
    digit = levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(n * BOX / max(digit.shape))) for n in digit.shape)
    small = _resize(_resize(digit, height).T, width).T
    fitted = np.zeros((SIZE, SIZE), np.uint8)
    top, left = (
        min(max(round(SIZE / 2 - centre), 0), SIZE - n)
        for centre, n in zip(_centre_of_mass(small), small.shape, strict=True)
    )
    fitted[top : top + height, left : left + width] = (small * (255 / small.max())).round()
    return fitted


def _resize(image: NDArray[np.floating[Any]], height: int) -> NDArray[np.floating[Any]]:
    """Resizes an image to that height. Each new row is a mean of old rows, weighted by a triangle around its centre.

    The triangle is as wide as a new row, so that thin strokes become grey and do not vanish. A wider one blurs: it cost
    half a point of accuracy.
    """
    scale = len(image) / height
    distances = np.arange(len(image)) + 0.5 - (np.arange(height)[:, None] + 0.5) * scale
    weights = (1 - np.abs(distances) / max(scale / 2, 1)).clip(0)
    resized: NDArray[np.floating[Any]] = weights / weights.sum(1, keepdims=True) @ image
    return resized


def _centre_of_mass(levels: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Returns the row and the column."""
    sums = (levels.sum(1), levels.sum(0))
    row, column = (float(weights @ np.arange(len(weights)) / weights.sum()) for weights in sums)
    return row, column
