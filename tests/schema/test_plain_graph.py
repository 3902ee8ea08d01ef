"""The plain JSON graph: what it means, and one clear error for each way to be wrong."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.errors import CostError, GraphError, HiosError, UsageError
from hios_tvm.schedulers import make_schedule
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.instance import Instance, read_instance
from hios_tvm.schema.plain_graph import read_plain_graph
from hios_tvm.schema.platform import Device, Link, Platform

DIAMOND = {
    "operators": [
        {"name": "d", "latency_ms": 1},
        {"name": "c", "latency_ms": 3.0, "utilization": 0.5},
        {"name": "b", "latency_ms": 2.0, "utilization": 1},
        {"name": "a", "latency_ms": 1.0},
    ],
    "edges": [
        {"src": "c", "dst": "d", "transfer_ms": 0.25},
        {"src": "b", "dst": "d", "transfer_ms": 0},
        {"src": "a", "dst": "b", "transfer_ms": 0.5},
        {"src": "a", "dst": "c", "transfer_ms": 0.75},
    ],
    "num_devices": 2,
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**DIAMOND, **changes}


def operators(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"operators": list(entries), "edges": []}


def edges(*entries: tuple[str, str, Any]) -> dict[str, Any]:
    return changed(edges=[{"src": s, "dst": d, "transfer_ms": ms} for s, d, ms in entries])


def test_a_graph_in_any_order_means_the_same() -> None:
    graph, costs, devices = read_plain_graph(DIAMOND)
    assert devices == 2
    assert [op.name for op in graph.operators] == ["a", "c", "b", "d"]
    assert {(e.src, e.dst) for e in graph.edges} == {
        ("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")
    }  # fmt: skip
    assert costs.latency_ms("c", "device") == 3.0
    assert costs.utilization == {"device": {"c": 0.5, "b": 1.0}}
    platform = Platform.uniform(2)
    times = {
        (e.src, e.dst): costs.transfer_ms(e, platform, "device0", "device1") for e in graph.edges
    }
    assert times == {("a", "b"): 0.5, ("a", "c"): 0.75, ("b", "d"): 0.0, ("c", "d"): 0.25}
    # a, c and d stay together; b is back before c ends: 1 + 3 + 1.
    assert make_schedule("hios-lp", graph, costs, platform).makespan_ms == 5.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "a JSON object"),
        ({"edges": []}, "a JSON object"),
        (operators({"name": "a"}), "operator 'a' has no 'latency_ms'"),
        (operators({"latency_ms": 1}), "operator None has no 'name'"),
        (operators({"name": 3, "latency_ms": 1}), "operator 3: a name must be a string"),
        (operators({"name": "a", "latency_ms": 1, "latency": 1}), "unknown field 'latency'"),
        (operators(*[{"name": "a", "latency_ms": 1}] * 2), "operator 'a' is there twice"),
        (changed(operators={}), '"operators" must be a list'),
        (changed(devices=2), "the graph has an unknown field 'devices'"),
        (edges(("a", "x", 1)), "edge 'a' -> 'x': there is no operator 'x'"),
        (edges(("a", "b", 1), ("a", "b", 1)), "edge 'a' -> 'b' is there twice"),
        (edges(("a", "b", 1), ("b", "c", 1), ("c", "a", 1)), "have a cycle: "),
        (edges(("b", "b", 1)), "have a cycle: b -> b"),
        (changed(edges=[{"src": "a", "dst": "b"}]), "edge 'a' -> 'b' has no 'transfer_ms'"),
        (changed(num_devices=0), "num_devices must be a whole number from 1 to 4096, got 0"),
        (changed(num_devices=1.5), "num_devices must be a whole number from 1 to 4096, got 1.5"),
        (changed(num_devices=2**31), "num_devices must be a whole number from 1 to 4096, got 2147"),
    ],
)
def test_what_is_no_graph_is_named(data: Any, message: str) -> None:
    with pytest.raises(GraphError) as error:
        read_plain_graph(data)
    assert message in str(error.value)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", None, True, [1]])
def test_what_is_no_time_is_named(value: Any) -> None:
    with pytest.raises(CostError, match="operator 'a': latency_ms must be finite"):
        read_plain_graph(operators({"name": "a", "latency_ms": value}))
    with pytest.raises(CostError, match="edge 'a' -> 'b': transfer_ms must be finite"):
        read_plain_graph(edges(("a", "b", value)))


@pytest.mark.parametrize("value", [0, -0.5, 1.1, math.nan, "half", None, False])
def test_what_is_no_utilization_is_named(value: Any) -> None:
    with pytest.raises(CostError, match=r"operator 'a': utilization must be in \(0, 1\]"):
        read_plain_graph(operators({"name": "a", "latency_ms": 1, "utilization": value}))


def test_a_long_cycle_is_shown_in_part() -> None:
    names = [f"v{i}" for i in range(50)]
    entries = [(a, b, 0) for a, b in zip(names, names[1:] + names[:1], strict=True)]
    data = edges(*entries) | operators(*({"name": n, "latency_ms": 1} for n in names))
    data["edges"] = edges(*entries)["edges"]
    with pytest.raises(GraphError, match=r"cycle: (v[0-9]+ -> ){8}\.\.\. -> v[0-9]+$"):
        read_plain_graph(data)


def test_a_file_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(bytes(65 << 20), 1))
    with pytest.raises(GraphError, match="unpacks to more than 64 MiB"):
        read_instance(path, devices=1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["operators", "edges", "name", "latency_ms", "src", "dst", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(data=JSON, more=JSON)
def test_any_json_is_a_graph_or_an_error_of_ours(data: Any, more: Any) -> None:
    for document in (data, {"operators": [data], "edges": [more]}, changed(edges=more)):
        try:
            graph, _, _ = read_plain_graph(document)
        except HiosError:
            continue
        assert len(graph.operators) == len(document["operators"])


def test_files_are_read_plain_and_compressed(tmp_path: Path) -> None:
    text = json.dumps(DIAMOND)
    (tmp_path / "diamond.json").write_text(text)
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(text.encode()))
    plain = read_instance(tmp_path / "diamond.json")
    packed = read_instance(tmp_path / "packed.json.gz", devices=3)
    assert plain.graph.name == "diamond"
    assert packed.graph.operators == plain.graph.operators
    assert (len(plain.platform.devices), len(packed.platform.devices)) == (2, 3)


def test_the_number_of_devices_must_come_from_somewhere(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({key: DIAMOND[key] for key in ("operators", "edges")}))
    with pytest.raises(UsageError, match="give --devices"):
        read_instance(path)
    assert len(read_instance(path, devices=1).platform.devices) == 1


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"\x1f\x8bnothing", b"[" * 100_000])
def test_files_of_something_else_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(GraphError, match="file"):
        read_instance(tmp_path / "file")


def cost_file_instance() -> Instance:
    graph, costs, _ = read_plain_graph(DIAMOND, name="diamond")
    model = {"cpu/1": costs.latency["device"]}
    shares = {"cpu/1": costs.utilization["device"]}
    costs = CostTable(model, transfer=costs.transfer, utilization=shares)
    platform = Platform((Device("cpu@0", "cpu/1", 1),), default_link=Link(0.5, 2.0))
    return Instance(graph, costs, platform)


@pytest.mark.parametrize("name", ["costs.json", "costs.json.gz"])
def test_a_cost_file_holds_graph_costs_and_platform(tmp_path: Path, name: str) -> None:
    instance = cost_file_instance()
    instance.save(tmp_path / name)
    again = read_instance(tmp_path / name)
    assert again.graph == instance.graph
    assert again.platform == again.costs.platform == instance.platform
    assert again.costs.latency == instance.costs.latency
    assert again.costs.transfer == instance.costs.transfer
    on_four = read_instance(tmp_path / name, devices=4)
    assert [device.model for device in on_four.platform.devices] == ["cpu/1"] * 4
    assert on_four.platform.default_link == Link(0.5, 2.0)


def test_equal_instances_make_equal_files(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        cost_file_instance().save(tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_cost_file_without_graph_or_platform_says_so(tmp_path: Path) -> None:
    instance = cost_file_instance()
    path = tmp_path / "costs.json"
    path.write_text(instance.costs.to_json())
    with pytest.raises(CostError, match="not their graph; write it again with hios-tvm compile"):
        read_instance(path)
    path.write_text(json.dumps({**json.loads(instance.to_json()), "platform": None}))
    with pytest.raises(CostError, match="on which devices its times were measured"):
        read_instance(path)


def test_only_one_device_model_can_be_put_on_more_devices() -> None:
    instance = cost_file_instance()
    latency = {"cpu/1": {"a": Measurement(1.0)}, "gpu": {"a": Measurement(0.1)}}
    mixed = Instance(instance.graph, CostTable(latency), instance.platform)
    with pytest.raises(UsageError, match="cpu/1, gpu"):
        mixed.on(2)
    with pytest.raises(UsageError, match="at least one device, got 0"):
        instance.on(0)
