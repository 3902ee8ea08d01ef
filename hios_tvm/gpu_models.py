"""What the GPUs of an architecture can do at most, for estimates and tile sizes."""

from __future__ import annotations

from dataclasses import dataclass

from hios_tvm.errors import UsageError

__all__ = ["GpuModel", "gpu_model"]


@dataclass(frozen=True)
class GpuModel:
    """The largest GPU of an architecture, from its maker's data sheet.

    `lanes` are single-precision multiply-adds that a multiprocessor does in a cycle.
    """

    name: str
    multiprocessors: int
    lanes: int
    clock_ghz: float
    bandwidth_gb_s: float

    @property
    def gflops(self) -> float:
        """Peak of single precision, a multiply-add as two operations."""
        return 2.0 * self.multiprocessors * self.lanes * self.clock_ghz


_MODELS = {
    70: GpuModel("V100", 80, 64, 1.53, 900.0),
    75: GpuModel("T4", 40, 64, 1.59, 320.0),
    80: GpuModel("A100", 108, 64, 1.41, 1555.0),
    86: GpuModel("A40", 84, 128, 1.74, 696.0),
    89: GpuModel("L40", 142, 128, 2.49, 864.0),
    90: GpuModel("H100", 132, 128, 1.98, 3350.0),
}


def gpu_model(arch: str) -> GpuModel:
    """Return the model for an architecture, or the newest one before it.

    >>> gpu_model("sm_80").name, gpu_model("sm_90a").name, gpu_model("sm_100").name
    ('A100', 'H100', 'H100')

    Raises
    ------
    UsageError
        If `arch` is older than all of them.
    """
    version = int("".join(filter(str.isdigit, arch)) or 0)
    known = [architecture for architecture in _MODELS if architecture <= version]
    if not known:
        raise UsageError(
            f"GPUs of architecture {arch!r} are too old: sm_70 and later are supported"
        )
    return _MODELS[max(known)]
