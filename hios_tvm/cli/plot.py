"""``hios-tvm plot``: a picture of an artifact's timeline, or of its operator graph."""

from pathlib import Path

import click

from hios_tvm.cli.observation import Runs, observation_options
from hios_tvm.cli.options import NEW_FILE, ArtifactFile, Inputs
from hios_tvm.errors import UsageError
from hios_tvm.files import atomic_write, check_writable


@click.command("plot")
@click.option(
    "-o", "--output", type=NEW_FILE, help="Picture, .svg or .png.  [default: ARTIFACT.svg]"
)
@click.option("--graph", is_flag=True, help="Draw the operator graph, coloured by device.")
@observation_options
def command(
    artifact_file: ArtifactFile, output: Path | None, graph: bool, inputs: Inputs, runs: Runs
) -> None:
    """Draw when ARTIFACT's operators run: predicted above, measured on this machine below.

    One row for each stream of a device, transfers as arrows. The numbers are those of the operators
    in the graph and in the report. Needs matplotlib (pip install 'hios-tvm[plot]').
    """
    from hios_tvm.report.drawing import draw_graph, draw_timelines, render
    from hios_tvm.report.figures import require_matplotlib
    from hios_tvm.report.timeline import OperatorView, timelines

    require_matplotlib()
    path = output or artifact_file.artifact.with_suffix(".svg")
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("svg", "png"):
        raise UsageError(f"cannot draw {path}: name a .svg or .png file")
    check_writable(path)
    manifest, result = runs.observe(artifact_file, inputs)
    view = OperatorView(manifest)
    if graph:
        costs = {item.operator: item.cost_ms for item in manifest.prediction.operators}
        figure = draw_graph(view, costs if result is None else result.operator_ms)
    else:
        panels = timelines(view, result)
        if not panels:
            raise UsageError(
                f"{artifact_file.artifact} holds no prediction: measure it with --iterations"
            )
        figure = draw_timelines(view, panels)
    with atomic_write(path) as file:
        file.write(render(figure, kind))
    click.echo(path)
