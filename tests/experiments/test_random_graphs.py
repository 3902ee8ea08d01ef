"""The generators: what a graph must look like, and the errors where it cannot."""

from __future__ import annotations

from collections import Counter

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.errors import UsageError
from hios_tvm.experiments.known_optimum import graph_with_known_optimum
from hios_tvm.experiments.random_graphs import LayeredGraphOptions, layered_graph
from hios_tvm.schedulers import make_schedule
from hios_tvm.schedulers.bounds import lower_bound_ms
from hios_tvm.schedulers.evaluate import evaluate


@pytest.mark.parametrize("layers", [8, 14])
@pytest.mark.parametrize("seed", range(3))
def test_layered_graphs_have_the_shape_of_the_paper(layers: int, seed: int) -> None:
    options = LayeredGraphOptions(layers=layers)
    instance = layered_graph(options, seed=seed)
    view = nx.DiGraph((edge.src, edge.dst) for edge in instance.graph.edges)
    assert (view.number_of_nodes(), view.number_of_edges()) == (200, 400)
    # One source and one sink; every operator lies on a path between them, of one per layer at most.
    assert [v for v in view if view.in_degree(v) == 0] == ["v0"]
    assert [v for v in view if view.out_degree(v) == 0] == ["v199"]
    generations = list(nx.topological_generations(view))
    assert len(generations) == layers
    assert all(len(inner) >= layers / 2 for inner in generations[1:-1])
    costs, device = instance.costs, instance.platform.devices[0]
    latency_ms = {v: costs.latency_ms(v, device.model) for v in view}
    assert 0.1 <= min(latency_ms.values()) < 0.3
    assert 3.8 < max(latency_ms.values()) <= 4.0
    assert (
        0.6
        <= min(costs.utilization["device"].values())
        <= max(costs.utilization["device"].values())
        <= 1.0
    )
    for src, dst in view.edges:
        assert costs.transfer[src, dst].ms == max(0.1, 0.8 * latency_ms[dst])


def test_the_seed_decides() -> None:
    options = LayeredGraphOptions(operators=40, edges=90, layers=6)
    first, same, other = (layered_graph(options, seed=seed) for seed in (1, 1, 2))
    assert first == same
    assert first.costs != other.costs


def test_ratio_and_devices_leave_the_graph_as_it_is() -> None:
    base = layered_graph(LayeredGraphOptions(), seed=0)
    other = layered_graph(LayeredGraphOptions(transfer_ratio=1.6, devices=12), seed=0)
    assert base.graph == other.graph
    assert base.costs.latency == other.costs.latency
    assert len(other.platform.devices) == 12
    assert all(
        other.costs.transfer[edge].ms == pytest.approx(max(0.1, 2 * base_ms.ms))
        for edge, base_ms in base.costs.transfer.items()
        if base_ms.ms > 0.1
    )


@settings(deadline=None, max_examples=60)
@given(
    layers=st.integers(2, 9),
    operators=st.integers(2, 60),
    edges=st.integers(1, 400),
    seed=st.integers(0, 5),
)
def test_a_layered_graph_has_what_was_asked_for_or_is_refused(
    layers: int, operators: int, edges: int, seed: int
) -> None:
    try:
        options = LayeredGraphOptions(operators=operators, edges=edges, layers=layers)
        instance = layered_graph(options, seed=seed)
    except UsageError as error:
        assert "do not fit" in str(error)
        return
    assert len(instance.graph.operators) == operators
    assert len(instance.graph.edges) == edges


def test_every_possible_edge_can_be_drawn() -> None:
    # Layers of 1, 2, 2 and 1: two edges from the source, and all 2 * 3 + 2 from inner layers.
    options = LayeredGraphOptions(operators=6, edges=10, layers=4)
    assert len(layered_graph(options, seed=0).graph.edges) == 10
    with pytest.raises(UsageError, match=r"11 edges do not fit: .* at most 10"):
        layered_graph(LayeredGraphOptions(operators=6, edges=11, layers=4), seed=0)
    with pytest.raises(UsageError, match="5 edges do not fit"):
        layered_graph(LayeredGraphOptions(operators=6, edges=5, layers=4), seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 1}, "at least 2 layers"),
        ({"operators": 25, "layers": 8}, "25 operators do not fit into 8 layers"),
        ({"operators": 3, "layers": 2}, "3 operators do not fit into 2 layers"),
        ({"transfer_ratio": -1.0}, "ratio"),
        ({"transfer_ratio": float("nan")}, "ratio"),
        ({"transfer_ratio": float("inf")}, "ratio"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LayeredGraphOptions(**options)


@settings(deadline=None, max_examples=40)
@given(
    operators=st.integers(1, 120),
    devices=st.integers(1, 16),
    density=st.floats(0.0, 0.3),
    seed=st.integers(0, 1000),
)
def test_no_schedule_is_shorter_than_the_known_optimum(
    operators: int, devices: int, density: float, seed: int
) -> None:
    try:
        known = graph_with_known_optimum(operators, devices, seed=seed, density=density)
    except UsageError as error:
        # Where devices have few operators each, few pairs run one after another.
        assert "do not fit" in str(error) or operators < devices
        return
    instance = known.instance
    graph, costs, platform = instance.graph, instance.costs, instance.platform
    timeline = evaluate(graph, costs, platform, known.schedule)
    assert timeline.makespan_ms == known.makespan_ms == 400 + 4 * operators
    assert list(timeline.busy_ms.values()) == [known.makespan_ms] * devices
    assert lower_bound_ms(graph, costs, platform) <= known.makespan_ms
    assert len(graph.edges) == round(density * operators * (operators - 1) / 2)
    made = make_schedule("hios-lp", graph, costs, platform)
    assert made.makespan_ms is not None
    assert made.makespan_ms >= known.makespan_ms


def test_the_known_optimum_needs_transfers_and_does_not_tell_itself() -> None:
    known = graph_with_known_optimum(200, 8, seed=3)
    instance, placement = known.instance, known.schedule.placement
    remote = [edge for edge in instance.graph.edges if placement[edge.src] != placement[edge.dst]]
    assert len(remote) > len(instance.graph.edges) / 2
    assert any(instance.costs.transfer[edge.src, edge.dst].ms > 0.0 for edge in remote)
    sizes = Counter(placement.values())
    assert max(sizes.values()) > min(sizes.values()) >= 1
    names = [op.name for op in instance.graph.operators]
    assert names != [name for device in known.schedule for name in device.operators]
    assert graph_with_known_optimum(200, 8, seed=3).instance == instance


@pytest.mark.parametrize(
    ("operators", "devices", "density", "message"),
    [
        (3, 4, 0.1, "3 operators cannot keep 4 devices busy"),
        (3, 0, 0.1, "0 devices"),
        (16, 8, 0.9, "108 edges do not fit"),
        (16, 8, -0.5, "-60 edges do not fit"),
    ],
)
def test_known_optima_that_cannot_be_are_refused(
    operators: int, devices: int, density: float, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        graph_with_known_optimum(operators, devices, seed=0, density=density)
