"""Augmentation: pure functions `(images, rng) -> images` that change each image at random.

Images are float32 (N, C, H, W) from -1 (background) to 1, as `as_float` returns them. The batch is innermost in memory,
so that one NumPy call changes all images at full speed.
"""

from collections.abc import Callable
from math import radians, sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fnn.checks.arrays import array_fault
from fnn.checks.errors import describe
from fnn.checks.values import check_int, check_real
from fnn.kernels.memory import from_wchn, to_wchn
from fnn.op import Array
from fnn.random import Rng, as_key

Images: TypeAlias = NDArray[np.float32]
Augmentation: TypeAlias = Callable[[Images, Rng], Images]

BACKGROUND = np.float32(-1)


def compose(*augmentations: Augmentation) -> Augmentation:
    """Applies the augmentations in order; each gets its own key: `rng` with its index folded in."""

    def composed(images: Images, rng: Rng) -> Images:
        key = as_key(rng)
        for i, augmentation in enumerate(augmentations):
            images = augmentation(images, key.fold(i))
        return images

    return composed


def shift(pixels: int) -> Augmentation:
    """Moves each image, of at least that size, by at most `pixels` whole pixels horizontally and vertically."""
    pixels = check_int("pixels", pixels)

    def shifted(images: Images, rng: Rng) -> Images:
        if not pixels:
            return _check_images(images)
        padded = _pad(_check_images(images, pixels), pixels, pixels)
        right, down = as_key(rng).generator().integers(0, 2 * pixels + 1, (2, len(images)))
        columns, rows = _grid(images, np.intp)
        return from_wchn(padded.reshape(-1)[_flat_indices(padded, columns + right, rows + down)])

    return shifted


def affine(degrees: float = 0, scale: float = 0, shear: float = 0) -> Augmentation:
    """Scales, shears and rotates each image around its centre, with bilinear interpolation.

    Width and height are multiplied by independent factors from 1 - scale to 1 + scale. Each row moves horizontally by
    at most `shear` pixels relative to the row above it. The rotation is at most `degrees` in either direction.
    """
    degrees = check_real("degrees", degrees, at_least=0, at_most=180)
    scale = check_real("scale", scale, at_least=0, at_most=0.9)
    shear = check_real("shear", shear, at_least=0, at_most=1)

    def transformed(images: Images, rng: Rng) -> Images:
        if not (degrees or scale or shear):
            return _check_images(images)
        angle, slant, width, height = _uniform(rng, 4, len(_check_images(images)))
        return transform(images, angle * radians(degrees), slant * shear, 1 + width * scale, 1 + height * scale)

    return transformed


def elastic(strength: float, smoothness: float) -> Augmentation:
    """Moves each pixel by random offsets that vary smoothly over the image, with bilinear interpolation.

    The arguments are standard deviations in pixels: `strength` of the offsets, `smoothness` of the Gaussian filter that
    smooths them. Simard, Steinkraus and Platt, "Best practices for convolutional neural networks applied to visual
    document analysis", 2003: their sigma of 4 and alpha of 34 are a smoothness of 4 and a strength of 1.4.
    """
    strength = check_real("strength", strength, at_least=0, at_most=1000)
    smoothness = check_real("smoothness", smoothness, at_least=0.1, at_most=1000)

    def distorted(images: Images, rng: Rng) -> Images:
        n, _, height, width = _check_images(images).shape
        noise = _uniform(rng, 2, width, height * n)
        smooth = (_gaussian_filter(width, smoothness) @ noise).reshape(2, width, 1, height, n)
        scale = np.float32(strength * sqrt(3))  # uniform numbers from -1 to 1 have a variance of 1/3
        right, down = (scale * _gaussian_filter(height, smoothness)) @ smooth
        columns, rows = _grid(images, np.float32)
        return resample(images, columns + right, rows + down)

    return distorted


def erase(size: int) -> Augmentation:
    """Sets one rectangle in each image to the background. Its width and height are random, from 0 to `size` pixels.

    Images must have at least that size. Zhong et al., "Random erasing data augmentation", 2017, fill it with noise.
    """
    size = check_int("size", size)

    def erased(images: Images, rng: Rng) -> Images:
        n, _, height, width = _check_images(images, size).shape
        generator = as_key(rng).generator()
        wide, high = generator.integers(0, size + 1, (2, n))
        left, top = generator.integers(0, width + 1 - wide), generator.integers(0, height + 1 - high)
        columns, rows = _grid(images, np.intp)
        inside = (left <= columns) & (columns < left + wide) & ((top <= rows) & (rows < top + high))
        return from_wchn(np.where(inside, BACKGROUND, to_wchn(images)))

    return erased


def transform(images: Images, angle: Images, slant: Images, width: Images, height: Images) -> Images:
    """Scales each image, shears it, then rotates it counter-clockwise by `angle` radians; all arguments are (N,)."""
    columns, rows = _grid(images, np.float32)
    center_x, center_y = np.float32((images.shape[3] - 1) / 2), np.float32((images.shape[2] - 1) / 2)
    x, y = columns - center_x, rows - center_y
    sin, cos = np.sin(angle), np.cos(angle)
    # The inverse transform gives the source of each pixel.
    source_x = x * ((cos - slant * sin) / width) + (center_x - y * ((sin + slant * cos) / width))
    source_y = x * (sin / height) + (center_y + y * (cos / height))
    return resample(images, source_x, source_y)


def resample(images: Images, columns: Array, rows: Array) -> Images:
    """Returns the images at these (fractional) columns and rows, (W, 1, H, N), with bilinear interpolation."""
    padded = _pad(images, 1, 2)
    height, width = images.shape[2:]
    x, y = np.clip(columns, -1, width) + 1, np.clip(rows, -1, height) + 1  # beyond that, all is background
    left, top = np.floor(x), np.floor(y)
    indices = _flat_indices(padded, left.astype(np.intp), top.astype(np.intp))
    pixels, right, below = padded.reshape(-1), padded[0].size, len(images)
    upper = _lerp(pixels[indices], pixels[right:][indices], x - left)
    lower = _lerp(pixels[below:][indices], pixels[right + below :][indices], x - left)
    return from_wchn(_lerp(upper, lower, y - top))


def _lerp(a: Images, b: Images, weight: Images) -> Images:
    """Returns a + weight * (b - a), computed in the memory of `b`."""
    b -= a
    b *= weight
    b += a
    return b


def _pad(images: Images, before: int, after: int) -> Images:
    """Returns the images as (W, C, H, N) with that many pixels of background before and after each row and column."""
    memory = to_wchn(images)
    width, channels, height, n = memory.shape
    padded = np.full((before + width + after, channels, before + height + after, n), BACKGROUND)
    padded[before : before + width, :, before : before + height] = memory
    return padded


def _flat_indices(padded: Images, columns: Array, rows: Array) -> NDArray[np.intp]:
    """Returns the indices into `padded.reshape(-1)` of the pixels at these columns and rows, (W, 1, H, N)."""
    _, channels, height, n = padded.shape
    starts = np.arange(channels).reshape(-1, 1, 1) * (height * n) + np.arange(n)
    indices: NDArray[np.intp] = columns * padded[0].size + (rows * n + starts)
    return indices


def _grid(images: Images, dtype: DTypeLike) -> tuple[Array, Array]:
    """Returns the column and row numbers, which broadcast to (W, C, H, N)."""
    height, width = images.shape[2:]
    return np.arange(width, dtype=dtype).reshape(-1, 1, 1, 1), np.arange(height, dtype=dtype).reshape(-1, 1)


def _gaussian_filter(size: int, smoothness: float) -> Images:
    """Returns the matrix that smooths `size` numbers and keeps the variance of white noise."""
    positions = np.arange(size) / smoothness
    weights: Array = np.exp(-((positions[:, np.newaxis] - positions) ** 2) / 2)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return weights.astype(np.float32)


def _uniform(rng: Rng, *shape: int) -> Images:
    return as_key(rng).generator().random(shape, np.float32) * 2 - 1


def _check_images(images: Images, minimum: int = 0) -> Images:
    """Returns the images as a plain ndarray. Raises ValueError for anything but float32 (N, C, H, W)."""
    if array_fault("images", images) or images.ndim != 4 or images.dtype != np.float32:
        raise ValueError(f"images: expected float32 (N, C, H, W) as returned by as_float, got {describe(images)}")
    if minimum > min(images.shape[2:]):
        size = f"{images.shape[2]} x {images.shape[3]}"
        raise ValueError(f"images: expected at least {minimum} x {minimum} pixels, got {size}")
    return np.asarray(images)
