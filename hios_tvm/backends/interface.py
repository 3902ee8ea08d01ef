"""What a backend is: the functions that are written for each kind of device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from tvm.ir import IRModule
from tvm.ir.transform import Pass
from tvm.target import Target

from hios_tvm.backends.cache import CostCache
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.platform import UNLIMITED, Link
from hios_tvm.schema.precisions import Precision

if TYPE_CHECKING:
    from hios_tvm.backends.network import Network

PhaseProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and the steps in all."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the kernels done and the kernels in all."""


@dataclass(frozen=True)
class DeviceCode:
    """What an artifact holds for one device.

    Attributes
    ----------
    library : bytes
        A shared library of the host with the runtime's executor, and the kernels of CPUs.
    binary : bytes, optional
        Code that the device itself loads.
    launches : mapping
        How the runtime launches kernels of `binary`, by name.
    """

    library: bytes
    binary: bytes | None = None
    launches: Mapping[str, GpuKernel] = field(default_factory=dict)


@dataclass(frozen=True)
class CostRequest:
    """How costs are to be found.

    Attributes
    ----------
    link : Link
        What connects devices where copies between them cannot be measured.
    cache : CostCache, optional
        Where times may be looked up and kept.
    kernel_dir : Path, optional
        Folder of compiled kernels.
    progress : function
    """

    link: Link = UNLIMITED
    cache: CostCache | None = None
    kernel_dir: Path | None = None
    progress: PhaseProgress = lambda phase, done, total: None


class Backend(Protocol):
    """One kind of device; `hios_tvm.backends.BACKENDS` holds one object for each kind.

    Attributes
    ----------
    kind : str
        How names of devices begin: ``cpu`` of ``cpu@0``.
    target_kind : str
        TVM's name for the kind of target.
    precisions : tuple of Precision
        What its kernels can round the factors of convolutions and products to.
    """

    kind: str
    target_kind: str
    precisions: tuple[Precision, ...]

    def names_target(self, word: str) -> bool:
        """Whether `word`, of the option ``--target``, names a target of this backend."""

    def target(self, word: str | None, host: Target, precision: Precision) -> Target:
        """Return the target that `word` names, or that of this machine's first device.

        `host` is the target of the CPU beside the device.

        Raises
        ------
        UsageError
            If there is no such target, it lacks `precision`, or no device is here.
        """

    def own_passes(self, target: Target) -> list[Pass]:
        """Return passes on target-free kernels, for networks on devices of this kind alone."""

    def loops(self, target: Target, left: Collection[str] = ()) -> list[Pass]:
        """Return the passes that choose tiles and packed weights for target-free kernels.

        They leave the kernels whose names are `left` as they are.
        """

    def generate(
        self,
        kernels: Mapping[str, IRModule],
        target: Target,
        *,
        cache_dir: Path | None = None,
        progress: Progress = lambda done, total: None,
    ) -> dict[str, DeviceCode]:
        """Return the code of each device from the scheduled kernels that it calls.

        `cache_dir` keeps what was compiled.

        Raises
        ------
        CompileError
            If code cannot be generated; the message names the kernel.
        """

    def features(self, target: Target) -> tuple[str, ...]:
        """Return the CPU features that a machine must have to run the code, sorted."""

    def model(self, device: str, target: Target) -> str:
        """Return the key of costs: what devices have in common that run a kernel equally fast."""

    def costs(self, network: Network, devices: Sequence[str], request: CostRequest) -> CostTable:
        """Return the times of the network's operators on `devices`, which are all of this kind.

        They are measured where the devices are here. The table's platform has the devices in
        their order and the link between two of them, and its `measure_stage`, if any, answers None
        for models of other kinds.

        Raises
        ------
        CostError, DeviceError
            If devices are not here, and costs are not estimated for this kind.
        """
