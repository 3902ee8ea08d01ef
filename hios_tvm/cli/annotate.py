"""``hios-tvm annotate``: a placement written into a copy of its ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hios_tvm.cli.options import EXISTING_FILE, NEW_FILE, ModelFile, model_options
from hios_tvm.errors import UsageError

if TYPE_CHECKING:
    from hios_tvm.schema.graph import OperatorGraph
    from hios_tvm.schema.schedule import Schedule

DEFAULT_CONFIGURATION = "hios-tvm"


@click.command("annotate")
@model_options
@click.option(
    "--placement",
    type=EXISTING_FILE,
    required=True,
    help="An artifact of the model, or a schedule (JSON, from compile --save-placement).",
)
@click.option("-o", "--output", type=NEW_FILE, required=True, help="ONNX file to write.")
@click.option(
    "--configuration",
    default=DEFAULT_CONFIGURATION,
    help="Name of the devices in the model; one of this name is replaced.",
)
def command(model_file: ModelFile, placement: Path, output: Path, configuration: str) -> None:
    """Write a placement into a copy of MODEL, an ONNX file, in the fields that ONNX has for it.

    The model gets a configuration with the devices, and each node the device that computes it, as a
    sharding of its outputs over this one device. Nodes also get stages of a pipeline, unless the
    devices hand tensors over in a circle. The order on each device and the streams are metadata of
    the model. hios-tvm compile takes such a model, and any that another tool placed.
    """
    from hios_tvm.files import atomic_write, check_writable
    from hios_tvm.frontends.onnx.files import external_tensors, read_model
    from hios_tvm.frontends.onnx.placement import write_placement

    check_writable(output)
    if model_file.model.suffix != ".onnx":
        raise UsageError(f"{model_file.model} is no ONNX file, and only these hold placements")
    model = read_model(model_file.model)
    is_elsewhere = output.parent.resolve() != model_file.model.parent.resolve()
    if is_elsewhere and next(external_tensors(model.graph), None) is not None:
        raise UsageError(
            f"{model_file.model} has weights in other files of its folder: give -o a file there"
        )
    graph, schedule = _read(placement, model_file)
    placed, is_pipeline = write_placement(model, graph, schedule, configuration)
    with atomic_write(output) as file:
        file.write(placed.SerializeToString())
    devices = ", ".join(own.device for own in schedule)
    stages = "" if is_pipeline else "; no pipeline, as devices hand tensors over in a circle"
    click.echo(f"{output}: {len(placed.graph.node)} nodes on {devices}{stages}")


def _read(placement: Path, model_file: ModelFile) -> tuple[OperatorGraph, Schedule]:
    """Return a schedule and its operators, which only artifacts hold."""
    from zipfile import is_zipfile

    from hios_tvm.schema.schedule import Schedule

    if not is_zipfile(placement):
        schedule = Schedule.from_json(placement.read_text(errors="replace"))
        return _lowered(model_file, schedule), schedule
    import json

    from hios_tvm.runtime.read_artifact import read_manifest

    manifest = read_manifest(placement)
    if manifest.graph is None:
        raise UsageError(f"{placement} holds no operators: compile it again")
    return manifest.graph, Schedule.from_json(json.dumps(manifest.schedule))


def _lowered(model_file: ModelFile, schedule: Schedule) -> OperatorGraph:
    from hios_tvm.backends import parse_targets
    from hios_tvm.backends.network import lower_network

    devices = [own.device for own in schedule]
    targets = parse_targets("host", devices)
    return lower_network(model_file.load(), *targets.values()).graph
