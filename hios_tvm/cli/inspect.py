"""``hios-tvm inspect``: what is in an artifact."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import (
    EXISTING_FILE,
    json_option,
    print_json,
    print_table,
    verify_key_option,
)

if TYPE_CHECKING:
    from hios_tvm.schema.manifest import Manifest


@click.command("inspect")
@click.argument("artifact", type=EXISTING_FILE)
@click.option("--manifest", is_flag=True, help="Print the whole manifest (JSON).")
@click.option("--schedule", is_flag=True, help="Print the schedule (JSON).")
@click.option("--version-only", is_flag=True, help="Print the versions, load nothing else.")
@verify_key_option
@json_option
def command(
    artifact: Path,
    manifest: bool,
    schedule: bool,
    version_only: bool,
    verify_key: Path | None,
    json_file: str | None,
) -> None:
    """Show devices, stages, transfers, memory and the predicted makespan of ARTIFACT, and
    whether it was verified.

    Nothing of the artifact is executed. With --verify-key, its signature and the hashes of all its
    entries are checked first.
    """
    from hios_tvm.runtime.read_artifact import read_manifests
    from hios_tvm.runtime.signature import required_key

    found, *others = read_manifests(artifact, verify_key=verify_key)
    if version_only:
        click.echo(
            f"format {found.format_version}, TVM {found.tvm_version}, "
            f"hios-tvm {found.compile_info.get('hios_tvm', 'unknown')}"
        )
    elif manifest:
        click.echo(found.to_json())
    elif schedule:
        click.echo(json.dumps(found.schedule, indent=1))
    elif json_file is not None:
        print_json(_data(found, others), json_file)
    else:
        _print(found, others, required_key(verify_key))


def _data(manifest: Manifest, others: Sequence[Manifest]) -> dict[str, Any]:
    from hios_tvm.report.explain import manifest_reports

    batch = manifest.shapes and manifest.shapes.batch
    return {
        "model": manifest.model,
        "inputs": [asdict(spec) for spec in manifest.inputs],
        "outputs": [asdict(spec) for spec in manifest.outputs],
        "replicas": manifest.replicas,
        "in_flight": manifest.in_flight,
        "scheduler": manifest.schedule["scheduler"],
        "predicted_makespan_ms": manifest.prediction.makespan_ms,
        "devices": [asdict(report) for report in manifest_reports(manifest)],
        "cpu_features": _cpu_features(manifest),
        "compile_info": dict(manifest.compile_info),
        "verification": asdict(manifest.verification),
        "batch": asdict(batch) if batch else None,
        "other_shapes": [_data(other, ()) for other in others],
    }


def _print(
    manifest: Manifest, others: Sequence[Manifest], verify_key: str | os.PathLike[str] | None
) -> None:
    from hios_tvm.report.explain import manifest_reports
    from hios_tvm.report.words import milliseconds, shape_lines, weight_line

    console = stdout()
    for kind, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            shape = "x".join(map(str, spec.shape)) or "scalar"
            console.print(f"{kind:<7}{spec.name}: {spec.dtype} {shape}")
    for line in shape_lines([manifest, *others]):
        console.print(line, soft_wrap=True)
    reports = manifest_reports(manifest)
    title = f"{manifest.model}: {manifest.schedule['scheduler']}"
    print_table(title, list(reports[0].COLUMNS), [report.cells() for report in reports])
    for report in reports:
        if report.references:
            console.print(
                f"{report.device} reads {report.references} tensors of other devices in place"
            )
    console.print(weight_line([manifest, *others]), soft_wrap=True)
    if manifest.prediction.makespan_ms is not None:
        console.print(f"predicted makespan {milliseconds(manifest.prediction.makespan_ms)}")
    if manifest.replicas:
        devices = ", ".join(name for names in manifest.replicas for name in names)
        console.print(f"run_many also runs on {devices}", soft_wrap=True)
    if manifest.in_flight > 1:
        console.print(f"run_many has {manifest.in_flight} inputs in flight in each session")
    for note in manifest.notes:
        console.print(note, soft_wrap=True)
    verification = manifest.verification
    console.print(str(verification), soft_wrap=True)
    for output in verification.outputs:
        console.print(
            f"  output {output.output}: error {output.error:.1e}, allowed {output.allowed:.1e}",
            soft_wrap=True,
        )
    for note in verification.notes:
        console.print(f"  {note}", soft_wrap=True)
    if verify_key is not None:
        console.print(f"signed by the owner of {verify_key}, and undamaged")
    console.print(f"needs CPU features: {', '.join(_cpu_features(manifest)) or 'none'}")


def _cpu_features(manifest: Manifest) -> list[str]:
    return sorted({name for device in manifest.devices for name in device.cpu_features})
