"""DenseNet-121.

Huang et al., "Densely connected convolutional networks", CVPR 2017; as in torchvision.
"""

from hios_tvm.zoo.builder import GraphBuilder, Tensor

BLOCKS = (6, 12, 24, 16)
GROWTH = 32
BOTTLENECK = 4


def densenet121(g: GraphBuilder, x: Tensor) -> Tensor:
    """Append the network to `g`: logits ``[batch, 1000]`` of images ``[batch, 3, h, w]``."""
    with g.scope("stem"):
        x = g.relu(g.batch_norm(g.conv(x, 64, 7, stride=2, padding=3)))
        x = g.max_pool(x, 3, stride=2, padding=1)
    for block, layers in enumerate(BLOCKS, start=1):
        if block > 1:
            with g.scope(f"transition_{block - 1}"):
                x = g.conv(g.relu(g.batch_norm(x)), x.channels // 2, 1)
                x = g.average_pool(x, 2, stride=2)
        x = _dense_block(g, x, block, layers)
    with g.scope("head"):
        x = g.relu(g.batch_norm(x))
        return g.dense(g.flatten(g.global_average_pool(x)), 1000)


def _dense_block(g: GraphBuilder, x: Tensor, block: int, layers: int) -> Tensor:
    """Each layer reads the block's input and the outputs of all layers before it."""
    features = [x]
    for layer in range(layers):
        with g.scope(f"block_{block}.{layer}"):
            y = g.concat(features) if layer else x
            y = g.conv(g.relu(g.batch_norm(y)), BOTTLENECK * GROWTH, 1)
            features.append(g.conv(g.relu(g.batch_norm(y)), GROWTH, 3, padding=1))
    return g.concat(features)
