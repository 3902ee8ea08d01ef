"""Networks by number: the same number gives the same network."""

from __future__ import annotations

import numpy as np
import onnx

from random_networks import (  # noqa: F401 - each puts its patterns on the menu
    convolution,
    elementwise,
    gates,
    movement,
    pooling,
    products,
    reductions,
    resizing,
)
from random_networks.builder import Builder, Redraw, load_session
from random_networks.menu import MENU
from random_networks.network import Network

OPSETS = range(7, 25)
LONGEST = 9


def random_network(seed: int, *, patterns: int | None = None) -> tuple[Network, list[str]]:
    """Return a network of a few patterns, and what had to be drawn again.

    The network passes ONNX's checker and shape inference, and runs in ONNX Runtime.

    Parameters
    ----------
    seed : int
        The number of the network, from 0.
    patterns : int, optional
        How many patterns it has; by default drawn, from 1 to 9.
    """
    refused: list[str] = []
    attempt = 0
    while True:
        rng = np.random.default_rng([seed, attempt])
        try:
            return _grow(rng, patterns, refused), refused
        except Redraw as reason:
            refused.append(str(reason))
            attempt += 1


def _grow(rng: np.random.Generator, patterns: int | None, refused: list[str]) -> Network:
    opset = int(rng.choice(OPSETS))
    float_type = str(rng.choice(["float32", "float16", "float64"], p=[0.8, 0.13, 0.07]))
    b = Builder(rng, opset, float_type)
    known = [entry for entry in MENU if entry.since <= opset <= entry.until]
    weights = np.array([entry.weight for entry in known])
    left = b.integer(1, LONGEST) if patterns is None else patterns
    while left:
        chosen = known[rng.choice(len(known), p=weights / weights.sum())]
        mark = b.mark()
        try:
            chosen.grow(b)
            left -= 1
        except Redraw as reason:
            refused.append(f"{chosen.name}: {reason}")
            b.reset(mark)
    if not b.size:
        raise Redraw("no node")
    return _checked(b.network())


def _checked(network: Network) -> Network:
    try:
        onnx.checker.check_model(network.model, full_check=True)
        load_session(network.model, optimise=True).run(None, dict(network.inputs))
    except Exception as error:  # neither has a base class for its errors
        raise Redraw(f"the whole network: {error}") from error
    return network
