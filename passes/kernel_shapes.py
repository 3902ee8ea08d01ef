"""What the legalizations of this package tell the schedule rules about a kernel.

A legalization knows the operator; a rule sees only the loops that came out of it. The shape travels
between them as an annotation of the block that computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CONVOLUTION", "WINDOW", "ConvolutionShape"]

CONVOLUTION = "hios.convolution"
"""Annotation of a block that is a dense convolution or product with packed weights."""

WINDOW = "hios.window"
"""Annotation of a block that is a depthwise convolution or a pooling."""


@dataclass(frozen=True, kw_only=True)
class ConvolutionShape:
    """A convolution of channels-last images, pairs in the order (height, width).

    Weights are packed as ``(blocks, kernel height, kernel width, input channels of a group,
    channels of a block)``, where a block is `vectors` x `lanes` output channels of one group, the
    last of a group padded with zeros. `pixels` is the width of a register tile.
    """

    batch: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]  # before the first row and column
    groups: int
    pixels: int
    vectors: int
    lanes: int

    @property
    def group_inputs(self) -> int:
        """Input channels of a group."""
        return self.in_channels // self.groups

    @property
    def group_outputs(self) -> int:
        """Output channels of a group."""
        return self.out_channels // self.groups

    @property
    def block(self) -> int:
        """Output channels of a block."""
        return self.vectors * self.lanes

    @property
    def group_blocks(self) -> int:
        """Blocks of a group."""
        return -(-self.group_outputs // self.block)

    @property
    def is_pointwise(self) -> bool:
        """Whether each output pixel reads the input pixel at its own place, and no other."""
        ones = (1, 1)
        return (self.kernel, self.strides, self.padding) == (ones, ones, (0, 0)) and (
            self.in_size == self.out_size
        )

    def to_annotation(self) -> dict[str, Any]:
        """Return the shape as TVM can attach it to a block."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @staticmethod
    def from_annotation(annotation: Mapping[str, Any]) -> ConvolutionShape:
        """Read what `to_annotation` made."""
        fields: dict[str, Any] = {
            str(key): int(value) if isinstance(value, int) else tuple(int(v) for v in value)
            for key, value in annotation.items()
        }
        return ConvolutionShape(**fields)
