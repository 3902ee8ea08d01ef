"""Costs of an artifact's kernels on this machine, for a compiler that runs elsewhere.

    python -m hios_tvm.measuring.artifact_costs kernels.hios -o costs.json --devices cpu@0,cpu@1

needs what running an artifact needs, and nothing else. ``hios-tvm profile run`` is the same, and
`hios_tvm.measuring.kernel_export` makes artifacts for it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hios_tvm.errors import HiosError, UsageError
from hios_tvm.files import atomic_write
from hios_tvm.runtime.devices import KINDS, check_devices, kind_of
from hios_tvm.runtime.devices.cpu.cores import default_devices
from hios_tvm.runtime.read_artifact import open_artifact
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import split_devices
from hios_tvm.schema.graph import OperatorGraph

Progress = Callable[[int, int], None]


def measure_artifact(
    path: str | os.PathLike[str],
    devices: Sequence[str] = (),
    *,
    verify_key: str | os.PathLike[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[CostTable, OperatorGraph | None]:
    """Measure the kernels of an artifact, and the devices.

    Parameters
    ----------
    path : path
        From ``hios-tvm profile export``, or any other artifact.
    devices : sequence of str
        Devices of this machine, such as ``cpu@0`` and ``cpu@1``, or ``cuda:0`` and ``cuda:1``; by
        default all cores as one.
    verify_key : path, optional
        As in `load`.
    progress : function, optional
        Called with the kernels done and the kernels in all.

    Returns
    -------
    CostTable
        The time of each operator on each device model, what a transfer between two devices takes,
        and how independent they are. Stream groups are not measured together: which ones matter
        only a scheduler knows, and it uses the analytic model.
    OperatorGraph or None
        The graph of the operators, where the artifact has it.

    Raises
    ------
    ArtifactError
        If the file is damaged, or was made for another TVM or CPU.
    DeviceError
        If this process may not use a device.
    UsageError
        If a core belongs to two devices, or CPUs and GPUs are named.
    """
    names = list(devices) or list(default_devices())
    kind, *others = {kind_of(name).kind for name in names}
    if others:
        raise UsageError("CPUs and GPUs are measured one after the other: name one kind of device")
    check_devices(names)
    artifact = open_artifact(path, verify_key=verify_key)
    return KINDS[kind].measure(artifact, names, progress), artifact.manifest.graph


def write_costs(costs: CostTable, graph: OperatorGraph | None, path: Path) -> None:
    """Write a cost file: it is there whole, or not at all."""
    with atomic_write(path) as file:
        file.write(costs.to_json(graph).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hios_tvm.measuring.artifact_costs")
    parser.add_argument("artifact", help="from hios-tvm profile export, or any other artifact")
    parser.add_argument("-o", "--output", type=Path, default=Path("costs.json"))
    parser.add_argument("--devices", default="", help="for example cpu@0,cpu@1 or cuda:0")
    parser.add_argument("--verify-key", help="Ed25519 public key that must have signed it")
    options = parser.parse_args(arguments)
    devices = split_devices(options.devices)
    try:
        costs, graph = measure_artifact(options.artifact, devices, verify_key=options.verify_key)
        write_costs(costs, graph, options.output)
    except HiosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
