"""The committed cost files: all networks, and schedules from them without measuring."""

from __future__ import annotations

import pytest

from hios_tvm.errors import UsageError
from hios_tvm.schedulers import make_schedule
from hios_tvm.schema.instance import read_instance
from hios_tvm.schema.links import LINKS
from hios_tvm.zoo import NETWORKS
from hios_tvm.zoo.costs import COSTS_DIR, cost_file


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_has_its_graph_and_measured_costs(network: str, cores: int) -> None:
    instance = read_instance(cost_file(network, cores))
    assert instance.graph.name == network
    assert {device.width for device in instance.platform.devices} == {1, cores}
    assert instance.platform.shares_cores == (cores > 1)
    instance.costs.check(instance.graph, instance.platform)
    timings = [m for times in instance.costs.latency.values() for m in times.values()]
    assert {timing.source for timing in timings} == {"measured"}
    assert all(timing.ms > 0.0 for timing in timings)
    weights = sum(instance.graph.tensor[name].nbytes for name in instance.graph.constants)
    assert weights > 1e6
    assert any(edge.nbytes > 1e5 for edge in instance.graph.edges)


@pytest.mark.parametrize("link", LINKS)
def test_networks_are_scheduled_from_their_files(link: str) -> None:
    """RandWire is wide: four devices must win over one, even on the slowest link."""
    instance = read_instance(cost_file("randwire")).on(4, link=LINKS[link])
    one = make_schedule("sequential", instance.graph, instance.costs, instance.platform)
    four = make_schedule("hios-lp", instance.graph, instance.costs, instance.platform)
    assert one.makespan_ms is not None
    assert four.makespan_ms is not None
    assert four.makespan_ms < one.makespan_ms


def test_faster_links_cost_less() -> None:
    for nbytes in (1, 10**6, 10**9):
        times = [LINKS[name].transfer_ms(nbytes) for name in ("pcie4", "nvlink3", "nvlink4")]
        assert times == sorted(times, reverse=True)


def test_an_unknown_network_and_the_size_of_the_files() -> None:
    with pytest.raises(UsageError, match=r"no costs of 'alexnet' .* on 1 core; .* squeezenet1_1"):
        cost_file("alexnet")
    assert sum(file.stat().st_size for file in COSTS_DIR.glob("*.json.gz")) < 1e6
