"""IDX, the format of MNIST's files: a magic number, the size of each axis, then one byte per number."""

import os
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fnn.data.examples import Examples

MAX_EXPANSION = 1032
"""The most bytes that one byte of gzip can stand for: two bits can repeat 258 bytes."""


class DataError(ValueError):
    """A data file is missing, damaged or of the wrong kind; the message names it."""


def read_examples(images: Path, labels: Path) -> Examples:
    """Reads a file of 28 x 28 images and a file of labels from 0 to 9, gzipped or not.

    Raises DataError, which names the file, if a file cannot be read, is damaged, or holds anything else.
    """
    pixels, classes = _read(images, 28, 28), _read(labels)
    if len(pixels) != len(classes):
        raise DataError(f"{labels}: expected {len(pixels)} labels, one for each image in {images}, got {len(classes)}")
    if len(wrong := np.flatnonzero(classes > 9)):
        raise DataError(f"{labels}: expected labels from 0 to 9, got {classes[wrong[0]]} at index {wrong[0]}")
    return Examples(pixels, classes.astype(np.int64))


def _read(path: Path, *sides: int) -> NDArray[np.uint8]:
    """Reads an array of shape (N, *sides). The content, not the name, tells whether the file is gzipped."""
    import gzip
    import zlib

    try:
        with open(path, "rb") as file:
            gzipped = file.peek(2)[:2] == b"\x1f\x8b"
            most = os.fstat(file.fileno()).st_size * (MAX_EXPANSION if gzipped else 1)
            with gzip.open(file) if gzipped else file as stream:
                length = _read_length(path, stream.read(4 * (2 + len(sides))), sides)
                size = length * prod(sides)
                if size > most:  # before a damaged or hostile header makes us allocate memory
                    raise DataError(f"{path}: expected {size} bytes after the header, got at most {most}")
                body = stream.read(size + 1)  # one more: detects a longer file, and gzip verifies its checksum
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if len(body) != size:
        raise DataError(
            f"{path}: expected {size} bytes after the header, got {len(body) if len(body) < size else 'more'}"
        )
    return np.frombuffer(bytearray(body), np.uint8).reshape(length, *sides)


def _read_length(path: Path, header: bytes, sides: tuple[int, ...]) -> int:
    """Returns the number of items of shape `sides` that the header announces."""
    axes = 1 + len(sides)
    if len(header) < 4 * (1 + axes):
        raise DataError(f"{path}: expected an IDX header of {4 * (1 + axes)} bytes, got {len(header) or 'nothing'}")
    magic, length, *shape = np.frombuffer(header, ">u4").tolist()
    if magic != 0x800 + axes:
        raise DataError(f"{path}: expected the magic number {0x800 + axes:#010x}, got {magic:#010x}")
    if shape != list(sides):
        raise DataError(f"{path}: expected images of 28 x 28, got {shape[0]} x {shape[1]}")
    return int(length)
