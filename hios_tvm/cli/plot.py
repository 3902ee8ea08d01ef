"""``hios-tvm plot``: a picture of an artifact's timeline, or of its operator graph."""

from pathlib import Path

import click

from hios_tvm.cli.console import stderr
from hios_tvm.cli.observation import Runs, observation_options
from hios_tvm.cli.options import NEW_FILE, ArtifactFile, Inputs
from hios_tvm.cli.pictures import check_picture, write_picture
from hios_tvm.errors import UsageError


@click.command("plot")
@click.option(
    "-o", "--output", type=NEW_FILE, help="Picture, .svg or .png.  [default: ARTIFACT.svg]"
)
@click.option(
    "--width",
    default=1280,
    type=click.IntRange(640, 20_000),
    help="Pixels of a timeline: more show what is short.",
)
@click.option(
    "--graph",
    is_flag=True,
    help="Draw the operator graph, coloured by device, or by type where one device has all; large "
    "ones in blocks.",
)
@observation_options
def command(
    artifact_file: ArtifactFile,
    output: Path | None,
    width: int,
    graph: bool,
    inputs: Inputs,
    runs: Runs,
) -> None:
    """Draw when ARTIFACT's operators run: predicted above, measured on this machine below.

    One row for each device or stream, one for each core where devices share cores. Colours are
    types of operators, arrows transfers. The numbers are those of the graph and of the report.
    hios-tvm schedule --plot draws what schedulers make of a cost file, without an artifact. PNG
    files need pip install 'hios-tvm[plot]'.
    """
    from hios_tvm.measuring.load import load_note
    from hios_tvm.report.graph_drawing import draw_graph
    from hios_tvm.report.timeline import OperatorView, timelines
    from hios_tvm.report.timeline_drawing import draw_timelines

    path = output or artifact_file.artifact.with_suffix(".svg")
    check_picture(path)
    manifest, result = runs.observe(artifact_file, inputs)
    view = OperatorView(manifest)
    if graph:
        costs = {item.operator: item.cost_ms for item in manifest.prediction.operators}
        picture = draw_graph(view, costs if result is None else result.operator_ms)
    else:
        panels = timelines(view, result)
        if not panels:
            raise UsageError(
                f"{artifact_file.artifact} holds no prediction: measure it with --iterations"
            )
        picture = draw_timelines(view.streams, panels, width=width)
    write_picture(picture, path)
    for note in load_note(0.0 if result is None else result.others, "the runs"):
        stderr().print(note, soft_wrap=True)
    click.echo(path)
