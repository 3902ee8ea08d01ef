"""Options of sessions and runs, under ONNX Runtime's names."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CPU_PROVIDER = "CPUExecutionProvider"


class GraphOptimizationLevel(enum.IntEnum):
    """Accepted and without effect: a compiled model is always optimised."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(enum.IntEnum):
    """Accepted and without effect: the schedule says what runs at the same time."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


@dataclass
class SessionOptions:
    """Options of a session.

    `intra_op_num_threads` says how many cores are used (0: all), and
    `add_free_dimension_override_by_name` gives symbolic dimensions their values; everything else
    is accepted and has no effect.
    """

    intra_op_num_threads: int = 0
    inter_op_num_threads: int = 0
    execution_mode: ExecutionMode = ExecutionMode.ORT_SEQUENTIAL
    graph_optimization_level: GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL
    enable_cpu_mem_arena: bool = True
    enable_mem_pattern: bool = True
    enable_mem_reuse: bool = True
    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    use_deterministic_compute: bool = False
    free_dimensions: dict[str, int] = field(default_factory=dict)
    config_entries: dict[str, str] = field(default_factory=dict)

    def add_free_dimension_override_by_name(self, name: str, value: int) -> None:
        """Give the symbolic dimension `name` a value."""
        self.free_dimensions[name] = value

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Keep an entry; none has an effect."""
        self.config_entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        """Return an entry that was added."""
        return self.config_entries[key]


@dataclass
class RunOptions:
    """Options of a run; accepted and without effect."""

    log_severity_level: int = 2
    log_verbosity_level: int = 0
    logid: str = ""
    terminate: bool = False
    only_execute_path_to_fetches: bool = False


def get_available_providers() -> list[str]:
    """Return the names of what can run a model here."""
    return [CPU_PROVIDER]


def get_device() -> str:
    """Return the kind of device that sessions use."""
    return "CPU"


def warn_of_other_providers(providers: Sequence[Any] | None) -> None:
    """Warn of providers that are not available, as ONNX Runtime does; the CPU runs the model."""
    for provider in providers or ():
        name = provider if isinstance(provider, str) else provider[0]
        if name != CPU_PROVIDER:
            warnings.warn(
                f"provider {name!r} is not available: the model runs on the CPU; for GPUs, compile "
                "it with hios_tvm.compile(..., devices='cuda:0')",
                stacklevel=3,
            )
