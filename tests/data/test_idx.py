import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fnn.data.mnist_files import DataError, read_examples

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
LABELS = np.arange(30, dtype=np.uint8) % 10


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").write_bytes(idx(IMAGES))
    return tmp_path / "images"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "labels").write_bytes(idx(LABELS))
    return tmp_path / "labels"


@pytest.mark.parametrize("packed", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_what_was_written_is_read_into_arrays_of_ones_own(tmp_path: Path, packed: type[bytes]) -> None:
    (tmp_path / "i").write_bytes(packed(idx(IMAGES)))
    (tmp_path / "l").write_bytes(packed(idx(LABELS)))
    read = read_examples(tmp_path / "i", tmp_path / "l")
    assert np.array_equal(read.images, IMAGES)
    assert np.array_equal(read.labels, LABELS)
    assert read.images.dtype == np.uint8
    assert read.labels.dtype == np.int64
    assert read.images.flags.writeable
    assert read.labels.flags.writeable


def test_gzip_of_several_members_is_read(images: Path, labels: Path) -> None:
    content = images.read_bytes()
    images.write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]))
    assert np.array_equal(read_examples(images, labels).images, IMAGES)


def test_no_examples_are_examples(images: Path, labels: Path) -> None:
    images.write_bytes(idx(IMAGES[:0]))
    labels.write_bytes(idx(LABELS[:0]))
    assert read_examples(images, labels).images.shape == (0, 28, 28)


def damaged(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


WHOLE, PACKED = idx(IMAGES), gzip.compress(idx(IMAGES))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "expected an IDX header of 16 bytes, got nothing", id="empty"),
        pytest.param(gzip.compress(b""), "expected an IDX header of 16 bytes, got nothing", id="empty gzip"),
        pytest.param(WHOLE[:10], "expected an IDX header of 16 bytes, got 10", id="part of a header"),
        pytest.param(idx(np.tile(LABELS, 9)), "magic number 0x00000803, got 0x00000801", id="labels"),
        pytest.param(b"<!DOCTYPE html><html></html>", "magic number 0x00000803, got 0x3c21444f", id="web page"),
        pytest.param(idx(IMAGES[:, 1:]), "expected images of 28 x 28, got 27 x 28", id="not 28 x 28"),
        pytest.param(WHOLE[:-1], "expected 23520 bytes after the header, got 23519", id="short"),
        pytest.param(WHOLE + b"x", "expected 23520 bytes after the header, got more", id="long"),
        pytest.param(gzip.compress(WHOLE[:-1]), "expected 23520 bytes after the header, got 23519", id="short gzip"),
        pytest.param(gzip.compress(WHOLE + b"x"), "expected 23520 bytes after the header, got more", id="long gzip"),
        pytest.param(PACKED[:-1], "damaged gzip", id="gzip without its end"),
        pytest.param(PACKED[: len(PACKED) // 2], "damaged gzip", id="half a gzip"),
        pytest.param(PACKED[:2], "damaged gzip", id="a gzip's first bytes"),
        pytest.param(damaged(PACKED, 2), "damaged gzip", id="gzip of another method"),
        pytest.param(damaged(PACKED, len(PACKED) // 2), "damaged gzip", id="gzip with a wrong byte"),
        pytest.param(damaged(PACKED, -8), "damaged gzip: CRC", id="gzip with a wrong checksum"),
        pytest.param(PACKED + b"tail", "damaged gzip", id="gzip with a tail"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(images: Path, labels: Path, content: bytes, message: str) -> None:
    images.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_examples(images, labels)
    assert str(images) in str(caught.value)


def test_counts_that_disagree_name_both_files(images: Path, labels: Path) -> None:
    labels.write_bytes(idx(LABELS[:-1]))
    with pytest.raises(DataError) as caught:
        read_examples(images, labels)
    assert str(caught.value) == f"{labels}: expected 30 labels, one for each image in {images}, got 29"


def test_labels_over_nine_are_refused(images: Path, labels: Path) -> None:
    labels.write_bytes(idx(np.where(LABELS == 7, 17, LABELS).astype(np.uint8)))
    with pytest.raises(DataError, match="expected labels from 0 to 9, got 17 at index 7") as caught:
        read_examples(images, labels)
    assert str(labels) in str(caught.value)


def test_a_folder_in_place_of_a_file_is_named(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"directory|denied") as caught:
        read_examples(images, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is denied to root")
def test_a_file_that_may_not_be_read_is_named(images: Path, labels: Path) -> None:
    images.chmod(0)
    with pytest.raises(DataError, match="images: Permission denied"):
        read_examples(images, labels)


def test_a_file_that_is_gone_is_named(images: Path, labels: Path) -> None:
    labels.unlink()
    with pytest.raises(DataError, match="labels: No such file"):
        read_examples(images, labels)


HUGE = struct.pack(">4I", 0x803, 0xFFFFFFFF, 28, 28)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(HUGE + WHOLE[16:], id="plain"),
        pytest.param(gzip.compress(HUGE + WHOLE[16:]), id="gzip"),
        pytest.param(gzip.compress(HUGE + bytes(32 << 20)), id="bomb announced by its header"),
        pytest.param(gzip.compress(WHOLE + bytes(32 << 20)), id="bomb behind an honest header"),
    ],
)
def test_no_file_takes_more_memory_than_its_size_warrants(images: Path, labels: Path, content: bytes) -> None:
    images.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"expected \d+ bytes after the header, got"):
            read_examples(images, labels)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
