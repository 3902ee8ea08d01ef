"""Artifacts of several shapes whose manifests do not fit each other are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hand_made import make_manifest

from hios_tvm.errors import ArtifactError
from hios_tvm.runtime.check_manifest import check_shapes
from hios_tvm.schema.manifest import MAX_SHAPES, Batch, Manifest, Shapes, TensorSpec


def of_rows(rows: int, shapes: Shapes | None = None) -> Manifest:
    """A manifest of an input and an output, each with two entries for a row in the output."""
    return replace(
        make_manifest(),
        inputs=(TensorSpec("x", "x", (rows, 3), "float32"),),
        outputs=(TensorSpec("y", "y", (4, 2 * rows), "float32"),),
        entries={},
        shapes=shapes,
    )


BATCH = Batch({"x": 0}, {"y": 1}, 1, 8)


def test_shapes_of_one_model_are_accepted() -> None:
    check_shapes([of_rows(8, Shapes(("a", "b"), BATCH)), of_rows(4), of_rows(1)])
    check_shapes([of_rows(8)])


def with_batch(batch: Batch) -> list[Manifest]:
    return [of_rows(8, Shapes(("a",), batch)), of_rows(4)]


def with_other(change: Callable[[Manifest], Manifest]) -> list[Manifest]:
    return [of_rows(8, Shapes(("a",), BATCH)), change(of_rows(4))]


CASES: dict[str, tuple[list[Manifest], str]] = {
    "equal shapes": (with_other(lambda _: of_rows(8)), "two of its shapes are equal"),
    "shapes in shapes": (with_other(lambda _: of_rows(4, Shapes((), None))), "entries of its own"),
    "entries": (with_other(lambda m: replace(m, entries={"a": "b"})), "entries of its own"),
    "another input": (
        with_other(lambda m: replace(m, inputs=(TensorSpec("z", "x", (4, 3), "float32"),))),
        "different inputs",
    ),
    "another rank": (
        with_other(lambda m: replace(m, outputs=(TensorSpec("y", "y", (8,), "float32"),))),
        "different outputs",
    ),
    "half a row": (
        with_other(lambda m: replace(m, outputs=(TensorSpec("y", "y", (4, 6), "float32"),))),
        "not as many entries for each row",
    ),
    "no axis": (with_batch(replace(BATCH, inputs={"x": 2})), "'x' has no axis 2"),
    "no tensor": (with_batch(replace(BATCH, outputs={"z": 0})), "'z' has no axis 0"),
    "no input": (with_batch(replace(BATCH, inputs={})), "of no input"),
    "no sizes": (with_batch(replace(BATCH, smallest=9)), "its batch has no sizes"),
    "too many": ([of_rows(rows) for rows in range(1, MAX_SHAPES + 2)], "it has 65 shapes"),
}


@pytest.mark.parametrize("case", CASES)
def test_shapes_that_do_not_fit_are_refused(case: str) -> None:
    manifests, problem = CASES[case]
    with pytest.raises(ArtifactError, match=problem):
        check_shapes(manifests)
