"""What the legalizations of this package tell the schedule rules about a kernel.

A legalization knows the operator; a rule sees only the loops that came out of it. The shape travels
between them as an annotation of the block that computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from hios_tvm.passes.winograd_matrices import TILE

__all__ = [
    "CONVOLUTION",
    "MOST_UNROLLED_INPUTS",
    "OUT_ELEMENTWISE_FUSABLE",
    "PRODUCT",
    "WINDOW",
    "WINOGRAD",
    "ConvolutionShape",
    "ProductShape",
    "Window",
    "WindowShape",
    "WinogradShape",
]

CONVOLUTION = "hios.convolution"
"""Annotation of a block that is a dense convolution or product with packed weights."""

WINDOW = "hios.window"
"""Annotation of a block that is a depthwise convolution or a pooling."""

WINOGRAD = "hios.winograd"
"""Annotation of the last block of a convolution by Winograd's method."""

PRODUCT = "hios.product"
"""Annotation of a block that is a product of matrices which are computed."""

OUT_ELEMENTWISE_FUSABLE = 4
"""TVM's fusion pattern of kernels that take an epilogue, but no producers."""

MOST_UNROLLED_INPUTS = 4
"""Kernels of images with up to so many channels, such as RGB, have no loop over them."""

ShapeT = TypeVar("ShapeT", bound="_Annotation")


@dataclass(frozen=True, kw_only=True)
class _Annotation:
    """Integers, words, and tuples of integers, which TVM can attach to a block."""

    def to_annotation(self) -> dict[str, Any]:
        """Return the shape as TVM can attach it to a block."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_annotation(cls: type[ShapeT], annotation: Mapping[str, Any]) -> ShapeT:
        """Read what `to_annotation` made."""
        fields: dict[str, Any] = {}
        for key, value in annotation.items():
            if isinstance(value, int):
                fields[str(key)] = int(value)
            elif isinstance(value, str):
                fields[str(key)] = str(value)
            else:
                fields[str(key)] = tuple(int(item) for item in value)
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Window(_Annotation):
    """A window that slides over channels-last images; pairs are (height, width).

    Attributes
    ----------
    batch : int
        Images.
    in_size, out_size : (int, int)
        Pixels of an image, before and after.
    kernel, strides, dilation : (int, int)
        Size of the window, its steps, and the distance of its elements.
    padding : (int, int)
        Missing rows above and columns left of an image; those below and right follow.
    pixels, vectors, lanes : int
        The register tile: pixels of a row times vectors of `lanes` channels.
    """

    batch: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    pixels: int
    vectors: int
    lanes: int

    @property
    def block(self) -> int:
        """Channels of a register tile."""
        return self.vectors * self.lanes

    @property
    def padding_after(self) -> tuple[int, int]:
        """Missing rows below and columns right of an image."""
        last = [
            (out - 1) * stride - before + (kernel - 1) * dilation
            for out, stride, before, kernel, dilation in zip(
                self.out_size, self.strides, self.padding, self.kernel, self.dilation, strict=True
            )
        ]
        return max(0, last[0] - self.in_size[0] + 1), max(0, last[1] - self.in_size[1] + 1)


@dataclass(frozen=True, kw_only=True)
class ConvolutionShape(Window):
    """A convolution whose weights are packed for register tiles.

    Weights are ``(blocks, kernel height, kernel width, input channels of a group, channels of a
    block)``, where a block is `vectors` x `lanes` output channels of one group, the last of a group
    padded with zeros.
    """

    in_channels: int
    out_channels: int
    groups: int

    @property
    def work(self) -> int:
        """Multiply-adds or comparisons of the whole kernel."""
        outputs = self.batch * math.prod(self.out_size) * self.out_channels
        return outputs * math.prod(self.kernel) * self.group_inputs

    @property
    def group_inputs(self) -> int:
        """Input channels of a group."""
        return self.in_channels // self.groups

    @property
    def group_outputs(self) -> int:
        """Output channels of a group."""
        return self.out_channels // self.groups

    @property
    def group_blocks(self) -> int:
        """Blocks of a group."""
        return -(-self.group_outputs // self.block)

    @property
    def has_few_inputs(self) -> bool:
        """Whether the loop over input channels is so short that it should be unrolled."""
        return self.group_inputs <= MOST_UNROLLED_INPUTS

    @property
    def is_pointwise(self) -> bool:
        """Whether each output pixel reads the input pixel at its own place, and no other."""
        ones = (1, 1)
        return (self.kernel, self.strides, self.padding) == (ones, ones, (0, 0)) and (
            self.in_size == self.out_size
        )


@dataclass(frozen=True, kw_only=True)
class WindowShape(Window):
    """A depthwise convolution or a pooling: each channel is reduced by itself.

    `operation` is ``"sum"``, ``"max"``, or ``"product"``: the sum of products with weights
    ``(kernel height, kernel width, channels)``. What `sharing` neighbouring pixels of a row need
    fits into registers.
    """

    channels: int
    operation: str
    sharing: int

    @property
    def work(self) -> int:
        """Multiply-adds or comparisons of the whole kernel."""
        outputs = self.batch * math.prod(self.out_size) * self.channels
        return outputs * math.prod(self.kernel)


@dataclass(frozen=True, kw_only=True)
class WinogradShape(Window):
    """A 3x3 convolution of step 1 by Winograd's tiles.

    Transformed weights are ``(blocks, points, input channels, channels of a block)``. The register
    tile has `pixels` tiles of the image.
    """

    in_channels: int
    out_channels: int

    @property
    def points(self) -> int:
        """Products of a tile, for each pair of channels."""
        return (TILE + 2) ** 2

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles of an image: (rows, columns)."""
        return -(-self.out_size[0] // TILE), -(-self.out_size[1] // TILE)

    @property
    def blocks(self) -> int:
        """Blocks of output channels."""
        return -(-self.out_channels // self.block)

    @property
    def work(self) -> int:
        """Multiply-adds of the products."""
        tiles = self.batch * math.prod(self.tiles)
        return tiles * self.points * self.in_channels * self.out_channels


@dataclass(frozen=True, kw_only=True)
class ProductShape(_Annotation):
    """Products of ``(rows, inner)`` and ``(inner, columns)`` matrices, one for each of `batch`.

    The register tile is `pixels` rows times `vectors` of `lanes` columns.
    """

    batch: tuple[int, ...]
    rows: int
    inner: int
    columns: int
    pixels: int
    vectors: int
    lanes: int

    @property
    def block(self) -> int:
        """Columns of a register tile."""
        return self.vectors * self.lanes

    @property
    def work(self) -> int:
        """Multiply-adds of the whole kernel."""
        return math.prod(self.batch) * self.rows * self.inner * self.columns
