"""A scheduling problem as data: a graph, its costs and a platform, and the files that hold them.

Two formats are read, each also compressed by gzip. A *cost file* is the JSON of a cost table with
the operator graph beside it (``hios-tvm compile --save-costs`` writes it). A *plain graph* is what
people and other programs write by hand (`hios_tvm.schema.plain_graph`).
"""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from hios_tvm.errors import ArtifactError, CostError, GraphError, UsageError
from hios_tvm.files import atomic_write
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.plain_graph import read_plain_graph
from hios_tvm.schema.platform import Device, Link, Platform
from hios_tvm.schema.strict_json import parse

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_UNPACKED = 64 << 20  # bytes: compressed files may unpack to a thousand times their size


@dataclass(frozen=True)
class Instance:
    """A graph to schedule, what everything costs, and the devices to schedule it on."""

    graph: OperatorGraph
    costs: CostTable
    platform: Platform

    def on(self, count: int, *, streams: int | None = None, link: Link | None = None) -> Instance:
        """Return the same graph on `count` equal, independent devices, with the first's memory.

        Parameters
        ----------
        streams : int, optional
            Stream groups of a stage; by default as many as the first device had.
        link : Link, optional
            Between all devices, for edges whose transfer time is not in the table; by default the
            platform's.

        Raises
        ------
        UsageError
            If `count` is not positive, or the table has costs of several device models.
        """
        if count < 1:
            raise UsageError(f"a schedule needs at least one device, got {count}")
        models = list(self.costs.latency)
        if len(models) != 1:
            raise UsageError(
                f"the costs are of the device models {', '.join(models) or 'none'}: the number of "
                "devices can be changed where there is one"
            )
        first = self.platform.devices[0]
        devices = tuple(
            Device(f"device{i}", models[0], streams or first.streams, first.memory_bytes)
            for i in range(count)
        )
        return replace(
            self, platform=Platform(devices, default_link=link or self.platform.default_link)
        )

    def to_json(self) -> str:
        """Return the cost table with the graph beside it; `CostTable.from_json` reads it too."""
        return replace(self.costs, platform=self.platform).to_json(self.graph)

    def save(self, path: Path) -> None:
        """Write `to_json` to `path`, compressed where its name ends in ``.gz``."""
        data = self.to_json().encode()
        if path.suffix == ".gz":
            # Without name and time, so that equal content makes equal files.
            data = gzip.compress(data, mtime=0)
        with atomic_write(path) as file:
            file.write(data)


def read_instance(path: Path, *, devices: int | None = None) -> Instance:
    """Read a cost file that holds its graph, or a plain graph.

    Parameters
    ----------
    devices : int, optional
        Number of devices, in place of those in the file.

    Raises
    ------
    GraphError, CostError
        If the file is neither, or what it says cannot be.
    UsageError
        If neither the file nor `devices` says how many devices there are.
    """
    try:
        data = parse(_read(path), constants=True)
    except ArtifactError as error:
        raise GraphError(f"{path} is {error}") from error
    if isinstance(data, dict) and "latency" in data:
        instance = _from_cost_file(path, data)
        return instance if devices is None else instance.on(devices)
    name = path.name.removesuffix(".gz").removesuffix(".json")
    graph, costs, count = read_plain_graph(data, name=name)
    if devices is None and count is None:
        raise UsageError(f'{path} has no "num_devices"; give --devices')
    return Instance(graph, costs, Platform.uniform(1)).on(devices or count or 1)


def read_costs(path: Path) -> CostTable:
    """Read the costs of a cost file, with or without a graph, perhaps compressed.

    Raises
    ------
    CostError
        If the file is something else.
    """
    return CostTable.from_json(_read(path))


def _from_cost_file(path: Path, data: object) -> Instance:
    costs, graph = CostTable.from_data(data)
    if graph is None:
        raise CostError(
            f"{path} has costs, but not their graph; write it again with hios-tvm compile "
            "--save-costs"
        )
    if costs.platform is None:
        raise CostError(f"{path} does not say on which devices its times were measured")
    return Instance(graph, costs, costs.platform)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if not data.startswith(_GZIP_MAGIC):
            return data
        with gzip.open(io.BytesIO(data)) as file:
            unpacked = file.read(_MAX_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise GraphError(f"cannot read {path}: {error}") from error
    if len(unpacked) > _MAX_UNPACKED:
        raise GraphError(f"{path} unpacks to more than {_MAX_UNPACKED >> 20} MiB")
    return unpacked
