"""What a deployment machine runs: artifacts, loaded and checked, on their devices."""

from hios_tvm.runtime.load_session import load
from hios_tvm.runtime.memory import aligned_empty
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.runtime.session import Session
from hios_tvm.runtime.trace import RunTrace, Span, write_chrome_trace

__all__ = [
    "RunTrace",
    "Session",
    "Span",
    "aligned_empty",
    "load",
    "read_manifest",
    "write_chrome_trace",
]
