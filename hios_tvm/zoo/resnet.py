"""ResNet-50, with the stride in the 3x3 convolution ("v1.5") as in torchvision.

He et al., "Deep residual learning for image recognition", CVPR 2016.
"""

from hios_tvm.zoo.builder import GraphBuilder, Tensor

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, channels of the bottleneck
EXPANSION = 4


def resnet50(g: GraphBuilder, x: Tensor) -> Tensor:
    """Append the network to `g`: logits ``[batch, 1000]`` of images ``[batch, 3, h, w]``."""
    with g.scope("stem"):
        x = g.relu(g.batch_norm(g.conv(x, 64, 7, stride=2, padding=3)))
        x = g.max_pool(x, 3, stride=2, padding=1)
    for stage, (blocks, channels) in enumerate(STAGES):
        for block in range(blocks):
            with g.scope(f"layer_{stage + 1}.{block}"):
                x = _bottleneck(g, x, channels, stride=2 if stage and not block else 1)
    with g.scope("head"):
        return g.dense(g.flatten(g.global_average_pool(x)), 1000)


def _bottleneck(g: GraphBuilder, x: Tensor, channels: int, *, stride: int) -> Tensor:
    y = g.relu(g.batch_norm(g.conv(x, channels, 1)))
    y = g.relu(g.batch_norm(g.conv(y, channels, 3, stride=stride, padding=1)))
    y = g.batch_norm(g.conv(y, EXPANSION * channels, 1))
    if x.channels != y.channels:
        x = g.batch_norm(g.conv(x, EXPANSION * channels, 1, stride=stride))
    return g.relu(g.add(y, x))
