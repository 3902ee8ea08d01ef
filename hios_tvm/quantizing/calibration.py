"""Inputs for calibration: NumPy files in a folder, some of which are held out for the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hios_tvm.errors import InputError, UsageError
from hios_tvm.runtime.numpy_files import read_numpy
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.graph import Tensor

Feeds = Mapping[str, np.ndarray]
"""The inputs of one run, by name."""

_SUFFIXES = (".npy", ".npz")
_HELD_OUT = 5  # every fifth run


@dataclass(frozen=True)
class RunsOfFile:
    """The runs that a file has inputs for, counted from 0, and those of them that are meant."""

    file: Path
    chosen: tuple[int, ...]


@dataclass(frozen=True)
class CalibrationSet:
    """Inputs of several runs, which stay in their files until they are needed."""

    inputs: tuple[Tensor, ...]
    files: tuple[RunsOfFile, ...]

    def __len__(self) -> int:
        return sum(len(file.chosen) for file in self.files)

    def __iter__(self) -> Iterator[Feeds]:
        for file in self.files:
            arrays = _read(file.file, self.inputs) if file.chosen else {}
            for run in file.chosen:
                yield {spec.name: _part(arrays[spec.name], spec, run) for spec in self.inputs}

    def split(self) -> tuple[CalibrationSet, CalibrationSet]:
        """Return the runs to calibrate with, and those to report on: every fifth, at least one.

        Raises
        ------
        UsageError
            If there are fewer than two.
        """
        if len(self) < 2:
            folder = self.files[0].file.parent
            raise UsageError(
                f"{folder}: has inputs for one run: give at least two, as every fifth run is held "
                "out to report the accuracy on"
            )
        period = min(_HELD_OUT, len(self))
        return self._where(lambda i: i % period != period - 1), self._where(
            lambda i: i % period == period - 1
        )

    def _where(self, keeps: Callable[[int], bool]) -> CalibrationSet:
        """Return the runs whose number in the whole set is kept."""
        files, before = [], 0
        for file in self.files:
            chosen = tuple(run for run in file.chosen if keeps(before + run))
            files.append(RunsOfFile(file.file, chosen))
            before += len(file.chosen)
        return CalibrationSet(self.inputs, tuple(files))


def read_calibration(
    folder: Path,
    inputs: Sequence[Tensor],
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> CalibrationSet:
    """Look at all files of a folder, and check that a model can run on them.

    Files are ``.npz`` with an array for each input, or ``.npy`` for a model with one input. An
    array is as large as the input, or holds several runs one after another along its first axis:
    float32 [50, 3, 224, 224] are 50 runs of an input [1, 3, 224, 224].

    Raises
    ------
    UsageError
        If there is no such file, or one cannot be read.
    InputError
        If an input is missing, of another type or shape, or not finite.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder; give one with .npy or .npz files")
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    found = []
    for i, file in enumerate(files):
        progress("read inputs", i, len(files))
        found.append(RunsOfFile(file, tuple(range(_count_runs(file, inputs)))))
    if not any(file.chosen for file in found):
        raise UsageError(
            f"{folder}: has no inputs in {' or '.join(_SUFFIXES)} files; write some of those that "
            "the model will see in use, such as np.savez('0.npz', NAME=array)"
        )
    progress("read inputs", len(files), len(files))
    return CalibrationSet(tuple(inputs), tuple(found))


def _count_runs(file: Path, inputs: Sequence[Tensor]) -> int:
    arrays = _read(file, inputs)
    counts = {spec.name: _runs_in(file, arrays[spec.name], spec) for spec in inputs}
    if len(set(counts.values())) > 1:
        words = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise InputError(f"{file}: its arrays are for different numbers of runs: {words}")
    return next(iter(counts.values()), 0)


def _read(file: Path, inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; others than inputs, such as labels, do no harm."""
    arrays = read_numpy(file)
    if isinstance(arrays, np.ndarray):
        if len(inputs) != 1:
            names = ", ".join(spec.name for spec in inputs)
            raise InputError(
                f"{file}: has one array, the model {len(inputs)} inputs: write .npz files with "
                f"{names}"
            )
        return {inputs[0].name: arrays}
    for spec in inputs:
        if spec.name not in arrays:
            raise InputError(
                f"{file}: input {spec.name!r} is missing; the file has {', '.join(arrays)}"
            )
    return arrays


def _runs_in(file: Path, array: np.ndarray, spec: Tensor) -> int:
    """Return how many runs an array holds."""
    rows = spec.shape[0] if spec.shape else 1
    fits = array.shape == spec.shape or (
        rows > 0
        and bool(spec.shape)
        and array.ndim == len(spec.shape)
        and array.shape[1:] == spec.shape[1:]
        and array.shape[0] % rows == 0
    )
    if array.dtype != numpy_dtype(spec.dtype) or not fits:
        raise InputError(
            f"{file}: {spec.name!r} is {array.dtype} {list(array.shape)}, not {spec.dtype} "
            f"{list(spec.shape)} or several of these along the first axis"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{file}: {spec.name!r} holds NaN or infinity")
    return 1 if array.shape == spec.shape else array.shape[0] // rows


def _part(array: np.ndarray, spec: Tensor, run: int) -> np.ndarray:
    if not spec.shape:
        return array
    rows = spec.shape[0]
    return np.ascontiguousarray(array[run * rows : (run + 1) * rows])
