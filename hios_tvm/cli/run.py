"""``hios-tvm run``: run an artifact once."""

from pathlib import Path
from typing import Any

import click
import numpy as np

from hios_tvm.cli.console import stdout
from hios_tvm.cli.numbers import FiniteRange
from hios_tvm.cli.options import (
    EXISTING_FILE,
    FOLDER,
    NEW_FILE,
    ArtifactFile,
    Inputs,
    artifact_options,
    cuda_graph_option,
    json_option,
    print_json,
    rtol_option,
    shaped_input_options,
)
from hios_tvm.cli.verification import Expected, check_outputs
from hios_tvm.errors import UsageError
from hios_tvm.files import check_writable
from hios_tvm.runtime.trace import RunTrace, write_chrome_trace
from hios_tvm.schema.manifest import Manifest
from hios_tvm.verification.deviation import Arrays

_TRACE_WARMUP = 5  # runs: a trace is of how the artifact runs, and a first run is slower


@click.command("run")
@artifact_options
@shaped_input_options
@click.option("--output-dir", type=FOLDER, help="Write each output there as NAME.npy.")
@click.option("--save-inputs", is_flag=True, help="Write the inputs beside the outputs.")
@click.option(
    "--trace",
    "trace_file",
    type=NEW_FILE,
    help="Write what happened when as a trace for Perfetto or chrome://tracing (JSON).",
)
@click.option(
    "--warmup",
    type=click.IntRange(0),
    help="Runs before the one that counts: a first run also reads the weights.  [default: 0, with "
    f"--trace {_TRACE_WARMUP}]",
)
@click.option("--timeout", type=FiniteRange(min=0), help="Seconds after which to give up.")
@cuda_graph_option
@click.option(
    "--verify",
    "reference",
    type=EXISTING_FILE,
    help="Compare with this ONNX model in ONNX Runtime, or with recorded outputs (.npz).",
)
@rtol_option
@json_option
def command(
    artifact_file: ArtifactFile,
    inputs: Inputs,
    output_dir: Path | None,
    save_inputs: bool,
    trace_file: Path | None,
    warmup: int | None,
    timeout: float | None,
    cuda_graph: bool | None,
    reference: Path | None,
    rtol: float | None,
    json_file: str | None,
) -> None:
    """Run ARTIFACT once and sum up its outputs."""
    if save_inputs and output_dir is None:
        raise UsageError("--save-inputs writes beside the outputs: give --output-dir too")
    if trace_file is not None:
        check_writable(trace_file)
    if warmup is None:
        warmup = 0 if trace_file is None else _TRACE_WARMUP
    expected_of = None if reference is None else Expected.read(reference)
    with artifact_file.load(gpu_trace=trace_file is not None, cuda_graph=cuda_graph) as session:
        arrays = inputs.arrays(session)
        manifest = session.manifest_of(arrays)
        for _ in range(warmup):
            session.run(arrays, timeout=timeout)
        outputs, trace = session.run_traced(arrays, timeout=timeout)
    if trace_file is not None:
        _write_trace(trace_file, trace, manifest)
    if output_dir is not None:
        _save(output_dir, {**outputs, **arrays} if save_inputs else outputs)
    summaries = {name: _summary(array) for name, array in outputs.items()}
    if json_file is not None:
        print_json(summaries, json_file)
    else:
        for name, summary in summaries.items():
            values = " ".join(f"{key} {value}" for key, value in summary.items())
            stdout().print(f"{name}: {values}", soft_wrap=True)
    if expected_of is not None:
        check_outputs(outputs, arrays, expected_of, manifest.recipe, rtol)


def _write_trace(path: Path, trace: RunTrace, manifest: Manifest) -> None:
    try:
        write_chrome_trace(path, [trace], manifest)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}") from error


def _save(folder: Path, arrays: Arrays) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            np.save(folder / f"{name.replace('/', '_')}.npy", array)
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error}") from error


def _summary(array: np.ndarray) -> dict[str, Any]:
    values = array.astype(np.float64)
    return {
        "shape": "x".join(map(str, array.shape)) or "scalar",
        "dtype": str(array.dtype),
        "min": round(float(values.min()), 6),
        "mean": round(float(values.mean()), 6),
        "max": round(float(values.max()), 6),
        "argmax": int(values.argmax()),
    }
