"""Requests that one run answers: their inputs joined along the batch, and its outputs divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np

from hios_tvm.runtime import Session, aligned_empty
from hios_tvm.runtime.arguments import Array
from hios_tvm.schema.manifest import Batch

Arrays = Mapping[str, Array]


def joinable_batch(session: Session) -> Batch | None:
    """Return the batch of an artifact, if all its inputs and outputs have one."""
    batch = session.batch
    if batch is None:
        return None
    inputs, outputs = ({spec.name for spec in specs} for specs in (session.inputs, session.outputs))
    return batch if inputs == set(batch.inputs) and outputs == set(batch.outputs) else None


def rows_of(batch: Batch, inputs: Arrays) -> int:
    """Return the rows of a request."""
    return batch.rows({name: array.shape for name, array in inputs.items()})


def fit_together(batch: Batch, one: Arrays, other: Arrays) -> bool:
    """Whether two requests differ in nothing but their rows."""

    def without_rows(array: Array, axis: int) -> list[int]:
        return [*array.shape[:axis], *array.shape[axis + 1 :]]

    return all(
        without_rows(one[name], axis) == without_rows(other[name], axis)
        for name, axis in batch.inputs.items()
    )


def join(batch: Batch, requests: Sequence[Arrays]) -> dict[str, Array]:
    """Return the inputs of all requests, one after the other."""
    joined = {}
    for name, axis in batch.inputs.items():
        arrays = [inputs[name] for inputs in requests]
        shape = list(arrays[0].shape)
        shape[axis] = sum(array.shape[axis] for array in arrays)
        joined[name] = aligned_empty(shape, str(arrays[0].dtype))
        np.concatenate(arrays, axis, out=joined[name])
    return joined


def divide(batch: Batch, outputs: Arrays, rows: Sequence[int]) -> list[dict[str, Array]]:
    """Return the outputs of requests with so many rows each."""
    ends = list(accumulate(rows, initial=0))
    parts: list[dict[str, Array]] = [{} for _ in rows]
    for name, array in outputs.items():
        axis = batch.outputs[name]
        entries = array.shape[axis] // ends[-1]  # of the output, for each row
        for part, (start, end) in zip(parts, pairwise(ends), strict=True):
            place = (slice(None),) * axis + (slice(start * entries, end * entries),)
            part[name] = array[place]
    return parts
