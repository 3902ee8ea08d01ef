"""The registry of benchmark networks, and the one function that builds them."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from hios_tvm.errors import UsageError
from hios_tvm.zoo.builder import GraphBuilder, Tensor
from hios_tvm.zoo.densenet import densenet121
from hios_tvm.zoo.inception_v3 import inception_v3
from hios_tvm.zoo.nasnet import nasnet_a_large
from hios_tvm.zoo.randwire import randwire
from hios_tvm.zoo.resnet import resnet50
from hios_tvm.zoo.squeezenet import squeezenet1_1

CALIBRATION_BATCH = 2


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the zoo.

    Attributes
    ----------
    name, title : str
        Its name in the registry, and for people.
    forward : function
        Appends the network to a builder: ``(builder, images) -> logits``.
    size, minimum_size : int
        Height and width of images in the publication, and the least that work.
    calibration_size : int
        Height and width of the images on which batch norms are calibrated.
    """

    name: str
    title: str
    forward: Callable[[GraphBuilder, Tensor], Tensor]
    size: int = 224
    minimum_size: int = 32
    calibration_size: int = 128


NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network(
            name="inception_v3",
            title="Inception-v3",
            forward=inception_v3,
            size=299,
            minimum_size=75,
            calibration_size=203,
        ),
        Network(name="nasnet_a_large", title="NASNet-A large", forward=nasnet_a_large, size=331),
        Network(name="randwire", title="RandWire WS(4, 0.75), C = 78", forward=randwire),
        Network(name="squeezenet1_1", title="SqueezeNet 1.1", forward=squeezenet1_1),
        Network(name="resnet50", title="ResNet-50", forward=resnet50),
        Network(name="densenet121", title="DenseNet-121", forward=densenet121),
    )
}


def build(
    name: str,
    *,
    height: int | None = None,
    width: int | None = None,
    batch: int = 1,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build a network with random weights as an ONNX model.

    Parameters
    ----------
    name : str
        One of `NETWORKS`.
    height, width : int, optional
        Of the images; by default as published.
    batch : int
        Images per inference.
    seed : int
        Decides the weights. The same seed gives the same bytes, and the same weights for
        every image size.

    Returns
    -------
    onnx.ModelProto
        ``input`` float32 ``[batch, 3, height, width]`` to ``output`` float32 ``[batch, 1000]``
        (logits, no softmax). Activations keep their scale for inputs of about unit variance.

    Raises
    ------
    UsageError
        For an unknown name, images too small for the network, or a batch or seed out of range.
    """
    if name not in NETWORKS:
        raise UsageError(f"no network {name!r} in the zoo; it has {', '.join(NETWORKS)}")
    network = NETWORKS[name]
    height = network.size if height is None else height
    width = network.size if width is None else width
    least = network.minimum_size
    if min(height, width) < least:
        raise UsageError(
            f"{height}x{width} images are too small for {name}; it needs at least {least}x{least}"
        )
    if batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch}")
    if seed < 0:
        raise UsageError(f"seed must not be negative, got {seed}")
    graph = GraphBuilder(seed)
    calibration = (CALIBRATION_BATCH, 3, network.calibration_size, network.calibration_size)
    images = graph.input("input", (batch, 3, height, width), graph.rng.standard_normal(calibration))
    return graph.model(name, network.forward(graph, images))
