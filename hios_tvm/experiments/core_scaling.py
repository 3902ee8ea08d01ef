"""Networks on more cores than they were measured on: how kernels scale is declared here.

A kernel takes ``serial + parallel / cores + barrier * log2(cores)``: Amdahl's law, and a barrier at
which its cores wait for each other. Where a kernel was measured on one core and on more, the two
times say how much of it is parallel; elsewhere `ScalingModel.parallel_share` does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hios_tvm.errors import CostError, UsageError
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.device_names import cpu_divisions, cpu_model_name, parse_cores
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.platform import Device, Link, Platform

SETUPS = ("one device", "single cores", "halves", "choice")
"""All cores as one device; fixed devices of one core, or of half of them; any, by operator."""


@dataclass(frozen=True, kw_only=True)
class ScalingModel:
    """What is assumed where nothing was measured.

    Attributes
    ----------
    parallel_share : float
        Part of the time of a kernel on one core that more cores divide, in [0, 1].
    barrier_ms : float
        What the cores of a kernel wait for each other, for each doubling of their number.
    hand_over_ms : float
        From the end of an operator on one device to the start of its consumer on another.
    independence : float
        Speed of a core while another one is busy, relative to its speed alone. Each further core
        costs as much time again.
    """

    parallel_share: float = 0.95
    barrier_ms: float = 0.002
    hand_over_ms: float = 0.001
    independence: float = 0.97

    def __post_init__(self) -> None:
        if not 0.0 <= self.parallel_share <= 1.0 or not 0.0 < self.independence <= 1.0:
            raise UsageError(
                "parallel_share must be in [0, 1] and independence in (0, 1], got "
                f"{self.parallel_share} and {self.independence}"
            )

    def ms(self, measured: Mapping[int, float], cores: int) -> float:
        """Return the time of a kernel on `cores` cores.

        Parameters
        ----------
        measured : cores -> ms
            One core is among them. The largest number of cores says what share is parallel.

        Examples
        --------
        >>> model = ScalingModel(parallel_share=0.5, barrier_ms=0.0)
        >>> model.ms({1: 8.0}, 4), model.ms({1: 8.0, 2: 5.0}, 4)
        (5.0, 3.5)
        """
        if cores in measured:
            return measured[cores]
        share, most = self.parallel_share, max(measured)
        if most > 1 and measured[1] > 0.0:
            saved_ms = measured[1] + self._barrier_ms(most) - measured[most]
            share = min(1.0, max(0.0, saved_ms / (measured[1] * (1.0 - 1.0 / most))))
        return measured[1] * (1.0 - share + share / cores) + self._barrier_ms(cores)

    def _barrier_ms(self, cores: int) -> float:
        return self.barrier_ms * math.log2(cores)


def on_cores(instance: Instance, cores: int, setup: str, model: ScalingModel) -> Instance:
    """Return the network on a machine of `cores` equal cores with one memory.

    Parameters
    ----------
    instance : Instance
        With times of operators on the device model ``cpu/1``, and perhaps on wider ones.
    setup : str
        One of `SETUPS`: which devices there are.

    Raises
    ------
    CostError
        If an operator was not measured on one core.
    """
    names = cpu_divisions("cpu@0" if cores == 1 else f"cpu@0-{cores - 1}")
    widths = {"one device": [cores], "single cores": [1], "halves": [max(1, cores // 2)]}
    chosen = widths.get(setup, range(1, cores + 1))
    own = {name: parse_cores(name) for name in names if len(parse_cores(name)) in chosen}
    platform = Platform(
        tuple(Device(name, cpu_model_name(name), 1, cores=of) for name, of in own.items()),
        default_link=Link(model.hand_over_ms, math.inf),
        independence=1.0 / (1.0 + (cores - 1) * (1.0 / model.independence - 1.0)),
    )
    latency: dict[str, dict[str, Measurement]] = {device.model: {} for device in platform.devices}
    for op in instance.graph.operators:
        measured = {
            len(parse_cores(name)): instance.costs.latency_ms(op.name, cpu_model_name(name))
            for name in names
            if instance.costs.runs_on(op.name, cpu_model_name(name))
        }
        if 1 not in measured:
            raise CostError(f"operator {op.name!r} has no time on one core, device model cpu/1")
        for device in platform.devices:
            ms = model.ms(measured, device.width)
            source = "measured" if device.width in measured else "scaled"
            latency[device.model][op.name] = Measurement(ms, source=source)
    return Instance(instance.graph, CostTable(latency, platform=platform), platform)
