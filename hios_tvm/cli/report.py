"""``hios-tvm report``: one page about an artifact."""

from pathlib import Path

import click

from hios_tvm.cli.observation import Runs, observation_options
from hios_tvm.cli.options import NEW_FILE, ArtifactFile, Inputs
from hios_tvm.files import atomic_write, check_writable


@click.command("report")
@click.option("-o", "--output", type=NEW_FILE, help="Page to write.  [default: ARTIFACT.html]")
@observation_options
def command(artifact_file: ArtifactFile, output: Path | None, inputs: Inputs, runs: Runs) -> None:
    """Write all about ARTIFACT, predicted and measured on this machine, on one HTML page.

    The page holds everything that it shows, and needs no network: its one script sorts tables.
    Needs Jinja2 (pip install 'hios-tvm[report]').
    """
    from hios_tvm.report.page import render_page, require_page
    from hios_tvm.runtime.machine import describe_machine

    require_page()
    path = output or artifact_file.artifact.with_suffix(".html")
    check_writable(path)
    manifest, result = runs.observe(artifact_file, inputs)
    page = render_page(manifest, result, str(describe_machine()))
    with atomic_write(path) as file:
        file.write(page.encode(errors="replace"))
    click.echo(path)
