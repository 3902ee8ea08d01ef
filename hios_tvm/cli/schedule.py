"""``hios-tvm schedule``: a graph with costs in, a schedule or a comparison of schedulers out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import click

from hios_tvm.cli.console import stderr
from hios_tvm.cli.options import (
    EXISTING_FILE,
    NEW_FILE,
    complete_schedulers,
    json_option,
    no_progress_option,
    print_json,
    print_table,
    scheduler_options,
)
from hios_tvm.cli.pictures import check_picture, write_picture
from hios_tvm.cli.progress import progress_bar
from hios_tvm.cli.schedule_throughput import print_placement
from hios_tvm.errors import UsageError
from hios_tvm.schema.links import LINKS

if TYPE_CHECKING:
    from hios_tvm.experiments.comparison import Contestant
    from hios_tvm.schema.instance import Instance


def _list(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from dataclasses import fields

    from hios_tvm.schedulers import SCHEDULERS

    rows = [
        [name, ", ".join(f"{field.name}={field.default}" for field in fields(entry.options))]
        for name, entry in SCHEDULERS.items()
    ]
    print_table("Schedulers", ["name", "options and their defaults"], rows)
    context.exit()


@click.command("schedule")
@click.argument("graph", type=EXISTING_FILE)
@click.option("-o", "--output", type=NEW_FILE, help="Write the (best) schedule as JSON.")
@click.option(
    "--plot",
    type=NEW_FILE,
    help="Draw the schedules one above the other, the best first: .svg or .png.",
)
@click.option(
    "--devices",
    type=click.IntRange(1),
    help="Number of equal, independent devices.  [default: as the file says]",
)
@click.option(
    "--streams", type=click.IntRange(1), help="Stream groups that a stage may have on a device."
)
@click.option(
    "--link",
    type=click.Choice(list(LINKS)),
    help="Link between the devices, for edges whose transfer time the file does not give.",
)
@click.option(
    "--scheduler",
    default="all",
    shell_complete=complete_schedulers,
    help="Scheduler, comma-separated ones to compare, or all.",
)
@click.option(
    "--objective",
    type=click.Choice(["latency", "throughput"]),
    default="latency",
    help="throughput: place the operators so that results of many inputs follow each other "
    "quickly, instead of a schedule of one run. Options are moves, rounds, time-limit-s, "
    "max-ideals and seed.",
)
@scheduler_options
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="List the schedulers with their options, and exit.",
)
@no_progress_option
@json_option
def command(
    graph: Path,
    output: Path | None,
    plot: Path | None,
    devices: int | None,
    streams: int | None,
    link: str | None,
    scheduler: str,
    objective: str,
    options: dict[str, Any],
    no_progress: bool,
    json_file: str | None,
) -> None:
    """Schedule GRAPH on several devices and compare schedulers.

    GRAPH is a cost file with its graph (compile --save-costs), or a plain graph: {"operators":
    [{"name", "latency_ms", "utilization"}], "edges": [{"src", "dst", "transfer_ms"}],
    "num_devices": 4}. Both may be compressed by gzip.

    The gap is the makespan over a lower bound of every schedule, less one; the speed-up is over
    one device. With one scheduler, --json gives its schedule.
    """
    from hios_tvm.experiments.comparison import choose_schedulers, compare_schedulers
    from hios_tvm.files import atomic_write, check_writable
    from hios_tvm.schema.instance import read_instance

    if objective == "throughput" and (output or plot or streams or scheduler != "all"):
        raise UsageError(
            "the objective throughput makes no schedule: give no --output, --plot, --streams or "
            "--scheduler"
        )
    if output is not None:
        check_writable(output)
    if plot is not None:
        check_picture(plot)
    names = choose_schedulers(scheduler)
    instance = read_instance(graph, devices=devices)
    if streams is not None or link is not None:
        count = len(instance.platform.devices)
        instance = instance.on(count, streams=streams, link=LINKS[link] if link else None)
    if objective == "throughput":
        print_placement(instance, options, json_file)
        return
    with progress_bar(enabled=not no_progress) as progress:
        contestants, failures = compare_schedulers(instance, names, options, progress=progress)
    best = min(contestants.values(), key=lambda contestant: contestant.makespan_ms).schedule
    if output is not None:
        with atomic_write(output) as file:
            file.write(best.to_json(indent=1).encode())
    if plot is not None:
        write_picture(_drawn(contestants, instance), plot)
    if json_file is not None:
        print_json(_data(contestants, failures, instance, names), json_file)
    else:
        rows = [_cells(name, contestant) for name, contestant in contestants.items()]
        columns = ["scheduler", "makespan ms", "speed-up", "gap", "transfers", "seconds"]
        known = instance.graph
        title = (
            f"{known.name}: {len(known.operators)} operators, {len(known.edges)} edges, "
            f"{len(instance.platform.devices)} devices"
        )
        print_table(title, columns, rows)
    for name, message in failures.items():
        stderr().print(f"{name}: {message}", soft_wrap=True)


def _drawn(contestants: dict[str, Contestant], instance: Instance) -> Element:
    from hios_tvm.report.schedule_drawing import draw_schedules

    best_first = sorted(contestants, key=lambda name: contestants[name].makespan_ms)
    return draw_schedules({name: contestants[name].schedule for name in best_first}, instance)


def _cells(name: str, contestant: Contestant) -> list[str]:
    speedup = contestant.speedup
    return [
        name,
        f"{contestant.makespan_ms:.3f}",
        "-" if speedup is None else f"{speedup:.3f}",
        f"{contestant.gap:.1%}",
        str(contestant.transfers),
        f"{contestant.seconds:.3f}",
    ]


def _data(
    contestants: dict[str, Contestant],
    failures: dict[str, str],
    instance: Instance,
    names: tuple[str, ...],
) -> dict[str, Any]:
    if len(names) == 1:
        schedule: dict[str, Any] = json.loads(contestants[names[0]].schedule.to_json())
        return schedule
    return {
        "graph": instance.graph.name,
        "operators": len(instance.graph.operators),
        "edges": len(instance.graph.edges),
        "devices": len(instance.platform.devices),
        "schedulers": {
            name: {
                "makespan_ms": contestant.makespan_ms,
                "lower_bound_ms": contestant.lower_bound_ms,
                "gap": contestant.gap,
                "speedup": contestant.speedup,
                "transfers": contestant.transfers,
                "seconds": contestant.seconds,
            }
            for name, contestant in contestants.items()
        },
        "failures": failures,
    }
