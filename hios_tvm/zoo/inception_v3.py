"""Inception-v3 without its auxiliary classifier.

Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016;
layer by layer as in torchvision.
"""

from hios_tvm.zoo.builder import GraphBuilder, Padding, Tensor

BLOCKS_17 = (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192))  # channels inside


def inception_v3(g: GraphBuilder, x: Tensor) -> Tensor:
    """Append the network to `g`: logits ``[batch, 1000]`` of images ``[batch, 3, h, w]``."""
    with g.scope("stem"):
        x = _conv(g, x, 32, 3, stride=2)
        x = _conv(g, x, 32, 3)
        x = _conv(g, x, 64, 3, padding=1)
        x = g.max_pool(x, 3, stride=2)
        x = _conv(g, x, 80, 1)
        x = _conv(g, x, 192, 3)
        x = g.max_pool(x, 3, stride=2)
    for name, pool_channels in (("5b", 32), ("5c", 64), ("5d", 64)):
        with g.scope(f"mixed_{name}"):
            x = _block_35(g, x, pool_channels)
    with g.scope("mixed_6a"):
        x = _reduction_17(g, x)
    for name, channels in BLOCKS_17:
        with g.scope(f"mixed_{name}"):
            x = _block_17(g, x, channels)
    with g.scope("mixed_7a"):
        x = _reduction_8(g, x)
    for name in ("7b", "7c"):
        with g.scope(f"mixed_{name}"):
            x = _block_8(g, x)
    with g.scope("head"):
        return g.dense(g.flatten(g.global_average_pool(x)), 1000)


def _conv(
    g: GraphBuilder,
    x: Tensor,
    channels: int,
    kernel: int | tuple[int, int],
    *,
    stride: int = 1,
    padding: Padding = 0,
) -> Tensor:
    x = g.conv(x, channels, kernel, stride=stride, padding=padding)
    return g.relu(g.batch_norm(x, epsilon=1e-3))


def _row(g: GraphBuilder, x: Tensor, channels: int, length: int) -> Tensor:
    """Convolution by a kernel of one row."""
    return _conv(g, x, channels, (1, length), padding=(0, length // 2))


def _column(g: GraphBuilder, x: Tensor, channels: int, length: int) -> Tensor:
    """Convolution by a kernel of one column."""
    return _conv(g, x, channels, (length, 1), padding=(length // 2, 0))


def _pooled(g: GraphBuilder, x: Tensor, channels: int) -> Tensor:
    pooled = g.average_pool(x, 3, padding=1, include_padding=True)
    return _conv(g, pooled, channels, 1)


def _block_35(g: GraphBuilder, x: Tensor, pool_channels: int) -> Tensor:
    """The 35x35 module: figure 5 of the paper."""
    small = _conv(g, x, 64, 1)
    wide = _conv(g, _conv(g, x, 48, 1), 64, 5, padding=2)
    deep = _conv(g, _conv(g, x, 64, 1), 96, 3, padding=1)
    deep = _conv(g, deep, 96, 3, padding=1)
    return g.concat([small, wide, deep, _pooled(g, x, pool_channels)])


def _reduction_17(g: GraphBuilder, x: Tensor) -> Tensor:
    wide = _conv(g, x, 384, 3, stride=2)
    deep = _conv(g, _conv(g, x, 64, 1), 96, 3, padding=1)
    deep = _conv(g, deep, 96, 3, stride=2)
    return g.concat([wide, deep, g.max_pool(x, 3, stride=2)])


def _block_17(g: GraphBuilder, x: Tensor, channels: int) -> Tensor:
    """The 17x17 module with factorised 7x7 convolutions: figure 6."""
    small = _conv(g, x, 192, 1)
    wide = _row(g, _conv(g, x, channels, 1), channels, 7)
    wide = _column(g, wide, 192, 7)
    deep = _column(g, _conv(g, x, channels, 1), channels, 7)
    deep = _column(g, _row(g, deep, channels, 7), channels, 7)
    deep = _row(g, deep, 192, 7)
    return g.concat([small, wide, deep, _pooled(g, x, 192)])


def _reduction_8(g: GraphBuilder, x: Tensor) -> Tensor:
    wide = _conv(g, _conv(g, x, 192, 1), 320, 3, stride=2)
    deep = _row(g, _conv(g, x, 192, 1), 192, 7)
    deep = _conv(g, _column(g, deep, 192, 7), 192, 3, stride=2)
    return g.concat([wide, deep, g.max_pool(x, 3, stride=2)])


def _block_8(g: GraphBuilder, x: Tensor) -> Tensor:
    """The 8x8 module, whose branches fork once more: figure 7."""
    small = _conv(g, x, 320, 1)
    wide = _conv(g, x, 384, 1)
    wide = g.concat([_row(g, wide, 384, 3), _column(g, wide, 384, 3)])
    deep = _conv(g, _conv(g, x, 448, 1), 384, 3, padding=1)
    deep = g.concat([_row(g, deep, 384, 3), _column(g, deep, 384, 3)])
    return g.concat([small, wide, deep, _pooled(g, x, 192)])
