"""``hios-tvm quantize``: a model in single precision becomes one of 8 bits."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.options import (
    EXISTING_FILE,
    NEW_FILE,
    ModelFile,
    json_option,
    no_progress_option,
    print_json,
    print_table,
)
from hios_tvm.cli.progress import progress_bar

if TYPE_CHECKING:
    from hios_tvm.quantizing.accuracy import OutputAccuracy
    from hios_tvm.quantizing.quantize import Quantization

_POOR_DB = 20.0  # the differences have a hundredth of the outputs' power


@click.command("quantize")
@click.argument("model", type=EXISTING_FILE)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder with inputs as the model will see them in use: .npz files with an array for each "
    "input, or .npy files for a model with one input. An array has the input's shape, or holds "
    "several runs one after another along its first axis. Some dozens of runs are usual; every "
    "fifth is held out, to report the accuracy on.",
)
@click.option(
    "-o", "--output", type=NEW_FILE, help="ONNX file to write.  [default: MODEL.int8.onnx]"
)
@click.option(
    "--shape",
    "shape_words",
    multiple=True,
    metavar="NAME:DIMS",
    help="Shape of one run of an input with symbolic dimensions, for example input:1,3,224,224; "
    "in the output they stay symbolic. Repeatable.",
)
@click.option(
    "--method",
    type=click.Choice(["minmax", "percentile"]),
    default="minmax",
    help="Ranges of activations: all values, or all but the rarest hundred-thousandth.",
)
@click.option(
    "--per-channel/--per-tensor",
    default=True,
    help="A scale for each output channel of a weight, or one for all of it.",
)
@no_progress_option
@json_option
def command(
    model: Path,
    calibration: Path,
    output: Path | None,
    shape_words: tuple[str, ...],
    method: str,
    per_channel: bool,
    no_progress: bool,
    json_file: str | None,
) -> None:
    """Quantize MODEL (ONNX, single precision) to 8 bits, and report how accurate the result is.

    \b
    hios-tvm quantize model.onnx --calibration inputs/ -o model.int8.onnx
    hios-tvm compile model.int8.onnx

    ONNX Runtime's tools choose the scales: activations become uint8, weights int8, in QDQ form.
    """
    from hios_tvm.quantizing.quantize import QuantizeOptions, quantize

    path = output or model.with_suffix(".int8.onnx")
    options = QuantizeOptions(
        shapes=ModelFile(model=model, shape_words=shape_words).shapes,
        method="minmax" if method == "minmax" else "percentile",
        per_channel=per_channel,
    )
    with progress_bar(enabled=not no_progress) as progress:
        result = quantize(model, calibration, path, options, progress)
    if json_file is not None:
        print_json(asdict(result), json_file)
        return
    _print(path, result)


def _print(path: Path, result: Quantization) -> None:
    stdout().print(
        f"{path}: {result.bytes_after / 1e6:.1f} MB of {result.bytes_before / 1e6:.1f} MB; "
        f"{result.quantized} of {result.products} convolutions and products have 8 bits",
        soft_wrap=True,
    )
    rows = [
        [found.output, f"{found.max_error:.1e}", _decibels(found), _equal(found)]
        for found in result.outputs
    ]
    print_table("accuracy", ["output", "largest error", "SNR dB", "equal top-1"], rows)
    stdout().print(
        f"against the model before, both in {result.reference}, on {result.held_out} of "
        f"{result.held_out + result.calibrated} runs, which were held out of the calibration; "
        "errors are relative to the largest magnitude of the output",
        soft_wrap=True,
    )
    poor = [
        repr(found.output)
        for found in result.outputs
        if found.snr_db is not None and found.snr_db < _POOR_DB
    ]
    if poor:
        stderr().print(
            f"{', '.join(poor)}: differences have more than a hundredth of the output's power; "
            "more runs for calibration, or --method percentile, may help",
            soft_wrap=True,
        )


def _decibels(found: OutputAccuracy) -> str:
    return "equal" if found.snr_db is None else f"{found.snr_db:.1f}"


def _equal(found: OutputAccuracy) -> str:
    if found.equal is None:
        return "-"
    return f"{found.equal:.1%} of {found.compared}"
