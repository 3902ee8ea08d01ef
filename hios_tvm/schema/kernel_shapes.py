"""What the loops of a kernel mean: a convolution of which window, a matrix product, a pooling.

A legalization knows the operator; a schedule rule sees only the loops that came out of it. The
shape travels between them as an annotation of the block that computes. It says nothing of tiles or
packed weights, which each backend chooses.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

CONVOLUTION = "hios.convolution"
"""Annotation of a block that is a convolution, or a product with a constant matrix."""

INTEGER_CONVOLUTION = "hios.integer_convolution"
"""Annotation of the same of ``uint8`` with ``int8`` weights; its sums are ``int32``."""

WINDOW = "hios.window"
"""Annotation of a block that is a depthwise convolution or a pooling."""

PRODUCT = "hios.product"
"""Annotation of a block that is a product of matrices which are computed."""

OUT_ELEMENTWISE_FUSABLE = 4
"""TVM's fusion pattern of kernels that take an epilogue, but no producers."""

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
    """

    batch: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]

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
    """A convolution with constant weights, or a product with a constant matrix.

    Weights are ``(kernel height, kernel width, input channels of a group, output channels)``. A
    product is a pointwise convolution of an image of one row, whose weights are ``(input channels,
    output channels)``.
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
    ``(kernel height, kernel width, channels)``.
    """

    channels: int
    operation: str

    @property
    def work(self) -> int:
        """Multiply-adds or comparisons of the whole kernel."""
        outputs = self.batch * math.prod(self.out_size) * self.channels
        return outputs * math.prod(self.kernel)


@dataclass(frozen=True, kw_only=True)
class ProductShape(_Annotation):
    """Products of ``(rows, inner)`` and ``(inner, columns)`` matrices, one for each of `batch`."""

    batch: tuple[int, ...]
    rows: int
    inner: int
    columns: int

    @property
    def work(self) -> int:
        """Multiply-adds of the whole kernel."""
        return math.prod(self.batch) * self.rows * self.inner * self.columns
