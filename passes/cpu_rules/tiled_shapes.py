"""Kernels with the register tiles that are chosen for the vectors and registers of a CPU."""

from __future__ import annotations

from dataclasses import dataclass

from hios_tvm.passes.cpu_rules.register_tile import RegisterTile, choose_tile
from hios_tvm.schema.kernel_shapes import ConvolutionShape, ProductShape, WindowShape

_MOST_UNROLLED_INPUTS = 4
"""Kernels of images with up to so many channels, such as RGB, have no loop over them."""


@dataclass(frozen=True, kw_only=True)
class TiledConvolution(ConvolutionShape, RegisterTile):
    """A convolution in tiles of some pixels of a row times a block of output channels.

    Its weights are packed to ``(blocks, kernel height, kernel width, input channels of a group,
    channels of a block)``; the last block of each group is padded with zeros.
    """

    @staticmethod
    def of(
        shape: ConvolutionShape, lanes: int, registers: int, *, parts: int = 1
    ) -> TiledConvolution:
        """Choose the tile for vectors of `lanes` floats and so many vector registers.

        It goes through one of equal `parts` of the reduction at a time.
        """
        width, rows = shape.out_size[1], shape.batch * shape.out_size[0]
        if shape.is_pointwise:
            width, rows = width * rows, 1
        tile = choose_tile(
            width,
            shape.group_outputs,
            shape.kernel[0] * shape.kernel[1] * shape.group_inputs // parts,
            lanes=lanes,
            registers=registers,
            rows=rows * parts,
            unrolled=shape.group_inputs <= _MOST_UNROLLED_INPUTS,
        )
        return TiledConvolution(**vars(shape), **vars(tile))

    @property
    def group_blocks(self) -> int:
        """Blocks of a group."""
        return -(-self.group_outputs // self.block)

    @property
    def has_few_inputs(self) -> bool:
        """Whether the loop over input channels is so short that it should be unrolled."""
        return self.group_inputs <= _MOST_UNROLLED_INPUTS

    @property
    def packed_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of the packed weights."""
        return (self.groups * self.group_blocks, *self.kernel, self.group_inputs, self.block)


@dataclass(frozen=True, kw_only=True)
class TiledGroups(ConvolutionShape, RegisterTile):
    """A grouped convolution in tiles of some pixels of a row times a vector of whole groups.

    Its weights are packed to ``(vectors, kernel height, kernel width, turns, lanes)``, with as many
    turns as a group has channels; the last vector is padded with zeros.
    """

    @staticmethod
    def of(shape: ConvolutionShape, lanes: int, registers: int) -> TiledGroups:
        """Choose the tile for vectors of `lanes` floats and so many vector registers."""
        width = shape.out_size[1]
        tile = RegisterTile(_even_pixels(width, registers), 1, lanes)
        return TiledGroups(**vars(shape), **vars(tile))

    @property
    def packed_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of the packed weights."""
        vectors = -(-self.out_channels // self.lanes)
        return (vectors, *self.kernel, self.group_inputs, self.lanes)


@dataclass(frozen=True, kw_only=True)
class TiledWindow(WindowShape, RegisterTile):
    """A pooling or depthwise convolution in tiles of some pixels of a row times a few vectors.

    What `sharing` neighbouring pixels of a row read fits into registers.
    """

    sharing: int

    @staticmethod
    def of(shape: WindowShape, lanes: int, registers: int) -> TiledWindow:
        """Choose the tile for vectors of `lanes` floats and so many vector registers."""
        width = shape.out_size[1]
        # More than these sums, and the inputs that neighbours share no longer fit into registers
        vectors = 1 if width > 1 else min(-(-shape.channels // lanes), registers // 4)
        pixels = _even_pixels(width, registers)
        span = 1 + (shape.kernel[1] - 1) * shape.dilation[1]  # of a window, in a row
        sharing = 1 + max(0, (registers - 1 - pixels - span) // shape.strides[1])
        tile = RegisterTile(pixels, vectors, lanes)
        return TiledWindow(**vars(shape), **vars(tile), sharing=sharing)


@dataclass(frozen=True, kw_only=True)
class TiledProduct(ProductShape, RegisterTile):
    """Matrix products in tiles of some rows (`pixels`) times a block of columns."""

    @staticmethod
    def of(shape: ProductShape, lanes: int, registers: int) -> TiledProduct:
        """Choose the tile for vectors of `lanes` floats and so many vector registers."""
        sizes = (shape.rows, shape.columns, shape.inner)
        tile = choose_tile(*sizes, lanes=lanes, registers=registers)
        return TiledProduct(**vars(shape), **vars(tile))


def _even_pixels(width: int, registers: int) -> int:
    """Return the pixels of about equal tiles of a row whose sums take up to 7 of 16 registers."""
    tiles = -(-width // (registers * 7 // 16))
    return -(-width // tiles)
