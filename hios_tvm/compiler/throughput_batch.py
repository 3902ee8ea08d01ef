"""The batch of an artifact for many inputs: the one with the most rows per second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tvm.ir import IRModule

from hios_tvm.backends.interface import PhaseProgress
from hios_tvm.compiler.compilation import Compilation
from hios_tvm.compiler.options import CompileOptions
from hios_tvm.compiler.pipeline import Planned, compile_model, plan_model
from hios_tvm.compiler.source import ModelSource
from hios_tvm.compiler.throughput import plan_entrants
from hios_tvm.errors import UsageError
from hios_tvm.frontends.shapes import SeveralShapes


def compile_best_batch(
    source: ModelSource,
    several: SeveralShapes,
    modules: Sequence[IRModule],
    output: Path,
    options: CompileOptions,
    *,
    name: str,
    compared: bool,
    reproducer: Path | None,
    progress: PhaseProgress,
) -> Compilation:
    """Compile a model for many inputs, for the size of its batch that is predicted to be best.

    Each size that a program would be made for is measured, and the divisions of the cores are
    predicted for it; what has the least time for a row is compiled. `modules` are those of the
    shapes, other parameters are those of `compile_shapes`.

    Raises
    ------
    UsageError
        If more than the size of the batch is open.
    """
    if not several.batch or len({str(several.with_rows(s, 1)) for s in several.shapes}) > 1:
        raise UsageError(
            "the objective throughput is for one shape, or for the sizes of one batch: give one "
            "size for every other dimension"
        )
    plan_one = partial(plan_model, name=name, compared=compared, progress=progress)
    row_ms = [
        _interval_ms(partial(plan_one, module), options) / several.rows_of(shape)
        for module, shape in zip(modules, several.shapes, strict=True)
    ]
    best = min(range(len(row_ms)), key=row_ms.__getitem__)
    shape = several.shapes[best]
    one = replace(source, shapes=shape)
    compiled = compile_model(
        modules[best],
        output,
        options,
        name=name,
        reference=one.reference(modules[best]) if compared else None,
        reproducer=reproducer,
        progress=progress,
    )
    times = ", ".join(
        f"{several.rows_of(each)}: {ms:.3f} ms"
        for each, ms in zip(several.shapes, row_ms, strict=True)
    )
    note = f"batch of {several.rows_of(shape)}, by the predicted time of a row ({times})"
    return replace(compiled, notes=(note, *compiled.notes))


def _interval_ms(plan_one: Callable[..., Planned], options: CompileOptions) -> float:
    """Return the least predicted time from one result to the next."""
    entrants = plan_entrants(lambda options, make: plan_one(options, make=make), options)
    return min(entrant.predicted_ms for entrant in entrants)
