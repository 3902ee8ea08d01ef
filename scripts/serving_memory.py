"""Memory of the weights of one artifact, in sessions and processes that share it."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from hios_tvm.cli.options import print_table

SESSIONS = 8
_LOAD = """
import sys
import numpy as np
from hios_tvm.runtime import load
for session in (sessions := [load(sys.argv[1]) for _ in range(int(sys.argv[2]))]):
    session.run({spec.name: np.zeros(spec.shape, spec.dtype) for spec in session.inputs})
print("loaded", flush=True)
sys.stdin.read()
"""
_MAP = re.compile(r"^[0-9a-f]+-[0-9a-f]+ .*?(?: (/memfd:hios-weights).*)?$")


def measure_memory(artifact: Path) -> dict[str, float]:
    """Return MiB of weights: of one session, of 8 in a process, of 8 processes with one each."""
    found = {
        "one": _weights_mib(artifact, 1, 1),
        "sessions": _weights_mib(artifact, 1, SESSIONS),
        "processes": _weights_mib(artifact, SESSIONS, 1),
    }
    names = ["one session", f"{SESSIONS} in a process", f"{SESSIONS} processes"]
    cells = [[f"{mib:.1f}" for mib in found.values()]]
    print_table("proportional set size of weights, MiB", names, cells)
    return found


def _weights_mib(artifact: Path, processes: int, sessions: int) -> float:
    with ExitStack() as stack:
        started = []
        for _ in range(processes):
            process = subprocess.Popen(
                [sys.executable, "-c", _LOAD, str(artifact), str(sessions)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append(process)
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"a process with {artifact} ended")
        return sum(_pss_kib(process.pid) for process in started) / 1024


def _pss_kib(process: int) -> int:
    """Return what a process has of the memory that weights are in."""
    total, is_ours = 0, False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        if match := _MAP.match(line):
            is_ours = match[1] is not None
        elif is_ours and line.startswith("Pss:"):
            total += int(line.split()[1])
    return total
