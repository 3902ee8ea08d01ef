"""What a user may choose for a compile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hios_tvm.compiled_code import default_cache_dir
from hios_tvm.errors import DeviceError, UsageError
from hios_tvm.measuring.rpc_costs import RpcAddress
from hios_tvm.runtime.devices import check_devices
from hios_tvm.schedulers import options_of
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import cores_of, cpu_divisions, cpu_model_name
from hios_tvm.schema.node_placement import NodePlacement
from hios_tvm.schema.precisions import Precision
from hios_tvm.schema.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """What `compile_model` does.

    Attributes
    ----------
    devices : tuple of str
        Devices to compile for, such as ``("cpu@0", "cpu@1")``.
    divide : bool
        Whether operators may run on parts of a CPU device: halves, quarters, and so on to single
        cores. A device with a limit of memory is never divided.
    target : str
        What to generate code for: ``host``, ``portable`` or the name of a CPU, ``sm_90`` or another
        architecture of GPUs, or both with a comma between them (`parse_targets`).
    precision : str
        What convolutions and products round their factors to: nothing (``fp32``), ``tf32`` or
        ``fp16`` on GPUs, ``bf16`` on CPUs. Sums are of single precision.
    objective : {"latency", "throughput"}
        What is to be good: the time of one run, or the results per second of `Session.run_many`.
        For the latter, sessions with equal shares of the cores are compared with one session.
    scheduler, scheduler_options
        Name in `hios_tvm.schedulers.SCHEDULERS`, and the options of that scheduler.
    memory : mapping of str to int
        Bytes that weights and activations may take, by device; no limit where absent.
    schedule : Schedule, optional
        A schedule made elsewhere, used instead of a scheduler. Nothing is measured then, and the
        artifact holds a prediction only where `costs` are given too.
    placement : NodePlacement, optional
        Where the model's nodes are computed, which gives a schedule for its operators: device by
        device, those of the placement are `devices`.
    costs : CostTable, optional
        Times to schedule with; without it they are measured on this machine, and estimated for
        GPUs.
    link : str
        What connects GPUs where `costs` do not say: a name in `LINKS`.
    rpc : RpcAddress, optional
        Where to measure instead: a TVM RPC server or tracker.
    cache_dir : Path, optional
        Folder of measured costs and compiled kernels; None for a temporary one.
    merge_convolutions : bool
        Also try the network with one convolution in place of several with one input, and keep
        what is faster by prediction. It takes measured costs of both.
    rtol : float, optional
        Largest error of the comparison with the reference, over the largest magnitude of an output;
        by default what suits the types that the model computes in.
    dump_dir : Path, optional
        Where to write the module after each phase, as TVMScript.
    database : Path, optional
        Folder of a tuning database: kernels in it that beat the default ones are used.
    """

    devices: tuple[str, ...]
    divide: bool = True
    target: str = "host"
    precision: Precision = "fp32"
    objective: Literal["latency", "throughput"] = "latency"
    scheduler: str = "auto"
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    schedule: Schedule | None = None
    placement: NodePlacement | None = None
    costs: CostTable | None = None
    link: str = "pcie4"
    rpc: RpcAddress | None = None
    cache_dir: Path | None = field(default_factory=default_cache_dir)
    merge_convolutions: bool = False
    rtol: float | None = None
    dump_dir: Path | None = None
    database: Path | None = None

    @property
    def is_placed(self) -> bool:
        """Whether no scheduler decides where operators run."""
        return self.schedule is not None or self.placement is not None

    @property
    def schedulable(self) -> tuple[str, ...]:
        """The devices, and their parts: all that a schedule may use."""
        names: list[str] = []
        for name in self.devices:
            is_divided = self.divide and cores_of(name) and name not in self.memory
            names += cpu_divisions(name) if is_divided else [name]
        if self.costs is not None:  # perhaps of another machine, and of fewer sizes
            models = self.costs.latency.keys()
            names = [n for n in names if n in self.devices or cpu_model_name(n) in models]
        return tuple(dict.fromkeys(names))

    def __post_init__(self) -> None:
        if isinstance(self.devices, str):
            raise UsageError(f"devices are a tuple of names, such as {(self.devices,)}")
        if len(set(self.devices)) < len(self.devices):
            raise UsageError(f"devices are named twice in {', '.join(self.devices)}")
        options_of(self.scheduler, **self.scheduler_options)
        if self.objective == "throughput":
            self._check_throughput()
        if self.merge_convolutions and (self.costs is not None or self.is_placed):
            raise UsageError(
                "merging convolutions takes costs of both networks, measured now: give neither "
                "costs nor a schedule"
            )
        if self.placement is not None:
            self._check_placement(self.placement)

    def _check_placement(self, placement: NodePlacement) -> None:
        if self.schedule is not None:
            raise UsageError("a schedule and a placement of nodes are given: leave one out")
        if len(self.devices) != len(placement.devices):
            raise UsageError(
                f"the model is placed on {placement}, and the devices are "
                f"{', '.join(self.devices)}: name {len(placement.devices)} in this order, for "
                "example --devices cpu@0,cpu@1, or schedule anew with --configuration none"
            )

    def _check_throughput(self) -> None:
        for name in self.devices:
            if not cores_of(name):
                raise UsageError(f"the objective throughput is for CPUs only, not for {name}")
        if self.is_placed or self.memory:
            raise UsageError(
                "the objective throughput chooses cores and schedules itself: give neither a "
                "schedule nor limits of memory"
            )


def devices_of_placement(placement: NodePlacement) -> tuple[str, ...]:
    """Return the devices that a placement itself names.

    Raises
    ------
    UsageError
        If its names are no names of devices.
    """
    try:
        check_devices(placement.devices)
    except (DeviceError, UsageError) as error:
        raise UsageError(
            f"the model is placed on {placement}: say which devices these are, in this order, for "
            "example --devices cpu@0,cpu@1"
        ) from error
    return placement.devices
