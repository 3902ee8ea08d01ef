"""What ``hios-tvm schedule --objective throughput`` finds and prints."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import print_json, print_table
from hios_tvm.errors import UsageError

if TYPE_CHECKING:
    from hios_tvm.schema.instance import Instance


def print_placement(instance: Instance, options: dict[str, Any], json_file: str | None) -> None:
    """Place the operators for many inputs, and print what each device does."""
    from hios_tvm.schedulers.throughput_platform import throughput_problem
    from hios_tvm.schedulers.throughput_search import ThroughputOptions, find_pipeline

    known = [field.name for field in fields(ThroughputOptions)]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise UsageError(
            f"the objective throughput has no option {unknown[0]!r}; it has {', '.join(known)}"
        )
    problem = throughput_problem(instance.graph, instance.costs, instance.platform)
    pipeline = find_pipeline(problem, ThroughputOptions(**options))
    placed = [
        [
            operator.name
            for operator, place in zip(problem.operators, pipeline.device_of, strict=True)
            if place == d
        ]
        for d in range(len(problem.devices))
    ]
    devices = [
        {"device": device.name, "load_ms": load_ms, "operators": operators}
        for device, load_ms, operators in zip(
            problem.devices, pipeline.loads_ms, placed, strict=True
        )
    ]
    if json_file is not None:
        data = {
            "graph": instance.graph.name,
            "interval_ms": pipeline.interval_ms,
            "lower_bound_ms": pipeline.lower_bound_ms,
            "gap": pipeline.gap,
            "devices": devices,
        }
        print_json(data, json_file)
        return
    print_table(
        f"{instance.graph.name}: {len(problem.operators)} operators, {len(problem.edges)} edges",
        ["device", "operators", "load ms"],
        [
            [device.name, str(len(operators)), f"{load_ms:.3f}"]
            for device, load_ms, operators in zip(
                problem.devices, pipeline.loads_ms, placed, strict=True
            )
        ],
    )
    stdout().print(
        f"{pipeline.interval_ms:.3f} ms from one result to the next, lower bound "
        f"{pipeline.lower_bound_ms:.3f} ms, gap {pipeline.gap:.1%}"
    )
