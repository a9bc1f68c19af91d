"""MNIST: read from a folder, or downloaded once to the user's cache. Its files are in the IDX format."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from math import prod
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from fnn.checks.errors import escape
from fnn.data.examples import Dataset, Examples
from fnn.files.allowed import limit_inflated
from fnn.files.disk import atomic_write, check_regular

# Where MNIST is downloaded from: the first mirror that works.
MIRRORS = ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")

# MNIST's four files, with the published checksum of each gzipped file.
MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}

# Seconds to wait for each address of a mirror (S3 has eight). Some firewalls drop packets without an answer.
TIMEOUT = 4.0

# Seconds that the answer of a mirror may take: a server that sends a byte now and then would never end.
TIME_LIMIT = 300.0


class DataError(ValueError):
    """A data file is missing, damaged or of the wrong kind; the message names it."""


class MissingDataError(DataError):
    """MNIST was not found: the message lists where it was searched for, what failed and how to provide it."""


def mnist(path: str | os.PathLike[str] | None = None) -> Dataset:
    """Reads MNIST from the folder `path`, else from `$FNN_DATA`, else from the user's cache.

    Files that are missing or damaged in the cache are downloaded. Only downloads are compared with checksums.

    Raises DataError for a damaged file, or if the folder `path` or `$FNN_DATA` lacks a file: another source would
    silently train on other data. Raises MissingDataError if the cache lacks a file and the download fails.
    """
    path = path if path is not None else os.environ.get("FNN_DATA") or None
    folder = _cache_folder() if path is None else Path(os.path.expanduser(path))
    files = _find_files(folder, download=path is None)
    parts: list[Examples] = []
    for part in ("train", "t10k"):
        names = [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"]
        try:
            examples = read_examples(*(files[name] for name in names))
        except DataError:
            if path is not None:
                raise
            with suppress(MissingDataError):
                files |= _fetch(folder, names)
            examples = read_examples(*(files[name] for name in names))
        parts.append(examples)
    train, test = parts
    return Dataset(train, test, str(folder))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return Path(base if os.path.isabs(base) else "~/.cache", "fnn").expanduser()
    except RuntimeError as error:
        raise _missing(f"no home folder for the cache: {error}") from error


def _find_files(folder: Path, download: bool) -> dict[str, Path]:
    """Returns the paths of MNIST's files in `folder`, by name, after downloading those that are missing if asked to."""
    try:
        if download:
            folder.mkdir(parents=True, exist_ok=True)
        existing = set(os.listdir(folder))
        files = {
            name: folder / f"{spelling}{suffix}"
            for name in MD5
            for suffix in (".gz", "")  # an unpacked file, which is faster to read, replaces the gzipped one
            for spelling in (name, name.replace("-idx", ".idx"))
            if f"{spelling}{suffix}" in existing
        }
        missing = [name for name in MD5 if name not in files]
        if missing and not download:
            spellings = "with - or . before idx, with or without .gz"
            raise DataError(f"{folder}: expected MNIST's files, missing: {', '.join(missing)} ({spellings})")
    except OSError as error:
        if download:
            raise _missing(f"the cache folder {folder} cannot be used: {error.strerror}") from error
        raise DataError(f"{folder}: {error.strerror}") from error
    return files | _fetch(folder, missing) if missing else files


def _fetch(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Downloads these files into the cache, in place of others with the same content; returns their paths by name."""
    try:
        paths = {name: folder / f"{name}.gz" for name in names}
        for name, path in paths.items():
            with atomic_write(path) as file:  # before the download, which is useless if the folder is read-only
                file.write(_download(path, MD5[name]))
            (folder / name).unlink(missing_ok=True)  # the unpacked file comes first
    except OSError as error:
        raise _missing(f"the cache folder {folder} cannot be used: {error.strerror}") from error
    return paths


def _download(path: Path, expected: str) -> bytes:
    """Returns the file with the name of `path` and this MD5 checksum, from the first mirror that has it."""
    from hashlib import md5
    from http.client import HTTPException

    failures = []
    for url in (mirror + path.name for mirror in MIRRORS):
        try:
            body = _call_with_limit(partial(_read_url, url), TIME_LIMIT)
        except (OSError, HTTPException) as error:
            failures.append(f"{url}: {escape(str(error)[:200])}")  # it may have a text by the server
        else:
            if (got := md5(body, usedforsecurity=False).hexdigest()) == expected:
                return body
            failures.append(f"{url}: expected md5 {expected}, got {got} ({len(body)} bytes)")
    raise _missing(f"{path.parent} lacks {path.name}", *failures)


def _read_url(url: str) -> bytes:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            body: bytes = response.read(1 << 24)  # more than the largest file: limits an endless answer
            return body
    except HTTPError as error:
        error.close()  # the error is also the response, with an open connection
        raise


def _call_with_limit(f: Callable[[], bytes], seconds: float) -> bytes:
    """Returns `f()`. Raises TimeoutError after this time; `f` then goes on in a thread that ends with the program."""
    results: SimpleQueue[tuple[bytes, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            results.put((f(), None))
        except BaseException as error:
            results.put((b"", error))

    Thread(target=work, daemon=True).start()
    try:
        body, error = results.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"expected an answer within {seconds:g} seconds, got none or a part of it") from None
    if error:
        raise error
    return body


def _missing(*reasons: str) -> MissingDataError:
    files = "{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz"
    fix = f"put {files} into a folder and pass its path, or set FNN_DATA to it"
    return MissingDataError("MNIST not found: " + "; ".join((*reasons, fix)))


def read_examples(images: Path, labels: Path) -> Examples:
    """Reads a file of 28 x 28 images and a file of labels from 0 to 9, gzipped or not.

    Raises DataError, which names the file, if a file cannot be read, is damaged, or holds anything else.
    """
    pixels, classes = _read_idx(images, 28, 28), _read_idx(labels)
    if len(pixels) != len(classes):
        raise DataError(f"{labels}: expected {len(pixels)} labels, one for each image in {images}, got {len(classes)}")
    if len(wrong := np.flatnonzero(classes > 9)):
        raise DataError(f"{labels}: expected labels from 0 to 9, got {classes[wrong[0]]} at index {wrong[0]}")
    return Examples(pixels, classes.astype(np.int64))


def _read_idx(path: Path, *sides: int) -> NDArray[np.uint8]:
    """Reads an array (N, *sides): a magic number, the size of each axis, then one byte per number."""
    import gzip
    import zlib

    axes, start = 1 + len(sides), 4 * (2 + len(sides))
    try:
        with open(check_regular(path, DataError), "rb") as file:  # a pipe may never end
            is_gzip = file.read(2) == b"\x1f\x8b"  # whatever the name is
        with gzip.open(path) if is_gzip else open(path, "rb") as file:
            header = file.read(start)
            if len(header) < start:
                raise DataError(f"{path}: expected an IDX header of {start} bytes, got {len(header) or 'nothing'}")
            magic, length, *shape = np.frombuffer(header, ">u4").tolist()
            if magic != 0x800 + axes:
                raise DataError(f"{path}: expected the magic number {0x800 + axes:#010x}, got {magic:#010x}")
            if shape != list(sides):
                raise DataError(f"{path}: expected images of 28 x 28, got {shape[0]} x {shape[1]}")
            expected, size = length * prod(sides), path.stat().st_size
            largest = limit_inflated(size) if is_gzip else size
            body = b"" if expected > largest else file.read(expected + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if len(body) != expected:
        got = "more" if len(body) > expected else f"a file of {size} bytes" if expected > largest else str(len(body))
        raise DataError(f"{path}: expected {expected} bytes after the header, got {got}")
    return np.frombuffer(body, np.uint8).reshape(length, *sides).copy()
