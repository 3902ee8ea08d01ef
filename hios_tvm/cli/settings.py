"""Options of ``compile`` that decide the code and the schedule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from hios_tvm.cli.devices import DeviceList
from hios_tvm.cli.options import (
    EXISTING_FILE,
    FOLDER,
    ModelFile,
    SchedulerName,
    option_group,
    precision_option,
)
from hios_tvm.errors import DeviceError, UsageError
from hios_tvm.schema.device_names import parse_device_list
from hios_tvm.schema.precisions import Precision

if TYPE_CHECKING:
    from hios_tvm.schema.node_placement import NodePlacement
    from hios_tvm.schema.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the code and the schedule, as words of the command line."""

    devices: str | None
    divide: bool
    target: str
    precision: Precision
    merge_convolutions: bool
    database: Path | None
    objective: Literal["latency", "throughput"]
    scheduler: str
    memory: tuple[str, ...]
    placement: Path | None
    configuration: str | None

    def __post_init__(self) -> None:
        if self.placement is not None and self.configuration is not None:
            raise UsageError("--placement and --configuration are two placements: leave one out")

    def node_placement(self, model: ModelFile) -> NodePlacement | None:
        """Read the placement that the model itself has, if it shall be used."""
        from hios_tvm.compiler.source import NO_CONFIGURATION, ModelSource

        if self.placement is not None or self.configuration == NO_CONFIGURATION:
            return None
        return ModelSource(model.model).placement(self.configuration)

    def schedule(self) -> Schedule | None:
        """Read the given schedule, if there is one."""
        from hios_tvm.schema.schedule import Schedule

        if self.placement is None:
            return None
        text = self.placement.read_text(errors="replace")  # broken text is reported as broken JSON
        return Schedule.from_json(text)

    def device_names(
        self, schedule: Schedule | None, placement: NodePlacement | None
    ) -> tuple[str, ...]:
        """Return the devices of the command line, or of what is placed, or all cores as one."""
        from hios_tvm.compiler.options import devices_of_placement
        from hios_tvm.runtime.devices import kind_of
        from hios_tvm.runtime.devices.cpu.cores import default_devices

        if self.devices is not None:
            names = parse_device_list(self.devices)
            try:
                for name in names:
                    kind_of(name)
            except DeviceError as error:
                raise UsageError(str(error)) from error
            return names
        if schedule is not None:
            return tuple(device.device for device in schedule)
        if placement is not None:
            return devices_of_placement(placement)
        return default_devices()


setting_options = option_group(
    Settings,
    click.option(
        "--devices",
        type=DeviceList(),
        help="Devices, for example cpu@0,cpu@1 (one core each), cpu@0-3,cpu@4-7, or cuda:0,cuda:1 "
        "(GPUs).  [default: those of the placement, or all cores as one device]",
    ),
    click.option(
        "--divide/--no-divide",
        default=True,
        help="Let operators run on parts of a CPU device too: cpu@0-3 also as cpu@0-1, cpu@2-3, "
        "and single cores.",
    ),
    click.option(
        "--target",
        default="host",
        help="What to generate code for. A CPU: host, portable (any x86-64-v3), or a name such as "
        "znver4 or neoverse-n1. GPUs: sm_80, sm_90, ...  Both: znver4,sm_90.",
    ),
    precision_option,
    click.option(
        "--merge-convolutions",
        is_flag=True,
        help="Also try one convolution in place of several with one input; the faster by "
        "prediction stays.",
    ),
    click.option(
        "--database",
        type=FOLDER,
        help="Folder of the tune command: use its kernels where they beat the default ones.",
    ),
    click.option(
        "--objective",
        type=click.Choice(["latency", "throughput"]),
        default="latency",
        help="What is to be good: the time of one run, or the results per second of many "
        "inputs (session.run_many), for which sessions on equal parts of the cores are tried, too.",
    ),
    click.option(
        "--scheduler",
        type=SchedulerName(),
        default="auto",
        help="One that hios-tvm schedule --list names; auto tries the best few out.",
    ),
    click.option(
        "--memory",
        multiple=True,
        metavar="DEVICE=SIZE",
        help="What weights and activations may take on a device, for example cpu@0=512MiB. "
        "Repeatable.  [default: no limit]",
    ),
    click.option(
        "--placement",
        type=EXISTING_FILE,
        help="Use this schedule (JSON, from --save-placement or edited by hand): run no scheduler, "
        "and measure nothing.",
    ),
    click.option(
        "--configuration",
        metavar="NAME",
        help="Place operators as this configuration of an ONNX model says (see annotate), on "
        "--devices in its order: run no scheduler, and measure nothing. With none, schedule "
        "anew.  [default: the only one that places nodes, if there is one]",
    ),
)
