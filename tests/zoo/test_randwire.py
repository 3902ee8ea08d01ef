from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.zoo.randwire import watts_strogatz


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    nodes=st.integers(5, 40),
    neighbours=st.sampled_from([2, 4]),
    rewiring=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_keeps_the_number_of_edges(nodes: int, neighbours: int, rewiring: float, seed: int) -> None:
    edges = watts_strogatz(nodes, neighbours, rewiring, np.random.default_rng(seed))
    assert len(edges) == nodes * neighbours // 2
    assert all(0 <= a < b < nodes for a, b in edges)


@pytest.mark.parametrize(("nodes", "neighbours"), [(8, 2), (32, 4), (9, 6)])
def test_without_rewiring_it_is_a_ring_lattice(nodes: int, neighbours: int) -> None:
    edges = watts_strogatz(nodes, neighbours, 0.0, np.random.default_rng(0))
    reference = nx.watts_strogatz_graph(nodes, neighbours, 0.0)
    assert edges == {(min(edge), max(edge)) for edge in reference.edges}


def test_rewires_the_given_share() -> None:
    """Of 128 edges 75 % are rewired, and a rewired edge hits its old place in no case."""
    lattice = watts_strogatz(64, 4, 0.0, np.random.default_rng(0))
    kept = [
        len(lattice & watts_strogatz(64, 4, 0.75, np.random.default_rng(seed)))
        for seed in range(50)
    ]
    # A new end is one of about 60 nodes, of which two complete an edge of the lattice.
    assert np.mean(kept) == pytest.approx(128 * 0.25, abs=5)
