"""SqueezeNet 1.1.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016; version 1.1
of the authors' release, as in torchvision. It has no batch norms.
"""

from itertools import count

from hios_tvm.zoo.builder import GraphBuilder, Tensor

# Channels of the fire modules between two poolings: squeezed, and of each half of their outputs
STAGES = (((16, 64),) * 2, ((32, 128),) * 2, ((48, 192),) * 2 + ((64, 256),) * 2)


def squeezenet1_1(g: GraphBuilder, x: Tensor) -> Tensor:
    """Append the network to `g`: logits ``[batch, 1000]`` of images ``[batch, 3, h, w]``."""
    with g.scope("stem"):
        x = g.relu(g.conv(x, 64, 3, stride=2, bias=True))
    fires = count(2)
    for modules in STAGES:
        x = g.max_pool(x, 3, stride=2, ceil_mode=True)
        for squeeze, expand in modules:
            with g.scope(f"fire_{next(fires)}"):
                x = _fire(g, x, squeeze, expand)
    with g.scope("head"):
        x = g.relu(g.conv(x, 1000, 1, bias=True))
        return g.flatten(g.global_average_pool(x))


def _fire(g: GraphBuilder, x: Tensor, squeeze: int, expand: int) -> Tensor:
    squeezed = g.relu(g.conv(x, squeeze, 1, bias=True))
    pointwise = g.relu(g.conv(squeezed, expand, 1, bias=True))
    spatial = g.relu(g.conv(squeezed, expand, 3, padding=1, bias=True))
    return g.concat([pointwise, spatial])
