"""MNIST: read from a folder, or fetched once into the user's cache."""

import os
import sys
from pathlib import Path

from fnn.data.examples import Dataset
from fnn.data.idx import DataError, read_examples
from fnn.files.disk import atomic_write

MIRRORS = ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")
"""Where MNIST is fetched from; the next one is asked when one fails."""

MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""MNIST's four files, each with the published checksum of its gzipped form."""

TIMEOUT = 4.0
"""How many seconds a mirror may be silent, at each of its addresses (S3 has eight): a firewall that swallows packets
must not hold up for minutes whoever has no network."""


class MissingDataError(DataError):
    """No MNIST anywhere; the message, one line, says where it was looked for, what failed and how to give it."""


def mnist(path: str | os.PathLike[str] | None = None) -> Dataset:
    """MNIST, from the folder `path`; else from `$FNN_DATA`; else from the user's cache, fetching what that lacks.

    A folder given by hand is read as it is, whatever its checksums. Raises DataError for a damaged file, and for such a
    folder without the files: going on to another source would quietly train on other data. Raises MissingDataError when
    the cache lacks some and they cannot be fetched.
    """
    given = path if path is not None else os.environ.get("FNN_DATA") or None
    folder = _cache() if given is None else Path(given)
    files = _cached(folder) if given is None else _given(folder)
    train, test = (
        read_examples(files[f"{part}-images-idx3-ubyte"], files[f"{part}-labels-idx1-ubyte"])
        for part in ("train", "t10k")
    )
    return Dataset(train, test, str(folder))


def _cache() -> Path:
    """The user's folder for what can be fetched again, by the custom of the system."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        xdg = os.environ.get("XDG_CACHE_HOME", "")
        base = xdg if os.path.isabs(xdg) else "~/.cache"  # the XDG specification: a relative one is to be ignored
    try:
        return Path(base, "fnn").expanduser()
    except RuntimeError as error:
        raise _missing(f"no home folder to keep it in: {error}") from error


def _given(folder: Path) -> dict[str, Path]:
    """MNIST's files, all of them in `folder`."""
    try:
        files = _files(folder)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error
    if lacking := [name for name in MD5 if name not in files]:
        raise DataError(f"{folder} lacks {', '.join(lacking)} (also looked for as .idx and with .gz)")
    return files


def _cached(folder: Path) -> dict[str, Path]:
    """MNIST's files in the cache `folder`, made and filled as far as needed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = _files(folder)
        for name in MD5:
            if name not in files:
                files[name] = folder / f"{name}.gz"
                _fetch(files[name], MD5[name])
    except OSError as error:
        raise _missing(f"the cache folder {folder} cannot be used: {error.strerror}") from error
    return files


def _files(folder: Path) -> dict[str, Path]:
    """Those of MNIST's files that `folder` holds in one of their spellings, by name."""
    there = set(os.listdir(folder))
    spellings = {name: (name, name.replace("-idx", ".idx")) for name in MD5}
    return {
        name: folder / f"{spelling}{suffix}"
        for name in MD5
        for suffix in (".gz", "")  # the last one counts: the unpacked file reads faster
        for spelling in spellings[name]
        if f"{spelling}{suffix}" in there
    }


def _fetch(path: Path, md5: str) -> None:
    """Put the file that is published under `path`'s name there, whole or not at all."""
    with atomic_write(path) as file:  # before the download: a folder that cannot be written to costs none
        file.write(_download(path, md5))


def _download(path: Path, md5: str) -> bytes:
    """The bytes that the first mirror with the right ones gives for `path`'s name."""
    from hashlib import md5 as digest
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    failures = []
    for url in (mirror + path.name for mirror in MIRRORS):
        try:
            with urlopen(url, timeout=TIMEOUT) as response:
                body: bytes = response.read(1 << 24)  # more than any of the files has: no answer is endless
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()  # it is the response as well, and holds the connection
            failures.append(f"{url}: {error}")
        else:
            if (came := digest(body, usedforsecurity=False).hexdigest()) == md5:
                return body
            failures.append(f"{url}: md5 {md5} wanted, {came} came ({len(body)} bytes)")
    raise _missing(f"{path.parent} lacks {path.name}", *failures)


def _missing(*reasons: str) -> MissingDataError:
    """The error for MNIST that is nowhere, with what to do about it."""
    files = "{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz"
    way_out = f"put {files} into a folder and give its path, here or as FNN_DATA in the environment"
    return MissingDataError("no MNIST: " + "; ".join((*reasons, way_out)))
