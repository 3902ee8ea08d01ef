"""Sentences about devices and runs say what was looked at, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from test_page import RESULT
from test_timeline import MANIFEST

from hios_tvm.report.explain import bottlenecks, manifest_reports, why_idle
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.schema.manifest import Manifest, Prediction
from hios_tvm.schema.program import Call, Program

HERE = {"machine": str(describe_machine())}
SLOW = replace(RESULT, busy_ms={"cpu@0": 9.0, "cpu@1": 1.0}, copy_ms={"cpu@0": 0.0, "cpu@1": 0.0})


def manifest(operators: dict[str, list[str]]) -> Manifest:
    """A machine of two cores: both as one device, and each alone."""
    (device, _) = MANIFEST.devices
    names = ("cpu@0-1", "cpu@0", "cpu@1")
    return replace(
        MANIFEST,
        devices=tuple(replace(device, name=name) for name in names),
        programs=tuple(
            Program(name, 0, tuple(Call(v, "k", ("x", v)) for v in operators.get(name, ())))
            for name in names
        ),
        prediction=Prediction(
            work_ms={name: float(len(operators.get(name, ()))) for name in names}
        ),
        schedule={"scheduler": "hios-lp"},
    )


def test_a_device_whose_cores_are_used_is_not_idle() -> None:
    assert why_idle(manifest({"cpu@0-1": ["a", "b", "c"]})) == []
    assert why_idle(manifest({"cpu@0": ["a", "b"], "cpu@1": ["c"]})) == []
    (line,) = why_idle(manifest({"cpu@0": ["a", "b", "c"]}))
    assert line.startswith("cpu@1 got nothing: the scheduler 'hios-lp'")


def test_shares_are_of_the_time_of_all_cores() -> None:
    """Two operators on both cores are four of five core-milliseconds."""
    reports = manifest_reports(manifest({"cpu@0-1": ["a", "b"], "cpu@0": ["c"]}))
    assert [report.share for report in reports] == [0.8, 0.2, 0.0]


def test_cores_are_idle_and_not_the_devices_that_share_them() -> None:
    """9.5 ms: 4 on both cores, 5 on the first alone."""
    both = manifest({"cpu@0-1": ["a"], "cpu@0": ["b", "c"]})
    zero = dict.fromkeys(("cpu@0-1", "cpu@0", "cpu@1"), 0.0)
    result = replace(RESULT, busy_ms={**zero, "cpu@0-1": 4.0, "cpu@0": 5.0}, copy_ms=zero)
    assert bottlenecks(result, both) == ["core 1 is idle 58% of the time"]
    result = replace(result, busy_ms={**zero, "cpu@0-1": 9.5})
    assert bottlenecks(result, both) == [
        "bound by kernels: the busiest core works 100% of the time"
    ]


def said(others: float, machine: dict[str, str]) -> str:
    made = replace(MANIFEST, prediction=Prediction(makespan_ms=1.0), compile_info=machine)
    return "\n".join(bottlenecks(replace(SLOW, others=others), made))


def test_a_prediction_that_is_off_is_explained_by_what_is_known() -> None:
    elsewhere = said(0.0, {"machine": "a CPU of another age"})
    assert "it was compiled on another machine: compile it again on this one" in elsewhere
    here = said(0.0, HERE)
    assert "measured 9.50 ms, predicted 1.00 ms (+850%); it was compiled on this machine" in here
    assert "compile it again" not in here
    loaded = said(0.6, HERE)
    assert "(+850%); the machine was busy" in loaded
    assert "other processes used 60% of the cores during the runs" in loaded


def test_an_idle_device_of_a_busy_machine_may_wait_for_its_cores() -> None:
    assert "cpu@1 is idle 89% of the time" in said(0.0, HERE)
    assert "cpu@1 is idle, or waits for cores that others hold, 89% of the time" in said(0.6, HERE)
