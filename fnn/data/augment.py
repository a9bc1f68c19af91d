"""Augmentation: images changed as other hands might have changed them, as a pure function of a key.

An augmentation takes `(images, rng)` and returns as many images, each of which got a draw of its own. Images are what
`as_float` gives: float32 (N, C, H, W) in [-1, 1], around which all is background. As floats they are rounded once, at
the end, however many augmentations follow each other; with the batch innermost in memory, one NumPy call does the same
work for all images at full speed.
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
"""What `as_float` makes of grey level 0: what lies outside of an image, and what is left where it is erased."""


def compose(*augmentations: Augmentation) -> Augmentation:
    """The augmentations one after the other, each with a key of its own: the given one with its place folded in."""

    def composed(images: Images, rng: Rng) -> Images:
        key = as_key(rng)
        for place, augmentation in enumerate(augmentations):
            images = augmentation(images, key.fold(place))
        return images

    return composed


def shift(pixels: int) -> Augmentation:
    """Moves each image by whole pixels, up to `pixels` of them to either side and as many up or down.

    Images must be at least `pixels` wide and high.
    """
    pixels = check_int("pixels", pixels)

    def shifted(images: Images, rng: Rng) -> Images:
        framed = _framed(_at_least(pixels, images), pixels, pixels)
        right, down = as_key(rng).generator().integers(0, 2 * pixels + 1, (2, len(images)))
        columns, rows = _grid(images, np.intp)
        return from_wchn(framed.reshape(-1)[_places(framed, columns + right, rows + down)])

    return shifted


def affine(degrees: float = 0, scale: float = 0, shear: float = 0) -> Augmentation:
    """Stretches, slants and turns each image about its middle; between pixels it is read bilinearly.

    Width and height are each multiplied by 1 - scale up to 1 + scale; a pixel further down comes up to `shear` pixels
    further right or left; the image is turned by up to `degrees` either way.
    """
    degrees = check_real("degrees", degrees, at_least=0, at_most=180)
    scale = check_real("scale", scale, at_least=0, at_most=0.9)
    shear = check_real("shear", shear, at_least=0, at_most=1)

    def transformed(images: Images, rng: Rng) -> Images:
        turn, slant, wider, higher = _spread(rng, 4, len(_checked(images)))
        return transform(images, turn * radians(degrees), slant * shear, 1 + wider * scale, 1 + higher * scale)

    return transformed


def elastic(strength: float, smoothness: float) -> Augmentation:
    """Moves each pixel by random amounts that vary smoothly over the image; between pixels it is read bilinearly.

    `strength` is the standard deviation of the moves across and of those down, in pixels. Each is noise under a
    Gaussian whose standard deviation is `smoothness`, in pixels. Simard, Steinkraus and Platt, "Best practices for
    convolutional neural networks applied to visual document analysis", 2003, whose sigma is `smoothness`; their alpha
    of 34 with a sigma of 4 is a strength of 1.4.
    """
    strength = check_real("strength", strength, at_least=0, at_most=1000)
    smoothness = check_real("smoothness", smoothness, at_least=0.1, at_most=1000)

    def distorted(images: Images, rng: Rng) -> Images:
        n, _, height, width = _checked(images).shape
        noise = _spread(rng, 2, width, height * n)
        smooth = (_smoothing(width, smoothness) @ noise).reshape(2, width, 1, height, n)
        scale = np.float32(strength * sqrt(3))  # the variance of uniform draws from -1 to 1 is a third
        right, down = (scale * _smoothing(height, smoothness)) @ smooth
        columns, rows = _grid(images, np.float32)
        return resample(images, columns + right, rows + down)

    return distorted


def erase(size: int) -> Augmentation:
    """Leaves background in one rectangle of each image, of 0 to `size` pixels a side and anywhere in the image.

    After Zhong et al., "Random erasing data augmentation", 2017, which fills it with noise. Images must be at least
    `size` pixels wide and high.
    """
    size = check_int("size", size)

    def erased(images: Images, rng: Rng) -> Images:
        n, _, height, width = _at_least(size, images).shape
        generator = as_key(rng).generator()
        wide, high = generator.integers(0, size + 1, (2, n))
        left, top = generator.integers(0, width + 1 - wide), generator.integers(0, height + 1 - high)
        columns, rows = _grid(images, np.intp)
        gone = (left <= columns) & (columns < left + wide) & ((top <= rows) & (rows < top + high))
        return from_wchn(np.where(gone, BACKGROUND, to_wchn(images)))

    return erased


def transform(images: Images, turn: Images, slant: Images, wider: Images, higher: Images) -> Images:
    """The images stretched, slanted, then turned counter-clockwise by `turn` radians: for each image, one of each."""
    columns, rows = _grid(images, np.float32)
    middle_column, middle_row = np.float32((images.shape[3] - 1) / 2), np.float32((images.shape[2] - 1) / 2)
    x, y = columns - middle_column, rows - middle_row
    sine, cosine = np.sin(turn), np.cos(turn)
    # Each pixel looks up where it came from: turned back, slanted back, shrunk.
    across = x * ((cosine - slant * sine) / wider) + (middle_column - y * ((sine + slant * cosine) / wider))
    down = x * (sine / higher) + (middle_row + y * (cosine / higher))
    return resample(images, across, down)


def resample(images: Images, columns: Array, rows: Array) -> Images:
    """The images as they are at these columns and rows, (W, 1, H, N), mixed bilinearly of the four pixels around."""
    framed = _framed(images, 1, 2)
    height, width = images.shape[2:]
    x, y = np.clip(columns, -1, width) + 1, np.clip(rows, -1, height) + 1  # further out there is no more to be seen
    left, top = np.floor(x), np.floor(y)
    across, down = x - left, y - top
    places = _places(framed, left.astype(np.intp), top.astype(np.intp))
    pixels, right, below = framed.reshape(-1), framed[0].size, len(images)
    upper = _mixed(pixels[places], pixels[right:][places], across)
    lower = _mixed(pixels[below:][places], pixels[right + below :][places], across)
    return from_wchn(_mixed(upper, lower, down))


def _mixed(this: Images, that: Images, share: Images) -> Images:
    """`this`, with its share of `that` in its place; written over `that`."""
    that -= this
    that *= share
    that += this
    return that


def _framed(images: Images, before: int, after: int) -> Images:
    """The images in (W, C, H, N) memory, with so many pixels of background around them."""
    memory = to_wchn(_checked(images))
    width, channels, height, n = memory.shape
    framed = np.full((before + width + after, channels, before + height + after, n), BACKGROUND)
    framed[before : before + width, :, before : before + height] = memory
    return framed


def _places(framed: Images, columns: Array, rows: Array) -> NDArray[np.intp]:
    """Where the pixels at these columns and rows, (W, 1, H, N) or one less, are in the flat memory of `framed`."""
    _, channels, height, n = framed.shape
    starts = np.arange(channels).reshape(-1, 1, 1) * (height * n) + np.arange(n)
    places: NDArray[np.intp] = columns * framed[0].size + (rows * n + starts)
    return places


def _grid(images: Images, dtype: DTypeLike) -> tuple[Array, Array]:
    """The numbers of the columns and of the rows, along their axes of (W, C, H, N)."""
    height, width = _checked(images).shape[2:]
    return np.arange(width, dtype=dtype).reshape(-1, 1, 1, 1), np.arange(height, dtype=dtype).reshape(-1, 1)


def _smoothing(size: int, smoothness: float) -> Images:
    """The matrix that puts a Gaussian over `size` numbers, and leaves the variance of white noise as it is."""
    places = np.arange(size) / smoothness
    gaussians: Array = np.exp(-((places[:, np.newaxis] - places) ** 2) / 2)
    gaussians /= np.linalg.norm(gaussians, axis=1, keepdims=True)
    return gaussians.astype(np.float32)


def _spread(rng: Rng, *shape: int) -> Images:
    """Uniform draws from -1 up to 1."""
    return as_key(rng).generator().random(shape, np.float32) * 2 - 1


def _checked(images: Images) -> Images:
    """The images as a plain ndarray. Raises ValueError unless they are float32 (N, C, H, W)."""
    fault = array_fault("images", images)
    if fault or images.ndim != 4 or images.dtype != np.float32:
        wanted = "expected float32 (N, C, H, W) as as_float gives them"
        raise ValueError(f"images: {fault or f'{wanted}, got {describe(images)}'}")
    return np.asarray(images)


def _at_least(pixels: int, images: Images) -> Images:
    """The images themselves, if they are at least so many pixels wide and high."""
    height, width = _checked(images).shape[2:]
    if pixels > min(height, width):
        raise ValueError(f"images are {height} x {width}, wanted at least {pixels} x {pixels}")
    return images
