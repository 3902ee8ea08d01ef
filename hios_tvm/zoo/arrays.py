"""Convolution and pooling in NumPy, on which the zoo calibrates its batch norms.

Every function takes images as ``[batch, channels, height, width]`` and `pads` as
``((top, bottom), (left, right))``. All walk over the positions of the kernel, not of the image:
a 3x3 convolution is nine matrix products, which NumPy does at the speed of its BLAS.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Pads = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    images: Array, weight: npt.NDArray[np.floating], stride: int, pads: Pads, groups: int
) -> Array:
    """Dense (`groups` is 1) or depthwise (`groups` is the number of channels) convolution."""
    kernel = (weight.shape[2], weight.shape[3])
    total: Array | float = 0.0
    for (row, column), patch in _patches(images, kernel, stride, pads, fill=0.0):
        tap = weight[:, :, row, column].astype(np.float64)
        if groups == 1:
            flat = patch.reshape(*patch.shape[:2], -1)
            total = total + (tap @ flat).reshape(len(patch), len(tap), *patch.shape[2:])
        else:
            total = total + tap[:, :, np.newaxis] * patch
    return np.asarray(total)


def max_pool(images: Array, kernel: tuple[int, int], stride: int, pads: Pads) -> Array:
    """Largest value under the kernel."""
    patches = (patch for _, patch in _patches(images, kernel, stride, pads, fill=-np.inf))
    largest = next(patches)
    for patch in patches:
        largest = np.maximum(largest, patch)
    return largest


def average_pool(
    images: Array, kernel: tuple[int, int], stride: int, pads: Pads, include_padding: bool
) -> Array:
    """Mean under the kernel; `include_padding` counts the zeros of the border as values."""
    total = sum(patch for _, patch in _patches(images, kernel, stride, pads, fill=0.0))
    inside = np.ones((1, 1, *images.shape[2:]))
    fill = float(include_padding)
    count = sum(patch for _, patch in _patches(inside, kernel, stride, pads, fill=fill))
    return np.asarray(total / count)


def _patches(
    images: Array, kernel: tuple[int, int], stride: int, pads: Pads, *, fill: float
) -> Iterator[tuple[tuple[int, int], Array]]:
    """For each position of the kernel, the pixels under it: ``[n, c, out_h, out_w]``."""
    padded = np.pad(images, ((0, 0), (0, 0), *pads), constant_values=fill)
    height, width = (size - k for size, k in zip(padded.shape[2:], kernel, strict=True))
    for row, column in np.ndindex(*kernel):
        patch = padded[:, :, row : row + height + 1 : stride, column : column + width + 1 : stride]
        yield (row, column), patch
