"""Any image file of a digit as an image like those of MNIST. Needs Pillow (extra `images`)."""

import os

import numpy as np
from numpy.typing import NDArray

from fnn.data.mnist_files import DataError

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
        levels = _fit((levels - background).clip(0))
    return levels.round().astype(np.uint8)


def _read_grey(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Returns the grey levels of an image file, (height, width), from 0 to 255."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(f"{path}: the package Pillow is missing; run pip install '.[images]'") from error
    with open(path, "rb") as file:
        try:
            image = ImageOps.exif_transpose(Image.open(file))
            if image.mode.startswith("I"):  # 16 bits
                return np.asarray(image).astype(np.float32) / np.float32(257)
            white = Image.new("RGBA", image.size, "white")
            return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("L")).astype(np.float32)
        except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: expected an image that Pillow can read: {error}") from error


def _fit(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales a light digit on black to BOX pixels and full contrast, and puts its centre of mass into the middle."""
    from PIL import Image

    rows, columns = (np.flatnonzero((levels > levels.max() / 4).any(axis)) for axis in (1, 0))
    digit = levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(n * BOX / max(digit.shape))) for n in digit.shape)
    small = np.asarray(Image.fromarray(digit).resize((width, height), Image.Resampling.BILINEAR))
    small = small * (255 / small.max())
    fitted = np.zeros((SIZE, SIZE), np.float32)
    top, left = (
        min(max(round(SIZE / 2 - centre), 0), SIZE - n)
        for centre, n in zip(_centre_of_mass(small), small.shape, strict=True)
    )
    fitted[top : top + height, left : left + width] = small
    return fitted


def _centre_of_mass(levels: NDArray[np.float32]) -> tuple[float, float]:
    """Returns the row and the column."""
    sums = (levels.sum(1), levels.sum(0))
    row, column = (float(weights @ np.arange(len(weights)) / weights.sum()) for weights in sums)
    return row, column
