"""What a deployment machine runs: artifacts, loaded and verified, on their devices."""

from hios_tvm.runtime.memory import aligned_empty
from hios_tvm.runtime.session import Session, load

__all__ = ["Session", "aligned_empty", "load"]
