"""Cost files: what older ones mean, and what a table says about the kernels that were measured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hios_tvm.errors import CostError
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.platform import Device, Platform

ONE = {"ms": 1.0, "spread_ms": 0.0, "samples": 1, "source": "measured"}


def version_1(*models: str, **changes: Any) -> str:
    """Return a file as version 0.5 wrote it, with two operators that use a quarter of a GPU."""
    data: dict[str, Any] = {
        "version": 1,
        "latency": {model: {"a": ONE, "b": ONE} for model in models},
        "joint": {models[0]: [{"groups": [["a"], ["b"]], **ONE}]},
        "transfer": [{"src": "a", "dst": "b", **ONE}],
        "utilization": {"a": 0.25, "b": 0.25},
        "platform": {
            "version": 1,
            "devices": [
                {"name": f"device{i}", "model": model, "streams": 2, "memory_bytes": None}
                for i, model in enumerate(models)
            ],
            "links": [["device0", "device1", {"latency_ms": 0.1, "bandwidth_gb_s": 2.0}]],
            "default_link": {"latency_ms": 0.0, "bandwidth_gb_s": float("inf")},
            "independence": 1.0,
        },
    }
    return json.dumps(data | changes)


def test_files_of_version_1_are_read() -> None:
    costs = CostTable.from_json(version_1("cpu/1"))
    assert costs.latency["cpu/1"]["a"] == Measurement(1.0, source="measured")
    assert costs.joint["cpu/1"] == {(("a",), ("b",)): Measurement(1.0, source="measured")}
    assert costs.transfer["a", "b"].ms == 1.0
    assert costs.utilization == {"cpu/1": {"a": 0.25, "b": 0.25}}
    assert costs.platform is not None
    assert costs.platform.link("device0", "device1").bandwidth_gb_s == 2.0
    assert costs.platform.link("device1", "device0").bandwidth_gb_s == float("inf")
    assert CostTable.from_json(costs.to_json()) == costs


def test_the_utilization_in_files_of_version_1_is_that_of_their_gpus() -> None:
    costs = CostTable.from_json(version_1("cpu/1", "cuda/sm_90", "cuda/sm_90/2"))
    assert set(costs.utilization) == {"cuda/sm_90", "cuda/sm_90/2"}
    assert costs.utilization_of("a", "cpu/1") == 1.0
    assert costs.utilization_of("a", "cuda/sm_90/2") == 0.25


def test_operators_share_a_device_as_far_as_they_fill_it() -> None:
    """Two operators of a quarter each overlap on the GPU, and not at all on the CPU."""
    times = {"a": Measurement(1.0), "b": Measurement(1.0)}
    costs = CostTable(
        {"cuda/sm_90": times, "cpu/1": times}, utilization={"cuda/sm_90": {"a": 0.25, "b": 0.25}}
    )
    assert costs.stage_ms([["a"], ["b"]], "cuda/sm_90") == 1.5  # 0.5 * 2 + 0.5 * max(1, 0.5)
    assert costs.stage_ms([["a"], ["b"]], "cpu/1") == 2.0
    assert costs.least_stage_ms("a", "cuda/sm_90") == 0.625
    assert costs.least_stage_ms("a", "cpu/1") == 1.0


@pytest.mark.parametrize("version", [0, 3, None, "2"])
def test_other_versions_are_refused_with_the_command_that_measures_again(version: object) -> None:
    with pytest.raises(CostError, match=f"version {version!r}, .* measure again with hios-tvm"):
        CostTable.from_json(version_1("cpu/1", version=version))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency": []}, "latency must be an object"),
        ({"latency": 1}, "not a cost table of version 1"),
        ({"latency": {"cpu/1": {"a": {**ONE, "unit": "s"}}}}, "unknown field 'unit'"),
        ({"latency": {"cpu/1": {"a": {**ONE, "ms": -1.0}}}}, "finite and not negative"),
        ({"latency": {"cpu/1": {"a": {**ONE, "ms": "1"}}}}, r"\['a'\].ms must be a number"),
        ({"utilization": {"a": float("nan")}}, "must be a number"),
        ({"transfer": [{"src": "a", **ONE}]}, r"transfer\[0\] has no field 'dst'"),
        ({"platform": {"version": 1, "devices": []}}, "needs at least one device"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_what_does_not_belong_into_a_cost_file_is_named(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CostError, match=message):
        CostTable.from_json(version_1("cpu/1", **changes))


@pytest.mark.parametrize("text", ['{"version": 1, "version": 2}', "1e999"])
def test_json_that_means_two_things_is_refused(text: str) -> None:
    with pytest.raises(CostError, match="not valid JSON"):
        CostTable.from_json(text)


def test_costs_of_another_precision_are_refused() -> None:
    costs = CostTable({"cuda/sm_90": {}}, precision={"cuda/sm_90": "tf32"})
    platform = Platform((Device("cuda:0", model="cuda/sm_90"),))
    costs.check_precision("tf32", platform)
    CostTable({"cuda/sm_90": {}}).check_precision("fp16", platform)  # nobody knows the precision
    with pytest.raises(CostError, match=r"cuda/sm_90 .* with tf32 .* give --precision tf32"):
        costs.check_precision("fp32", platform)
