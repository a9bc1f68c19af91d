"""IDX files, the form of MNIST's images and labels: a magic number, the lengths of the axes, then a byte a number."""

import os
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fnn.data.examples import Examples

EXPANSION = 1032
"""How many times its own size a gzipped file unpacks to at most: a back-reference of two bits stands for 258 bytes."""


class DataError(ValueError):
    """A data file that is missing, damaged or not what it should be; the message names it."""


def read_examples(images: Path, labels: Path) -> Examples:
    """The digits in a file of images and a file of labels, gzipped or not.

    Raises DataError, naming the file, for one that cannot be read, is damaged, or does not hold 28 x 28 images and as
    many labels of 0 up to 9.
    """
    pixels, classes = _read(images, 28, 28), _read(labels)
    if len(pixels) != len(classes):
        raise DataError(f"{images} has {len(pixels)} images, {labels} has {len(classes)} labels")
    if len(wrong := np.flatnonzero(classes > 9)):
        raise DataError(f"{labels}: labels must be 0 to 9, number {wrong[0]} is {classes[wrong[0]]}")
    return Examples(pixels, classes.astype(np.int64))


def _read(path: Path, *sides: int) -> NDArray[np.uint8]:
    """The array of shape (N, *sides) that `path` holds, gzipped or not, whatever its name says."""
    import gzip
    import zlib

    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            most = os.fstat(file.fileno()).st_size * (EXPANSION if packed else 1)
            with gzip.open(file) if packed else file as stream:
                length = _length(path, stream.read(4 * (2 + len(sides))), sides)
                wanted = length * prod(sides)
                if wanted > most:  # before memory is taken for a damaged or hostile header
                    raise DataError(f"{path}: {wanted} bytes wanted after its header, no more than {most} can come")
                body = stream.read(wanted + 1)  # one more: a longer file shows, and gzip comes to its checksum
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if len(body) != wanted:
        came = len(body) if len(body) < wanted else "more"
        raise DataError(f"{path}: {wanted} bytes wanted after its header, {came} came")
    return np.frombuffer(bytearray(body), np.uint8).reshape(length, *sides)


def _length(path: Path, header: bytes, sides: tuple[int, ...]) -> int:
    """How many items of shape `sides` the header announces."""
    axes = 1 + len(sides)
    if len(header) < 4 * (1 + axes):
        raise DataError(f"{path}: an IDX header of {4 * (1 + axes)} bytes wanted, {len(header) or 'nothing'} came")
    magic, length, *shape = np.frombuffer(header, ">u4").tolist()
    if magic != 0x800 + axes:
        raise DataError(f"{path}: magic number {0x800 + axes:#010x} wanted, {magic:#010x} came")
    if shape != list(sides):
        raise DataError(f"{path}: images of 28 x 28 wanted, {shape[0]} x {shape[1]} came")
    return int(length)
