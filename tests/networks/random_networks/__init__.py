"""Random ONNX networks, what ONNX Runtime makes of them, and what hios-tvm does.

`random_network` grows a network pattern by pattern: each module of patterns (`gates`, `pooling`,
...) adds its own to the menu. `judge` compiles a network and compares its outputs with those of
ONNX Runtime.
"""

from random_networks.generate import random_network
from random_networks.judge import KINDS, Verdict, judge
from random_networks.network import Network
from random_networks.reference import Reference, reference_of

__all__ = [
    "KINDS",
    "Network",
    "Reference",
    "Verdict",
    "judge",
    "random_network",
    "reference_of",
]
