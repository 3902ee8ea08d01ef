"""What all rules for CPUs have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from tvm import tirx

from hios_tvm.passes.schedule_kernels import Scheduled


@dataclass(frozen=True)
class VectorRule(ABC):
    """A rule that writes out kernels for the vectors of one CPU.

    Attributes
    ----------
    lanes : int
        Floats in a vector.
    registers : int
        Vector registers of the CPU.
    """

    lanes: int
    registers: int

    @abstractmethod
    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | Scheduled | None:
        """Return `func` with other loops and the same results, or None if another rule has to."""
