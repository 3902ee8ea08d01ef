"""An artifact against a reference, before it is given away."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tvm.ir import IRModule
from tvm.target import Target

from hios_tvm.artifact.write import Build
from hios_tvm.backends.cpu.features import cpu_features
from hios_tvm.errors import (
    DeviceError,
    HiosError,
    InputError,
    ModelError,
    UsageError,
    VerificationError,
)
from hios_tvm.runtime.devices import HOST
from hios_tvm.schema.manifest import OutputError, Verification
from hios_tvm.schema.recipe import Recipe
from hios_tvm.verification.deviation import (
    SINGLE,
    Arrays,
    Deviation,
    rounded_numbers,
    tolerance_of,
)
from hios_tvm.verification.first_difference import (
    Difference,
    first_difference,
    first_wrong_layer,
)
from hios_tvm.verification.here import why_not_here
from hios_tvm.verification.inputs import LEAST_CHANGE, SEEDS, Draws, telling_draws
from hios_tvm.verification.integer_ranges import integer_ranges
from hios_tvm.verification.judgement import Judgement, judge
from hios_tvm.verification.parts import compiler_of_parts, run_draws
from hios_tvm.verification.reference import Reference
from hios_tvm.verification.reproducer import CompileWords, write_reproducer

NOT_ASKED_FOR = Verification(reason="it was compiled without a reference, as with --no-verify")

_MOST_KERNELS = 4  # in a message


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the first operator that differs is searched, should outputs differ.

    Attributes
    ----------
    devices : mapping of str to CompileWords
        Devices to compile parts of the model for, one of each kind that has work, and how a
        command compiles them alike.
    kernel_dir : Path, optional
        Folder that keeps compiled kernels.
    reproducer : Path, optional
        Folder to write the smallest model that differs into.
    rtol : float, optional
        Largest error that counts as equal, over the largest magnitude, in place of the usual one.
    """

    devices: Mapping[str, CompileWords]
    kernel_dir: Path | None = None
    reproducer: Path | None = None
    rtol: float | None = None


RunDraws: TypeAlias = Callable[[Sequence[Arrays]], tuple[Arrays, ...]]
"""Returns the outputs of an artifact for each of several inputs."""


def verify(
    build: Build,
    output: Path,
    mod: IRModule,
    reference: Reference,
    search: Search,
    run: RunDraws | None = None,
) -> Verification:
    """Run an artifact on two draws of random inputs and compare it with a reference.

    Parameters
    ----------
    build : Build
        The artifact.
    output : Path
        Where it will be written. A file beside it holds it for as long as it is loaded.
    run : function, optional
        Runs it where it is one shape of an artifact that has been loaded already.
    mod : IRModule
        The imported model, from which follows what its inputs may be.
    reference : Reference
    search : Search

    Returns
    -------
    Verification
        With the reason where the artifact, or the reference, cannot run here.

    Raises
    ------
    VerificationError
        If outputs differ; it names the first operator that does.
    """
    manifest = build.manifest
    reason = why_not_here(manifest, cpu_features(_host(manifest.recipe)))
    if reason is not None:
        return Verification(reason=reason)
    try:
        draws = telling_draws(manifest.inputs, integer_ranges(mod), reference.run)
    except (ModelError, UsageError) as error:
        return Verification(reason=str(error))
    try:
        outputs = run(draws.inputs) if run else run_draws(build, output, draws.inputs)
    except DeviceError as error:  # too little memory, or another process has the device
        return Verification(reason=str(error))
    except InputError as error:  # where the reference takes what is not valid
        return Verification(reason=f"no valid inputs were found: {error}")
    tolerance = tolerance_of(manifest.recipe, search.rtol)
    found = judge(outputs, draws.inputs, draws.expected, reference, tolerance)
    if found.wrong:
        raise _refusal(found, draws, reference, manifest.recipe, search)
    notes = _notes(found, draws, reference, manifest.recipe, search)
    if found.by_rule("spread"):
        notes += _check_layers(draws, reference, manifest.recipe, search)
    return _verification(found, draws, reference, notes)


def _host(recipe: Recipe) -> Target:
    """Return the target of the CPU that runs the programs."""
    targets = {kind: Target(json.loads(text)) for kind, text in recipe.targets.items()}
    return targets[HOST] if HOST in targets else next(iter(targets.values())).host


def _verification(
    found: Judgement, draws: Draws, reference: Reference, notes: Sequence[str]
) -> Verification:
    return Verification(
        verified=True,
        reason="",
        reference=reference.runner,
        seeds=SEEDS,
        scale=draws.scale,
        outputs=tuple(
            OutputError(one.output, one.max_error, found.allowed(one)) for one in found.deviations
        ),
        notes=tuple(notes),
    )


def _notes(
    found: Judgement, draws: Draws, reference: Reference, recipe: Recipe, search: Search
) -> list[str]:
    notes = [
        f"output {name!r} does not depend on the inputs: it changes by less than "
        f"{LEAST_CHANGE:g} of its magnitude"
        for name in draws.unchanged
    ]
    if search.rtol is not None:
        notes.append(f"errors of {search.rtol:g} are allowed, as was asked for")
    elif found.tolerance != SINGLE:
        notes.append(
            f"{', '.join(rounded_numbers(recipe))}: errors of {found.tolerance.rtol:g} are allowed"
        )
    for one in found.by_rule("one step"):
        notes.append(
            f"output {one.output!r} is quantized: {one.unequal} of {one.size} elements differ, by "
            f"one step, which is {one.step:.1e} of its largest magnitude"
        )
    for one in found.by_rule("spread"):
        spread = found.spread[one.output]
        notes.append(
            f"output {one.output!r} amplifies rounding: runs of {reference.runner} differ by "
            f"{spread.error:.1e} of its largest magnitude, in {spread.unequal} elements"
        )
    return notes


def _check_layers(draws: Draws, reference: Reference, recipe: Recipe, search: Search) -> list[str]:
    """Compare the quantized tensors of a model that amplifies rounding one by one.

    A step more or less in one tensor is several steps behind it, and what a wrong kernel adds to
    that would not show in the outputs.

    Raises
    ------
    VerificationError
        If one differs; it names the operator.
    """
    try:
        cut = reference.in_layers(draws.inputs)
    except ModelError as error:
        return [_not_by_layers(error)]
    if cut is None:
        return []
    layers, inputs = cut
    notes = []
    for device, words in search.devices.items():
        compile_and_run = compiler_of_parts(recipe, device, search.kernel_dir)
        tolerance = tolerance_of(recipe, search.rtol)
        try:
            found, difference = first_wrong_layer(layers, inputs, compile_and_run, tolerance)
        except HiosError as error:  # such as too little memory for the tensors of all layers
            notes.append(_not_by_layers(error))
            continue
        if found.wrong:
            raise _layer_refusal(found, difference, words, reference, search)
        notes += _layer_notes(found, reference, device)
    return notes


def _not_by_layers(error: HiosError) -> str:
    return f"quantized tensors were not compared one by one: {error}"


def _layer_notes(found: Judgement, reference: Reference, device: str) -> list[str]:
    steps = [one for one in found.deviations if one.step and found.rule(one) != "spread"]
    unequal, size = (sum(getattr(one, name) for one in steps) for name in ("unequal", "size"))
    notes = [
        f"{len(steps)} quantized tensors, each computed on {device} from {reference.runner}'s own "
        f"values before it, are within one step of its results: {unequal} of {size} elements differ"
    ]
    for one in found.by_rule("spread"):
        spread = found.spread[one.output]
        notes.append(
            f"{one.output!r} differs from these by {one.max_error:.1e} of its largest magnitude, "
            f"in {one.unequal} of {one.size} elements; runs of {reference.runner} by "
            f"{spread.error:.1e}, in {spread.unequal}"
        )
    return notes


def _layer_refusal(
    found: Judgement,
    difference: Difference | None,
    words: CompileWords,
    reference: Reference,
    search: Search,
) -> VerificationError:
    what = "; ".join(_distance(found, output) for output in found.wrong[:_MOST_KERNELS])
    message = (
        f"the artifact is wrong, and was not written: from {reference.runner}'s own values before "
        f"them, {len(found.wrong)} tensors differ: {what}"
    )
    if difference is None:
        return VerificationError(message)
    return _told(message, difference, words, reference, search)


def _refusal(
    found: Judgement, draws: Draws, reference: Reference, recipe: Recipe, search: Search
) -> VerificationError:
    """Search the first operator that differs, and say all that is known."""
    what = "; ".join(_distance(found, output) for output in found.wrong)
    message = f"the artifact is wrong, and was not written: {what} ({reference.runner})"
    try:
        searched = _search(draws, reference, recipe, search)
    except HiosError as error:
        return VerificationError(f"{message}. The first operator was not found: {error}")
    if searched is None:
        return VerificationError(
            f"{message}. Where all operators run one after another on one device, the model "
            "agrees: the fault is in the schedule, the plan of the memory, or the runtime"
        )
    return _told(message, *searched, reference, search)


def _told(
    message: str,
    difference: Difference,
    words: CompileWords,
    reference: Reference,
    search: Search,
) -> VerificationError:
    """Return the error that names the operator that differs, with a reproducer if asked for."""
    message += f". {_where(difference)}"
    advice = "--dump-reproducer FOLDER writes the smallest model that shows it, for a report"
    if search.reproducer is not None:
        advice = f"{search.reproducer} holds the smallest model that shows it: report it with that"
        try:
            write_reproducer(search.reproducer, difference, reference.runner, words, message)
        except UsageError as error:
            advice = str(error)
    return VerificationError(f"{message}. {advice}", operator=difference.step.operator)


def _search(
    draws: Draws, reference: Reference, recipe: Recipe, search: Search
) -> tuple[Difference, CompileWords] | None:
    """Return the first difference on any device, and how to compile it there."""
    for device, words in search.devices.items():
        compile_and_run = compiler_of_parts(recipe, device, search.kernel_dir)
        tolerance = tolerance_of(recipe, search.rtol)
        found = first_difference(reference, draws.inputs, compile_and_run, tolerance)
        if found is not None:
            return found, words
    return None


def _distance(found: Judgement, output: Deviation) -> str:
    if output.shapes is not None:
        own, expected = map(list, output.shapes)
        return f"output {output.output!r} has shape {own}, that of the reference {expected}"
    elements = f"{output.unequal} of {output.size} elements"
    if output.is_exact and not output.step:
        return f"output {output.output!r} differs from the reference in {elements}"
    if output.step:
        steps = output.max_error / output.step
        return (
            f"quantized output {output.output!r} differs from the reference by up to {steps:.0f} "
            f"steps, in {elements}"
        )
    return (
        f"output {output.output!r} differs from the reference by {output.max_error:.1e} of its "
        f"largest magnitude, {found.allowed(output):.1e} is allowed (--rtol)"
    )


def _where(difference: Difference) -> str:
    step = difference.step
    wrong = [found.output for found in difference.judgement.wrong if found.output in step.writes]
    computes = ", ".join(map(repr, wrong or step.writes))
    named = f" ({step.name})" if step.name and step.name not in step.writes else ""
    text = f"The first operator that differs is {step.operator}{named}, which computes {computes}"
    kernels = difference.kernels[-_MOST_KERNELS:]
    if kernels:
        left_out = len(difference.kernels) - len(kernels)
        before = f"{left_out} more, " if left_out else ""
        text += f"; it is compiled to {before}{', '.join(kernels)}"
    return text
