"""Checks of the shapes of an artifact that has several, before anything of it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hios_tvm.errors import ArtifactError
from hios_tvm.schema.manifest import Batch, Manifest, TensorSpec

MAX_SHAPES = 64
"""Each has programs, and worker threads in every session."""


def check_shapes(manifests: Sequence[Manifest]) -> None:
    """Check that the manifests of an artifact are of one model, each of a shape of its own.

    Raises
    ------
    ArtifactError
        On the first rule that is broken.
    """
    first, *others = manifests
    _require(len(manifests) <= MAX_SHAPES, f"it has {len(manifests)} shapes")
    names = () if first.shapes is None else first.shapes.others
    entries = {name: digest for name, digest in first.entries.items() if name not in names}
    for other in others:
        _require(
            other.shapes is None and other.entries == entries,
            "a shape of it has entries of its own",
        )
        for kind, own, others_specs in (
            ("inputs", first.inputs, other.inputs),
            ("outputs", first.outputs, other.outputs),
        ):
            _require(_kinds(own) == _kinds(others_specs), f"its shapes have different {kind}")
    distinct = {tuple(manifest.shape.values()) for manifest in manifests}
    _require(len(distinct) == len(manifests), "two of its shapes are equal")
    batch = None if first.shapes is None else first.shapes.batch
    if batch is not None:
        _check_batch(batch, manifests)


def _kinds(specs: Iterable[TensorSpec]) -> list[tuple[str, str, int]]:
    return [(spec.name, spec.dtype, len(spec.shape)) for spec in specs]


def _check_batch(batch: Batch, manifests: Sequence[Manifest]) -> None:
    _require(1 <= batch.smallest <= batch.largest, "its batch has no sizes")
    _require(bool(batch.inputs), "its batch is of no input")
    for manifest in manifests:
        inputs = _extents(batch.inputs, manifest.inputs)
        _require(
            len(set(inputs.values())) == 1, "the inputs of a shape have batches of different sizes"
        )
        rows = next(iter(inputs.values()))
        outputs = _extents(batch.outputs, manifest.outputs)
        _require(
            rows > 0 and all(extent % rows == 0 for extent in outputs.values()),
            "an output has not as many entries for each row",
        )


def _extents(axes: Mapping[str, int], specs: Iterable[TensorSpec]) -> dict[str, int]:
    """Return the size of each tensor along its axis."""
    shapes = {spec.name: spec.shape for spec in specs}
    for name, axis in axes.items():
        _require(
            name in shapes and axis < len(shapes[name]), f"{name!r} has no axis {axis} for a batch"
        )
    return {name: shapes[name][axis] for name, axis in axes.items()}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ArtifactError(message)
