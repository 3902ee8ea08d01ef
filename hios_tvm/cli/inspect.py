"""``hios-tvm inspect``: what is in an artifact."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from hios_tvm.cli.options import (
    EXISTING_FILE,
    json_option,
    milliseconds,
    print_json,
    print_table,
    stdout,
    verify_key_option,
)


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
    from hios_tvm.report.explain import manifest_reports
    from hios_tvm.runtime.read_artifact import read_manifest

    found = read_manifest(artifact, verify_key=verify_key)
    if version_only:
        click.echo(
            f"format {found.format_version}, TVM {found.tvm_version}, "
            f"hios-tvm {found.compile_info.get('hios_tvm', 'unknown')}"
        )
    elif manifest:
        click.echo(found.to_json())
    elif schedule:
        click.echo(json.dumps(found.schedule, indent=1))
    else:
        reports = manifest_reports(found)
        data = {
            "model": found.model,
            "inputs": [asdict(spec) for spec in found.inputs],
            "outputs": [asdict(spec) for spec in found.outputs],
            "scheduler": found.schedule["scheduler"],
            "predicted_makespan_ms": found.prediction.makespan_ms,
            "devices": [asdict(report) for report in reports],
            "cpu_features": sorted({f for device in found.devices for f in device.cpu_features}),
            "compile_info": dict(found.compile_info),
            "verification": asdict(found.verification),
        }
        if json_file is not None:
            print_json(data, json_file)
            return
        console = stdout()
        for kind, specs in (("input", found.inputs), ("output", found.outputs)):
            for spec in specs:
                shape = "x".join(map(str, spec.shape)) or "scalar"
                console.print(f"{kind:<7}{spec.name}: {spec.dtype} {shape}")
        rows = [report.cells() for report in reports]
        title = f"{found.model}: {found.schedule['scheduler']}"
        print_table(title, list(reports[0].COLUMNS), rows)
        if found.prediction.makespan_ms is not None:
            console.print(f"predicted makespan {milliseconds(found.prediction.makespan_ms)}")
        console.print(str(found.verification), soft_wrap=True)
        for output in found.verification.outputs:
            console.print(
                f"  output {output.output}: error {output.error:.1e}, allowed {output.allowed:.1e}",
                soft_wrap=True,
            )
        for note in found.verification.notes:
            console.print(f"  {note}", soft_wrap=True)
        if verify_key is not None:
            console.print(f"signed by the owner of {verify_key}, and undamaged")
        console.print(f"needs CPU features: {', '.join(data['cpu_features']) or 'none'}")
