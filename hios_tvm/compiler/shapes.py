"""One artifact with programs for several shapes of a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tvm.ir import IRModule

from hios_tvm.artifact.combine import combine
from hios_tvm.artifact.write import Build, temporary_artifact, write_described
from hios_tvm.backends.interface import PhaseProgress
from hios_tvm.compiler.compilation import Compilation
from hios_tvm.compiler.options import CompileOptions
from hios_tvm.compiler.pipeline import Planned, plan_model, with_cache
from hios_tvm.compiler.source import ModelSource
from hios_tvm.compiler.throughput_batch import compile_best_batch
from hios_tvm.errors import ModelError, UsageError
from hios_tvm.files import check_writable
from hios_tvm.frontends.shapes import SeveralShapes
from hios_tvm.passes.prove_batch import NotProven, prove_batch
from hios_tvm.runtime import load
from hios_tvm.runtime.choose_shape import FewerRows
from hios_tvm.schema.manifest import Batch, Verification
from hios_tvm.verification.deviation import Arrays
from hios_tvm.verification.verifier import NOT_ASKED_FOR, verify


def compile_shapes(
    source: ModelSource,
    several: SeveralShapes,
    output: str | os.PathLike[str],
    options: CompileOptions,
    *,
    name: str = "model",
    compared: bool = True,
    reproducer: Path | None = None,
    progress: PhaseProgress = lambda phase, done, total: None,
) -> Compilation:
    """Compile a model for several shapes of its inputs, and write one artifact.

    Each shape is measured, scheduled and verified as `compile_model` does, through the artifact
    that is written. Where the sizes of a batch are a range, it is proven that its rows are computed
    apart; else only the sizes that have programs can be run, and a note says why. With the
    objective throughput there is one size, the best one.

    Parameters
    ----------
    source : ModelSource
        The model; `several` stands for its shapes.
    several : SeveralShapes
    output, options, name, reproducer
        As for `compile_model`.
    compared : bool
        Whether to compare each shape with the model's reference.

    Returns
    -------
    Compilation
        Of the largest shape, with `others`.

    Raises
    ------
    UsageError
        If options are for one shape: costs, a schedule. Also as `compile_model`.
    """
    output = Path(output)
    if options.costs is not None or options.schedule is not None:
        raise UsageError("costs and schedules are of one shape: give neither for several shapes")
    if isinstance(source.model, IRModule):
        raise UsageError("a Relax module has one shape: give an ONNX model for several shapes")
    check_writable(output)
    with with_cache(options) as options:
        sources = [replace(source, shapes=shape) for shape in several.shapes]
        modules = [one.module() for one in sources]
        if options.objective == "throughput":
            return compile_best_batch(
                source,
                several,
                modules,
                output,
                options,
                name=name,
                compared=compared,
                reproducer=reproducer,
                progress=progress,
            )
        batch, notes = find_batch(source, several, modules, progress)
        planned = [
            plan_model(module, options, name, compared=compared, progress=progress)
            for module in modules
        ]
        combined = combine([one.build for one in planned], batch)
        verifications = [NOT_ASKED_FOR] * len(planned)
        if compared:
            with planned[0].phases("verify"):
                verifications = _verify(
                    combined, planned, sources, modules, output, reproducer, several, batch
                )
        builds = [
            one.described(verification)
            for one, verification in zip(planned, verifications, strict=True)
        ]
        with planned[0].phases("write"):
            manifest = write_described(combine(builds, batch), output)
    first, *others = (
        one.compilation(output, build.manifest) for one, build in zip(planned, builds, strict=True)
    )
    notes += [note for other in others for note in other.notes]
    return replace(
        first, manifest=manifest, others=tuple(others), notes=tuple(dict.fromkeys(notes))
    )


def find_batch(
    source: ModelSource,
    several: SeveralShapes,
    modules: Sequence[IRModule],
    progress: PhaseProgress = lambda phase, done, total: None,
) -> tuple[Batch | None, list[str]]:
    """Prove that the rows of the batch are computed apart; or return a note that says why not.

    Each size is compared with the next larger one that has a program, also where it has one itself:
    a server joins requests into batches of any size.
    """
    if not several.batch:
        return None, []
    outputs: dict[str, int] = {}
    pairs = [
        (rows, shape, module)
        for shape, module in zip(several.shapes, modules, strict=True)
        for rows in several.rows
        if rows < several.rows_of(shape) and several.next_program(shape, rows + 1) == shape
    ]
    for done, (rows, shape, module) in enumerate(pairs):
        progress("prove", done, len(pairs))
        try:
            smaller = replace(source, shapes=several.with_rows(shape, rows)).module()
            outputs |= prove_batch(smaller, module, several.batch)
        except (NotProven, ModelError) as reason:
            return None, [
                "only the sizes that have programs can be run: that the rows of a batch are "
                f"computed apart was not proven for {rows} of them, {reason}"
            ]
    return Batch(dict(several.batch), outputs, several.rows[0], several.rows[-1]), []


def _verify(
    combined: Build,
    planned: Sequence[Planned],
    sources: Sequence[ModelSource],
    modules: Sequence[IRModule],
    output: Path,
    reproducer: Path | None,
    several: SeveralShapes,
    batch: Batch | None,
) -> list[Verification]:
    """Verify each shape through the artifact of all, and a smaller batch than each has."""

    def run(draws: Sequence[Arrays]) -> tuple[Arrays, ...]:
        with temporary_artifact(combined, output) as path:
            session = load(path)
        with session:
            return tuple(session.run(inputs) for inputs in draws)

    verifications = []
    for one, source, module, shape in zip(planned, sources, modules, several.shapes, strict=True):
        search = one.search(reproducer)
        reference = source.reference(module)
        found = verify(one.build, output, module, reference, search, run)
        rows = None if batch is None else several.without_program(shape)
        if found.verified and batch is not None and rows is not None:
            fewer = FewerRows(batch, one.build.manifest, rows)
            manifest = replace(
                one.build.manifest, inputs=tuple(fewer.inputs), outputs=tuple(fewer.outputs)
            )
            smaller = replace(source, shapes=several.with_rows(shape, rows))
            reference = smaller.reference(module)
            verify(replace(one.build, manifest=manifest), output, module, reference, search, run)
            found = replace(found, notes=(*found.notes, f"a batch of {rows} was compared, too"))
        verifications.append(found)
    return verifications
