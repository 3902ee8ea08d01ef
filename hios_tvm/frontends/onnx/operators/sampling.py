"""Where the elements of a resized axis come from: weights of elements of the axis before.

Resizing is separable, and all sizes are static, so each axis has a table of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
NEAREST_MODES = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class AxisResize:
    """How one axis changes.

    Attributes
    ----------
    size, out : int
        Extents before and after.
    scale : float
        As the model gives it; where it gives sizes, their ratio. Not always ``out / size``.
    roi : tuple of float
        First and last place of the part that is resized, from 0 to 1, for ``tf_crop_and_resize``.
    """

    size: int
    out: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Filter:
    """How elements are combined; the names are those of Resize's attributes.

    `nearest` may also be ``simple``: towards the larger image, as before version 11.
    """

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_coeff: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False


@dataclass(frozen=True)
class Taps:
    """The elements that each element of the result consists of.

    Attributes
    ----------
    size : int
        Extent of the axis that they are taken from.
    indices : ndarray of int64, (out, taps)
    weights : ndarray of float64, (out, taps)
    inside : ndarray of bool, (out,)
        False where the source lies outside the image and a fixed value takes its place.
    """

    size: int
    indices: np.ndarray
    weights: np.ndarray
    inside: np.ndarray

    @property
    def count(self) -> int:
        """How many elements each element consists of."""
        return int(self.indices.shape[1])

    @property
    def is_choice(self) -> bool:
        """Whether each element is just one other element."""
        return self.count == 1 and bool((self.weights == 1).all())

    @property
    def is_identity(self) -> bool:
        same = np.arange(self.size)[:, None]
        return bool(self.inside.all()) and np.array_equal(self.indices, same)


def source_taps(axis: AxisResize, how: Filter) -> Taps:
    """Return the elements that each element of a resized axis consists of."""
    places = _source_places(axis, how.coordinates)
    inside = np.ones(axis.out, bool)
    if how.coordinates == "tf_crop_and_resize":
        inside = (places >= 0) & (places <= axis.size - 1)
    if how.mode == "nearest":
        towards_larger = "ceil" if axis.scale < 1 else "floor"
        rounding = _ROUNDINGS[towards_larger if how.nearest == "simple" else how.nearest]
        nearest = rounding(places).astype(np.int64)[:, None]
        indices = np.clip(nearest, 0, axis.size - 1)
        return Taps(axis.size, indices, np.ones(nearest.shape), inside)
    kernel, reach = _kernel(how)
    # A filter that is stretched over what becomes one element
    stretch = max(1.0, 1 / axis.scale) if how.antialias else 1.0
    exact = places.astype(np.float64)
    if how.mode == "linear" and not how.antialias:
        # The same, but the weights of an element at the border need no sum, which may be rounded
        exact = np.clip(exact, 0, axis.size - 1)
    span = int(np.ceil(reach * stretch))
    taps = np.floor(exact).astype(np.int64)[:, None] + np.arange(1 - span, span + 1)
    weights = kernel((taps - exact[:, None]) / stretch)
    if how.exclude_outside:
        weights = np.where((taps >= 0) & (taps < axis.size), weights, 0)
    if how.exclude_outside or how.antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    indices = np.clip(taps, 0, axis.size - 1)
    used = (weights != 0).any(axis=0)
    return Taps(axis.size, indices[:, used], weights[:, used], inside)


def _source_places(axis: AxisResize, coordinates: str) -> np.ndarray:
    """The place on the axis of each element of the result, in single precision as elsewhere.

    With more digits other elements would be the nearest ones.
    """
    one = np.float32
    at, scale = np.arange(axis.out, dtype=one), one(axis.scale)
    size, out, half = one(axis.size), one(axis.out), one(0.5)
    if coordinates == "asymmetric":
        return at / scale
    if coordinates == "tf_half_pixel_for_nn":
        return (at + half) / scale
    if coordinates == "pytorch_half_pixel" and axis.out == 1:
        return np.zeros(1, one)
    if coordinates == "align_corners":
        # The exact size, of which `out` is the whole part
        last = size * scale - 1
        return at * (size - 1) / last if axis.out > 1 else np.zeros_like(at)
    if coordinates == "tf_crop_and_resize":
        start, end = (one(place) for place in axis.roi)
        if axis.out == 1:
            return np.array([half * (start + end) * (size - 1)], one)
        return start * (size - 1) + at * (end - start) * (size - 1) / (out - 1)
    shift = one(0)
    if coordinates == "half_pixel_symmetric":
        shift = size / 2 * (1 - out / (scale * size))
    return shift + (at + half) / scale - half


_ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda places: np.ceil(places - np.float32(0.5)),
    "round_prefer_ceil": lambda places: np.floor(places + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _kernel(how: Filter) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """The weight of an element by its distance, and the distance beyond which it is 0."""
    if how.mode == "linear":
        return lambda distance: np.maximum(1 - np.abs(distance), 0), 1
    a = how.cubic_coeff

    def cubic(distance: np.ndarray) -> np.ndarray:
        x = np.abs(distance)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0))

    return cubic, 2
