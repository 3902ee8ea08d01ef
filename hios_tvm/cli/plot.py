"""``hios-tvm plot``: a picture of the timelines of artifacts, or of an operator graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hios_tvm.cli.console import stderr
from hios_tvm.cli.observation import Runs, observation_options
from hios_tvm.cli.options import EXISTING_FILE, NEW_FILE, ArtifactFile, Inputs
from hios_tvm.cli.pictures import check_picture, write_picture
from hios_tvm.errors import UsageError

if TYPE_CHECKING:
    from hios_tvm.measuring.benchmark import BenchmarkResult
    from hios_tvm.report.timeline import OperatorView, Timeline


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
@click.option(
    "--rejected",
    is_flag=True,
    help="Also draw what was expected of the schedules that compile tried out and did not keep.",
)
@observation_options
@click.argument("others", nargs=-1, type=EXISTING_FILE, metavar="[ARTIFACT]...")
def command(
    artifact_file: ArtifactFile,
    others: tuple[Path, ...],
    output: Path | None,
    width: int,
    graph: bool,
    rejected: bool,
    inputs: Inputs,
    runs: Runs,
) -> None:
    """Draw when ARTIFACT's operators run: predicted above, measured on this machine below.

    Several artifacts are drawn on one time axis, under the numbers of the first one's operators.
    One row for each device or stream, one for each core where devices share cores. Colours are
    types of operators, arrows transfers. The numbers are those of the graph and of the report.
    hios-tvm schedule --plot draws what schedulers make of a cost file, without an artifact. PNG
    files need pip install 'hios-tvm[plot]'.
    """
    from hios_tvm.measuring.load import load_note
    from hios_tvm.report.graph_drawing import draw_graph
    from hios_tvm.report.timeline import OperatorView
    from hios_tvm.report.timeline_drawing import draw_timelines

    if graph and (others or rejected):
        raise UsageError("--graph draws one artifact, and nothing of what was rejected")
    path = output or artifact_file.artifact.with_suffix(".svg")
    check_picture(path)
    manifest, result = runs.observe(artifact_file, inputs)
    results = [result]
    view = OperatorView(manifest)
    if graph:
        costs = {item.operator: item.cost_ms for item in manifest.prediction.operators}
        picture = draw_graph(view, costs if result is None else result.operator_ms)
    else:
        names = _names([artifact_file.artifact, *others])
        panels = _panels(view, result, rejected, names[0] if others else "")
        numbers = {node.name: node.number for node in view.nodes.values()}
        for other, name in zip(others, names[1:], strict=True):
            manifest, result = runs.observe(replace(artifact_file, artifact=other), inputs)
            results.append(result)
            panels |= _panels(OperatorView(manifest, numbers), result, rejected, name)
        if not panels:
            raise UsageError(
                f"{artifact_file.artifact} holds no prediction: measure it with --iterations"
            )
        picture = draw_timelines(view.streams, panels, width=width)
    write_picture(picture, path)
    busy = max((result.others for result in results if result is not None), default=0.0)
    for note in load_note(busy, "the runs"):
        stderr().print(note, soft_wrap=True)
    click.echo(path)


def _panels(
    view: OperatorView, result: BenchmarkResult | None, rejected: bool, name: str
) -> dict[str, Timeline]:
    """Return what is known of the artifact `name`, with what was expected of what was not kept."""
    from hios_tvm.report.timeline import rejected_timelines, timelines

    panels = timelines(view, result) | (rejected_timelines(view) if rejected else {})
    return {f"{name}, {title}" if name else title: panels[title] for title in panels}


def _names(artifacts: Sequence[Path]) -> list[str]:
    """Return the names of files, with their folders where two have one name."""
    count = Counter(path.name for path in artifacts)
    return [path.name if count[path.name] == 1 else str(path) for path in artifacts]
