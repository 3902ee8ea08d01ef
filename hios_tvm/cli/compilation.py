"""What `compile` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.options import print_json, print_table
from hios_tvm.schema.strict_json import encode

if TYPE_CHECKING:
    from hios_tvm.compiler import Compilation, CompileOptions
    from hios_tvm.report.explain import DeviceReport


def print_compilation(
    result: Compilation, path: Path, options: CompileOptions, json_file: str | None
) -> None:
    """Print what was compiled as a table with notes, or as JSON."""
    from hios_tvm.report.explain import manifest_reports, why_idle
    from hios_tvm.report.words import milliseconds

    manifest, verification = result.manifest, result.manifest.verification
    if not verification.verified:
        stderr().print(str(verification), soft_wrap=True)
    for note in (*result.notes, *verification.notes):
        stderr().print(note, soft_wrap=True)
    reports = manifest_reports(manifest)
    given = options.is_placed
    idle = why_idle(manifest, schedule_given=given, memory=options.memory)
    if json_file is not None:
        print_json(_data(result, path, reports, idle), json_file)
        return
    rows = [report.cells() for report in reports]
    print_table(f"{path}: {result.schedule.scheduler}", list(reports[0].COLUMNS), rows)
    console = stdout()
    makespan_ms = manifest.prediction.makespan_ms
    phases = ", ".join(f"{name} {value:.0f} s" for name, value in result.seconds.items())
    console.print(
        ("" if makespan_ms is None else f"predicted makespan {milliseconds(makespan_ms)}; ")
        + f"compiled in {sum(result.seconds.values()):.0f} s ({phases})"
    )
    for line in [*_why_chosen(result, options), *idle, *_other_shapes(result)]:
        console.print(line, soft_wrap=True)
    if verification.verified:
        console.print(str(verification), soft_wrap=True)


def _why_chosen(result: Compilation, options: CompileOptions) -> list[str]:
    """Say which schedules `auto` tried out, and which one it kept."""
    from hios_tvm.measuring.contest import LEAST_GAIN

    if not result.trials:
        several = result.platform is not None and len(result.platform.devices) > 1
        if not several or options.scheduler != "auto" or options.costs is not None:
            return []
        gain = f"{LEAST_GAIN:.0%}"
        return [f"none was tried out: no schedule on several devices is predicted to gain {gain}"]
    first, *others = result.trials
    lines = [f"kept {result.schedule.scheduler}, of those that were tried out:", f"  {first}"]
    for trial in others:
        share = f"turn by turn {trial.relative_to(first):.2f} of the first one's time"
        lines.append(f"  {trial}, {share}")
    return lines


def _other_shapes(result: Compilation) -> list[str]:
    """Say what came of each shape of an artifact that has several."""
    from hios_tvm.report.words import shape_lines

    return shape_lines([result.manifest, *(other.manifest for other in result.others)])


def _data(
    result: Compilation, path: Path, reports: Sequence[DeviceReport], notes: Sequence[str]
) -> dict[str, Any]:
    """Sum up a compilation as plain data for JSON."""
    prediction = result.manifest.prediction
    return {
        "artifact": str(path),
        "scheduler": result.schedule.scheduler,
        "predicted_makespan_ms": prediction.makespan_ms,
        "lower_bound_ms": result.schedule.lower_bound_ms,
        "independence": prediction.independence,
        "devices": [asdict(report) for report in reports],
        "seconds": dict(result.seconds),
        "trials": [encode(trial.kept()) for trial in result.trials],
        "verification": asdict(result.manifest.verification),
        "notes": list(notes),
        "other_shapes": [
            {
                "inputs": other.manifest.shape,
                "predicted_makespan_ms": other.manifest.prediction.makespan_ms,
                "verification": asdict(other.manifest.verification),
            }
            for other in result.others
        ],
    }
