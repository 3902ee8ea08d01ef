"""Many rows through an artifact, on the nodes of a Ray cluster: `hios-tvm map`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import ray
import ray.data

from hios_tvm.errors import ExecutionError, HiosError, InputError
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.runtime.read_artifact import read_manifests
from hios_tvm.serving.artifact_store import fetch, fetch_same, identity_of
from hios_tvm.serving.fleet_options import resources_of
from hios_tvm.serving.loading import load_source
from hios_tvm.serving.map_files import write_rows
from hios_tvm.serving.map_images import PLAIN, ImageOptions
from hios_tvm.serving.map_job import MapJob, Part, RowsOfRun, run_part
from hios_tvm.serving.model_source import ModelSource

LOCAL = "local"
_OBJECT_STORE_BYTES = 100 << 20  # rows do not pass through it: replicas read and write files


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """What is computed, and where; `part_rows` are in one file of outputs."""

    artifact: str
    inputs: Path
    outputs: Path
    part_rows: int
    images: ImageOptions = PLAIN
    address: str = LOCAL
    verify_key: Path | None = None


@dataclass(frozen=True)
class MapSummary:
    """Rows and files of a job, and how many of the files were there before."""

    rows: int
    files: int
    found: int


class _Mapper:
    """A replica: runs part after part."""

    def __init__(
        self,
        location: str,
        identity: str,
        verify_key: Path | None,
        parts: Sequence[Part],
        rows_of_run: RowsOfRun,
        images: ImageOptions,
        outputs: Path,
    ) -> None:
        path = fetch_same(location, identity)
        source = ModelSource(path.stem, "1", str(path))
        self._session = load_source(source, None, verify_key, count())
        self._parts = parts
        self._rows_of_run = rows_of_run
        self._images = images
        self._outputs = outputs

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Run the part of this index; what is wrong with its rows is returned."""
        part = self._parts[row["index"]]
        try:
            outputs = run_part(self._session, part, self._rows_of_run, self._images)
            write_rows(self._outputs / part.output, outputs)
        except HiosError as error:
            return {"rows": 0, "error": str(error)}
        return {"rows": part.stop - part.start, "error": ""}


def map_rows(
    options: MapOptions, progress: Callable[[str, int, int], None] = lambda *_: None
) -> MapSummary:
    """Write the outputs for all rows of all files; what is there already is kept.

    Parameters
    ----------
    options : MapOptions
    progress : callable
        Told of the rows that are done.

    Raises
    ------
    UsageError
        If a file cannot be read, or the folder is another job's.
    InputError
        If a file or a row does not fit the artifact's inputs.
    ArtifactError
        If the artifact cannot be used.
    ExecutionError
        If the cluster cannot run it.
    """
    path = fetch(options.artifact)
    manifest = read_manifests(path, verify_key=options.verify_key)[0]
    rows_of_run = RowsOfRun.of(manifest)
    identity = identity_of(path)
    job = MapJob.plan(
        identity, options.inputs, manifest.inputs, rows_of_run, options.part_rows, options.images
    )
    outputs = options.outputs.resolve()
    left = job.left(outputs)
    done = job.rows - sum(part.stop - part.start for part in left)
    summary = MapSummary(job.rows, len(job.parts), len(job.parts) - len(left))
    progress("map", done, job.rows)
    if left:
        needs = resources_of([[device.name for device in manifest.devices]])
        arguments = (
            *(options.artifact, identity, options.verify_key),
            *(left, rows_of_run, options.images, outputs),
        )
        with _cluster(options.address):
            for row in _run(len(left), needs, arguments):
                if row["error"]:
                    raise InputError(row["error"])
                done += row["rows"]
                progress("map", done, job.rows)
    return summary


def _run(parts: int, needs: dict[str, int], arguments: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Yield what replicas say of each part, when it is done."""
    replicas = max(1, min(int(ray.cluster_resources().get("CPU", 1)) // needs["num_cpus"], parts))
    rows = ray.data.from_items([{"index": i} for i in range(parts)], override_num_blocks=parts)
    done = rows.map(_Mapper, fn_constructor_args=arguments, concurrency=replicas, **needs)
    try:
        yield from done.iter_rows()
    except ray.exceptions.RayError as error:
        problem = str(error.cause if hasattr(error, "cause") else error).strip().split("\n")[-1]
        raise ExecutionError(f"the cluster gave up: {problem}") from error


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine; it ends with the block."""
    own = {
        "num_cpus": len(allowed_cores()),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(own if address == LOCAL else {}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ExecutionError(f"--address {address}: {str(error).strip()}") from error
    try:
        yield
    finally:
        ray.shutdown()
