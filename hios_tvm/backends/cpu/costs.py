"""Costs of a lowered network, measured on this machine or remembered from an earlier compile."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from tvm.ir import IRModule
from tvm.target import Target

from hios_tvm.backends.cache import CostCache
from hios_tvm.backends.cpu.codegen import compile_kernels, kernel_key
from hios_tvm.backends.cpu.features import cpu_features
from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.interface import PhaseProgress
from hios_tvm.backends.precisions import precision_of
from hios_tvm.errors import CostError
from hios_tvm.runtime.devices.cpu.bench import ColdMemory
from hios_tvm.runtime.devices.cpu.cores import available_features
from hios_tvm.runtime.devices.cpu.kernels import COLD_BYTES, measure_joint, measure_kernels
from hios_tvm.runtime.devices.kernel_calls import KernelCall, kernel_call
from hios_tvm.runtime.machine import device_fingerprint
from hios_tvm.schema.costs import CostTable, Measurement, StageKey
from hios_tvm.schema.device_names import parse_cores
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform


def collect_costs(
    mod: IRModule,
    graph: OperatorGraph,
    target: Target,
    platform: Platform,
    *,
    cache: CostCache | None = None,
    kernel_dir: Path | None = None,
    progress: PhaseProgress = lambda phase, done, total: None,
) -> CostTable:
    """Measure every operator on every device model of `platform`, equal kernels once.

    Parameters
    ----------
    mod, graph
        A module after `CanonicalizeOperators`, and its operator graph.
    cache : CostCache, optional
        Where times are looked up first, and kept.
    kernel_dir : Path, optional
        Folder of compiled kernels.

    Returns
    -------
    CostTable
        Its `measure_stage` measures stream groups together when a scheduler asks for them.

    Raises
    ------
    CostError
        If this machine cannot run code for `target`.
    """
    laboratory = _Laboratory(mod, graph, target, platform, cache, kernel_dir, progress)
    latency, precision = laboratory.latencies(), precision_of(target)
    return CostTable(
        latency,
        precision={} if precision == "fp32" else dict.fromkeys(latency, precision),
        platform=platform,
        measure_stage=laboratory.stage,
    )


@dataclass
class _Laboratory:
    """What measuring needs; kernels are compiled when the first one is missing in the cache."""

    mod: IRModule
    graph: OperatorGraph
    target: Target
    platform: Platform
    cache: CostCache | None
    kernel_dir: Path | None
    progress: PhaseProgress
    _library: bytes | None = field(default=None, init=False)
    _cold: ColdMemory = field(default_factory=lambda: ColdMemory(COLD_BYTES), init=False)

    def __post_init__(self) -> None:
        fingerprint = device_fingerprint()
        self._key_of = {
            op.kernel: f"{kernel_key(self.mod[op.kernel], self.target)} {fingerprint}"
            for op in self.graph.operators
        }

    @property
    def models(self) -> dict[str, tuple[int, ...]]:
        """Cores of the first device of each model."""
        cores: dict[str, tuple[int, ...]] = {}
        for device in self.platform.devices:
            cores.setdefault(device.model, parse_cores(device.name))
        return cores

    def latencies(self) -> dict[str, dict[str, Measurement]]:
        """Time of each operator alone on a device, by the device's model and the operator."""
        call_of = {op.kernel: self._call(op.name) for op in self.graph.operators}
        models = self.models
        keys = {  # of a kernel on all models, and then the next: ratios are of times close together
            (kernel, model): f"kernel in shares of its cores {self._key_of[kernel]} {model}"
            for kernel in call_of
            for model in models
        }
        known = {} if self.cache is None else self.cache.get(keys.values())
        missing = [place for place, key in keys.items() if key not in known]
        if missing:
            times = measure_kernels(
                self._linked(),
                [(call_of[kernel], models[model]) for kernel, model in missing],
                progress=lambda done, total: self.progress("measure", done, total),
            )
            measured = {keys[place]: m for place, m in zip(missing, times, strict=True)}
            if self.cache is not None:
                self.cache.put(measured)
            known |= measured
        return {
            model: {op.name: known[keys[op.kernel, model]] for op in self.graph.operators}
            for model in models
        }

    def stage(self, model: str, groups: StageKey) -> Measurement | None:
        """Time of stream groups together on a device of `model`; None where none is here."""
        if model not in self.models:
            return None
        words = [[self._key_of[self.graph.operator[name].kernel] for name in g] for g in groups]
        digest = hashlib.sha256(repr(sorted(words)).encode()).hexdigest()[:32]
        key = f"stage with its hand-over {digest} {model}"
        if self.cache is not None and (known := self.cache.get([key])):
            return known[key]
        calls = [[self._call(name) for name in group] for group in groups]
        measured = measure_joint(self._linked(), self.models[model], calls, cold=self._cold)
        if self.cache is not None:
            self.cache.put({key: measured})
        return measured

    def _call(self, operator: str) -> KernelCall:
        return kernel_call(self.graph, operator)

    def _linked(self) -> bytes:
        """All kernels in one library, made once."""
        if self._library is None:
            missing = set(cpu_features(self.target)) - (available_features() or frozenset())
            if missing:
                raise CostError(
                    f"this machine cannot measure code for the target: its CPU lacks "
                    f"{', '.join(sorted(missing))}; measure on the target and give --costs"
                )
            objects = compile_kernels(
                self.mod,
                self.target,
                cache_dir=self.kernel_dir,
                progress=lambda done, total: self.progress("generate code", done, total),
            )
            self._library = link_library(objects.values(), self.target)
        return self._library
