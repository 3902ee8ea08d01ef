"""What the GPUs of an architecture can do at most, for estimates and tile sizes."""

from dataclasses import dataclass

from hios_tvm.errors import UsageError
from hios_tvm.schema.precisions import Precision


@dataclass(frozen=True)
class GpuModel:
    """The largest GPU of an architecture, from its maker's data sheet.

    `lanes` are single-precision multiply-adds that a multiprocessor does in a cycle; `fp16_lanes`
    those of its tensor cores, and `tf32_lanes`, where it has such.
    """

    name: str
    multiprocessors: int
    lanes: int
    clock_ghz: float
    bandwidth_gb_s: float
    fp16_lanes: int
    tf32_lanes: int | None

    @property
    def copies_asynchronously(self) -> bool:
        """Whether threads can copy to shared memory while they compute: from sm_80 on, as TF32."""
        return self.tf32_lanes is not None

    def gflops(self, precision: Precision = "fp32") -> float:
        """Return the peak, a multiply-add as two operations.

        >>> round(gpu_model("sm_80").gflops("tf32") / 1000)
        156

        Raises
        ------
        UsageError
            If the architecture has no tensor cores for `precision`.
        """
        known = {"fp32": self.lanes, "tf32": self.tf32_lanes, "fp16": self.fp16_lanes}
        lanes = known.get(precision)
        if lanes is None:
            raise UsageError(
                f"{self.name} and GPUs like it have no tensor cores for {precision}: it takes "
                "sm_80 or later"
            )
        return 2.0 * self.multiprocessors * lanes * self.clock_ghz


_MODELS = {
    70: GpuModel("V100", 80, 64, 1.53, 900.0, 512, None),
    75: GpuModel("T4", 40, 64, 1.59, 320.0, 512, None),
    80: GpuModel("A100", 108, 64, 1.41, 1555.0, 1024, 512),
    86: GpuModel("A40", 84, 128, 1.74, 696.0, 512, 256),
    89: GpuModel("L40", 142, 128, 2.49, 864.0, 512, 256),
    90: GpuModel("H100", 132, 128, 1.98, 3350.0, 2048, 1024),
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
