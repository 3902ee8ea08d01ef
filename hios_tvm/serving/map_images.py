"""Pictures as rows of an input: the PNG and JPEG files of a folder, or encoded in Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from hios_tvm.errors import InputError, UsageError
from hios_tvm.runtime.arguments import Array
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.manifest import TensorSpec

SUFFIXES = (".jpeg", ".jpg", ".png")
_MODES = {1: "L", 3: "RGB"}  # of Pillow, by channels


@dataclass(frozen=True)
class ImageOptions:
    """How pictures become floats: values from 0 to 1, less `mean`, over `std`.

    Each has one number, or one for each channel. Inputs of integers get values from 0 to 255.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def parse(cls, mean: str, std: str) -> ImageOptions:
        """Read numbers with commas between them.

        >>> ImageOptions.parse("0.5", "0.2,0.2,0.3").std
        (0.2, 0.2, 0.3)
        """
        return cls(_numbers("--mean", mean), _numbers("--std", std, least=1e-6))


PLAIN = ImageOptions()
"""Values from 0 to 1."""


def _numbers(option: str, text: str, least: float = 0.0) -> tuple[float, ...]:
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if len(found) not in _MODES or not all(least <= number <= 255 for number in found):
        raise UsageError(f"{option} has to be one number or three, such as 0.5,0.5,0.5")
    return found


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def takes_pictures(spec: TensorSpec) -> bool:
    """Whether an input can be pictures: rows of 1 or 3 channels, first or last."""
    is_number = spec.dtype in ("uint8", "float16", "float32")
    return is_number and len(spec.shape) == 4 and bool({spec.shape[1], spec.shape[3]} & {1, 3})


def read_pictures(paths: Sequence[Path], spec: TensorSpec, options: ImageOptions) -> Array:
    """Return the pictures of these files as rows of `spec`.

    Raises
    ------
    UsageError
        If a file cannot be read.
    InputError
        If one is no picture.
    """
    rows = np.empty((len(paths), *spec.shape[1:]), numpy_dtype(spec.dtype))
    for row, path in zip(rows, paths, strict=True):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
        row[...] = decode_picture(content, spec, options, str(path))
    return rows


def decode_picture(content: bytes, spec: TensorSpec, options: ImageOptions, place: str) -> Array:
    """Return a PNG or JPEG as a row of `spec`, resized to its height and width (bilinear).

    Raises
    ------
    InputError
        If it is none, or has far too many pixels; the message names `place`.
    """
    from PIL import Image  # only pictures need it

    is_first = spec.shape[1] in _MODES
    channels, height, width = (spec.shape[i] for i in ((1, 2, 3) if is_first else (3, 1, 2)))
    try:
        with Image.open(BytesIO(content), formats=("PNG", "JPEG")) as image:
            picture: Any = image.convert(_MODES[channels])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{place}: no PNG or JPEG that can be read: {error}") from error
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    row: Array = np.asarray(picture).reshape(height, width, channels)
    if spec.dtype != "uint8":
        mean, std = (np.array(numbers, np.float32) for numbers in (options.mean, options.std))
        row = (row.astype(np.float32) / 255 - mean) / std
    return (row.transpose(2, 0, 1) if is_first else row).astype(numpy_dtype(spec.dtype))
