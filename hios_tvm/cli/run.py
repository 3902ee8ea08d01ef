"""``hios-tvm run``: run an artifact once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from hios_tvm.cli.options import (
    EXISTING_FILE,
    NEW_FILE,
    cuda_graph_option,
    input_options,
    json_option,
    load_inputs,
    print_json,
    stdout,
    verify_key_option,
)
from hios_tvm.cli.verification import check_outputs
from hios_tvm.errors import UsageError
from hios_tvm.files import check_writable
from hios_tvm.runtime.trace import RunTrace, write_chrome_trace
from hios_tvm.schema.device_names import split_devices


@click.command("run")
@click.argument("artifact", type=EXISTING_FILE)
@input_options
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write each output there as NAME.npy.",
)
@click.option("--save-inputs", is_flag=True, help="Write the inputs beside the outputs.")
@click.option("--devices", help="Run on these devices instead of those of the compile.")
@click.option(
    "--trace",
    "trace_file",
    type=NEW_FILE,
    help="Write what happened when as a trace for Perfetto or chrome://tracing (JSON).",
)
@click.option(
    "--warmup",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Runs before the one that counts: a first run also reads the weights.",
)
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds after which to give up.")
@cuda_graph_option
@click.option(
    "--verify",
    "reference",
    type=EXISTING_FILE,
    help="Compare with this ONNX model in ONNX Runtime, or with recorded outputs (.npz).",
)
@click.option(
    "--rtol",
    type=click.FloatRange(0),
    help="Largest error of --verify, over the largest magnitude.  [default: 1e-4, or what suits "
    "the artifact's half precision or --precision]",
)
@verify_key_option
@json_option
def command(
    artifact: Path,
    inputs: tuple[str, ...],
    seed: int,
    value_range: str | None,
    output_dir: Path | None,
    save_inputs: bool,
    devices: str | None,
    trace_file: Path | None,
    warmup: int,
    timeout: float | None,
    cuda_graph: bool,
    reference: Path | None,
    rtol: float | None,
    verify_key: Path | None,
    json_file: str | None,
) -> None:
    """Run ARTIFACT once and sum up its outputs."""
    from hios_tvm import runtime
    from hios_tvm.verification.deviation import tolerance_of

    if save_inputs and output_dir is None:
        raise UsageError("--save-inputs writes beside the outputs: give --output-dir too")
    if trace_file is not None:
        check_writable(trace_file)
    remap = None if devices is None else split_devices(devices)
    with runtime.load(
        artifact,
        devices=remap,
        verify_key=verify_key,
        gpu_trace=trace_file is not None,
        cuda_graph=cuda_graph,
    ) as session:
        specs = [(spec.name, spec.shape, spec.dtype) for spec in session.inputs]
        arrays = load_inputs(inputs, specs, seed, value_range)
        for _ in range(warmup):
            session.run(arrays, timeout=timeout)
        outputs, trace = session.run_traced(arrays, timeout=timeout)
    if trace_file is not None:
        _write_trace(trace_file, trace)
    if output_dir is not None:
        _save(output_dir, outputs)
        if save_inputs:
            _save(output_dir, arrays)
    if json_file is not None:
        print_json({name: _summary(array) for name, array in outputs.items()}, json_file)
    else:
        for name, array in outputs.items():
            values = " ".join(f"{key} {value}" for key, value in _summary(array).items())
            stdout().print(f"{name}: {values}", soft_wrap=True)
    if reference is not None:
        usual = tolerance_of(session.manifest.recipe)
        tolerance = usual if rtol is None else replace(usual, rtol=rtol)
        check_outputs(outputs, arrays, reference, tolerance)


def _write_trace(path: Path, trace: RunTrace) -> None:
    try:
        write_chrome_trace(path, [trace])
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}") from error


def _save(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
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
