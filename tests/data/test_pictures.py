import os
from pathlib import Path

import numpy as np
import pytest

from fnn.data import DataError, digits
from fnn.data.pictures import fit_digit, read_picture

Image = pytest.importorskip("PIL.Image")

DIGITS = digits(20, 3).images


def save(array: np.ndarray, path: Path) -> Path:
    Image.fromarray(array).save(path)
    return path


def enlarged(image: np.ndarray, level: int, n: int = 5) -> np.ndarray:
    """Returns the digit n times as large, off the centre of a background of this level."""
    large: np.ndarray = np.asarray(Image.fromarray(image).resize((28 * n, 28 * n)))
    padded: np.ndarray = np.pad(np.maximum(large, level), ((40, 10), (5, 90)), constant_values=level)
    return padded


def centre_of_mass(image: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(image.shape)
    return np.array([(image * rows).sum() / image.sum(), (image * columns).sum() / image.sum()])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_read_picture_keeps_images_like_those_of_mnist(tmp_path: Path, suffix: str) -> None:
    for image in DIGITS:
        assert np.array_equal(read_picture(save(image, tmp_path / f"a{suffix}")), image)
        assert np.array_equal(read_picture(save(255 - image, tmp_path / f"a{suffix}")), image)


def test_read_picture_reads_16_bits_colours_and_transparency(tmp_path: Path) -> None:
    image, black = DIGITS[0], np.zeros_like(DIGITS[0])
    for array in (
        image.astype(np.uint16) * 257,
        np.dstack([255 - image] * 3),
        np.dstack([black, black, black, image]),  # a black digit on a transparent background
    ):
        assert np.array_equal(read_picture(save(array, tmp_path / "a.png")), image)


@pytest.mark.parametrize("level", [0, 60])
@pytest.mark.parametrize("is_inverted", [False, True])
def test_read_picture_scales_and_centres_the_digit(tmp_path: Path, level: int, is_inverted: bool) -> None:
    for image in DIGITS:
        large = enlarged(image, level)
        read = read_picture(save(255 - large if is_inverted else large, tmp_path / "a.png"))
        assert read.shape == (28, 28)
        assert read.dtype == np.uint8
        assert read.max() == 255
        assert read[0].max() < 100
        rows, columns = np.flatnonzero(read.any(1)), np.flatnonzero(read.any(0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
        assert np.abs(centre_of_mass(read) - 14).max() <= 0.6


def slow_fit(levels: np.ndarray) -> np.ndarray:
    """Returns `fit_digit(levels)`, computed pixel by pixel."""
    ink = np.argwhere(levels > levels.max() / 4)
    (top, left), (bottom, right) = ink.min(0), ink.max(0) + 1
    digit = levels[top:bottom, left:right].astype(float)
    longest = max(digit.shape)
    height, width = (max(1, round(n * 20 / longest)) for n in digit.shape)
    small = np.zeros((height, width))
    for row, column in np.ndindex(height, width):
        weights = np.zeros(digit.shape)
        for i, j in np.ndindex(digit.shape):
            distances = []
            for new, old, length, size in ((row, i, digit.shape[0], height), (column, j, digit.shape[1], width)):
                scale = length / size
                distances.append(abs(old + 0.5 - (new + 0.5) * scale) / max(1, scale / 2))
            weights[i, j] = max(0, 1 - distances[0]) * max(0, 1 - distances[1])
        small[row, column] = (weights * digit).sum() / weights.sum()
    fitted = np.zeros((28, 28))
    y, x = (min(max(round(14 - c), 0), 28 - n) for c, n in zip(centre_of_mass(small), small.shape, strict=True))
    fitted[y : y + height, x : x + width] = np.round(small / small.max() * 255)
    return fitted


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (40, 25), (9, 60), (28, 28)])
def test_fit_digit_equals_a_slow_reference(shape: tuple[int, int]) -> None:
    levels = np.zeros((shape[0] + 8, shape[1] + 5), np.float32)
    levels[3:-5, 4:-1] = np.random.default_rng(0).integers(1, 200, shape)
    levels.flags.writeable = False
    assert np.abs(fit_digit(levels) - slow_fit(levels)).max() <= 1


@pytest.mark.slow
def test_fit_digit_hardly_changes_digits_drawn_large() -> None:
    for image in DIGITS:
        large = np.kron(image, np.ones((10, 10))).astype(np.float32)
        fitted = fit_digit(large).astype(float)
        assert np.corrcoef(fitted.ravel(), fit_digit(image.astype(np.float32)).ravel())[0, 1] > 0.97


@pytest.mark.parametrize("level", [0, 128, 255])
def test_read_picture_refuses_an_image_without_a_digit(tmp_path: Path, level: int) -> None:
    for shape in ((28, 28), (100, 50), (1, 1)):
        path = save(np.full(shape, level, np.uint8), tmp_path / "a.png")
        with pytest.raises(DataError, match=r"a\.png: expected a digit on a plain background, got an image without co"):
            read_picture(path)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_read_picture_refuses_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: expected an image that Pillow can read: ") as raised:
        read_picture(tmp_path / "a.png")
    assert "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "b.png")


def test_read_picture_refuses_a_truncated_image(tmp_path: Path) -> None:
    path = save(enlarged(DIGITS[0], 0), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="expected an image that Pillow can read: "):
        read_picture(path)


def test_read_picture_without_pillow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(DIGITS[0], tmp_path / "a.png")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match=r"the package Pillow is missing; run pip install '\.\[images\]'$"):
        read_picture(path)


def test_read_picture_refuses_more_pixels_than_fit_into_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "a.png")  # 12 KB
    with pytest.raises(DataError, match=r"a\.png: .*: it has 9000 x 9000 pixels, more than 67108864$"):
        read_picture(tmp_path / "a.png")

    def fail(*arguments: object, **named: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=r"a\.png: expected an image that fits into the memory$"):
        read_picture(tmp_path / "a.png")


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_read_picture_refuses_pipes_and_folders(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(DataError, match=rf"^{path}: expected a regular file, got a folder or a device$"):
            read_picture(path)


def test_read_picture_calls_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(DIGITS[0], tmp_path / "a.eps")
    monkeypatch.setattr("subprocess.Popen", None)  # Pillow would run Ghostscript
    with pytest.raises(DataError, match=r"a\.eps: expected an image that Pillow can read: cannot identify"):
        read_picture(tmp_path / "a.eps")


@pytest.mark.parametrize("error", [IndexError("no"), TypeError(), AttributeError("a\nb")])
def test_read_picture_names_the_file_for_any_error_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    path = save(DIGITS[0], tmp_path / "a.png")
    monkeypatch.setattr(Image, "alpha_composite", fail)
    with pytest.raises(DataError, match=r"a\.png: expected an image that Pillow can read: [^\n]*$"):
        read_picture(path)
