"""A job over many rows: its parts, which of them are done, and what a folder of outputs is of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hios_tvm.errors import InputError, UsageError
from hios_tvm.files import atomic_write, make_folder
from hios_tvm.runtime import Session
from hios_tvm.runtime.arguments import Array
from hios_tvm.schema.manifest import Manifest, TensorSpec
from hios_tvm.serving.map_files import count_rows, find_files, read_rows
from hios_tvm.serving.map_images import PLAIN, ImageOptions, pictures_in

MAX_PARTS = 100_000
_RECORD = "job.json"


@dataclass(frozen=True)
class RowsOfRun:
    """How many rows a run takes."""

    smallest: int
    largest: int

    @classmethod
    def of(cls, manifest: Manifest) -> RowsOfRun:
        """Read them from the manifest of an artifact's largest shape.

        Raises
        ------
        UsageError
            If its inputs and outputs have no axis of rows.
        """
        specs = (*manifest.inputs, *manifest.outputs)
        batch = None if manifest.shapes is None else manifest.shapes.batch
        if batch is not None:
            axes = {**batch.inputs, **{f"output {name}": i for name, i in batch.outputs.items()}}
            if len(axes) == len(specs) and not any(axes.values()):
                return cls(batch.smallest, batch.largest)
        extents = {spec.shape[0] if spec.shape else None for spec in specs}
        if len(extents) != 1 or None in extents or batch is not None:
            raise UsageError(
                f"{manifest.model!r} has no rows: the first axis of its inputs and outputs differs"
            )
        (rows,) = extents
        assert rows is not None
        return cls(rows, rows)


@dataclass(frozen=True)
class Part:
    """Rows of a file whose outputs become a file."""

    path: str
    start: int
    stop: int
    output: str


@dataclass(frozen=True)
class MapJob:
    """What is computed from which files.

    Attributes
    ----------
    artifact
        Its identity.
    files
        Name, size and time of change of each.
    images
        How pictures are read.
    """

    artifact: str
    files: tuple[tuple[str, int, int], ...]
    parts: tuple[Part, ...]
    images: ImageOptions = PLAIN

    @classmethod
    def plan(
        cls,
        artifact: str,
        inputs: Path,
        specs: Sequence[TensorSpec],
        rows_of_run: RowsOfRun,
        part_rows: int,
        images: ImageOptions = PLAIN,
    ) -> MapJob:
        """Look at the headers of all files, and divide them into parts of `part_rows` at most.

        Parts begin with whole runs, so that the same rows are always computed together.

        Raises
        ------
        UsageError, InputError
            If a file cannot be read, or does not fit the inputs.
        """
        step = max(part_rows // rows_of_run.largest, 1) * rows_of_run.largest
        files: list[tuple[str, int, int]] = []
        parts: list[Part] = []
        for path in find_files(inputs):
            path = path.resolve()
            rows = count_rows(path, specs)
            last = rows % rows_of_run.largest
            if 0 < last < rows_of_run.smallest:
                raise InputError(
                    f"{path}: has {rows} rows; {last} are left for the last run, which takes "
                    f"{rows_of_run.smallest} at least: compile with --shape NAME:1..N,..."
                )
            if len(parts) + rows // step > MAX_PARTS:
                raise UsageError(
                    f"{path}: has {rows} rows: they make more than {MAX_PARTS} files of outputs "
                    f"with --part-rows {part_rows}; raise it"
                )
            for file in pictures_in(path) if path.is_dir() else [path]:
                status = file.stat()
                files.append((file.name, status.st_size, status.st_mtime_ns))
            suffix = ".parquet" if path.suffix == ".parquet" else ".npz"
            parts += [
                Part(str(path), start, min(start + step, rows), f"{path.name}.{start:09d}{suffix}")
                for start in range(0, rows, step)
            ]
        return cls(artifact, tuple(files), tuple(parts), images)

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(part.stop - part.start for part in self.parts)

    def left(self, folder: Path) -> list[Part]:
        """Return the parts whose outputs are not in `folder` yet, which becomes this job's.

        Raises
        ------
        UsageError
            If the folder is another job's.
        """
        make_folder(folder)
        record = folder / _RECORD
        own = json.loads(json.dumps(asdict(self)))
        if record.exists():
            found = _read(record)
            different = [name for name in own if found.get(name) != own[name]]
            if different:
                raise UsageError(
                    f"{folder}: has outputs of another job (its {' and '.join(different)} differ): "
                    "name another folder"
                )
        else:
            with atomic_write(record) as file:
                file.write(json.dumps(own).encode())
        return [part for part in self.parts if not (folder / part.output).exists()]


def _read(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{record}: cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def run_part(
    session: Session, part: Part, rows_of_run: RowsOfRun, images: ImageOptions = PLAIN
) -> dict[str, Array]:
    """Return the outputs for all rows of a part.

    Raises
    ------
    UsageError, InputError
        If the file is gone, or a row of it cannot be run; the message names both.
    """
    path = Path(part.path)
    rows = part.stop - part.start
    inputs = read_rows(path, session.inputs, part.start, part.stop, images)
    outputs: dict[str, Array] = {}
    for start in range(0, rows, rows_of_run.largest):
        stop = min(start + rows_of_run.largest, rows)
        try:
            found = session.run({name: array[start:stop] for name, array in inputs.items()})
        except InputError as error:
            place = f"{path}, rows {part.start + start} to {part.start + stop - 1}"
            raise InputError(f"{place}: {error}") from error
        for name, array in found.items():
            each = array.shape[0] // (stop - start)  # entries of the output for a row
            if name not in outputs:
                outputs[name] = np.empty((rows * each, *array.shape[1:]), array.dtype)
            outputs[name][start * each : stop * each] = array
    return outputs
