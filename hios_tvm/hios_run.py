"""``hios-run``: artifacts on a deployment machine, without the compiler and its libraries."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np

from hios_tvm.errors import ExecutionError, HiosError, UsageError
from hios_tvm.files import atomic_write, make_folder
from hios_tvm.measuring.latency import LatencySummary, latencies_of
from hios_tvm.runtime import Session, load
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.runtime.read_artifact import read_manifests
from hios_tvm.schema.device_names import split_devices
from hios_tvm.serving import require_kserve
from hios_tvm.serving.options import ServerOptions
from hios_tvm.verification.deviation import deviations, tolerance_of
from hios_tvm.verification.inputs import given_inputs, read_arrays
from hios_tvm.version import __version__, check_one_installation


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        check_one_installation()
        options.command(options)
    except HiosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def run(options: argparse.Namespace) -> None:
    """Run an artifact once, and sum up its outputs."""
    with _session(options) as session:
        outputs = session.run(_inputs(options, session))
    for name, array in outputs.items():
        values = array.astype(np.float64)
        print(
            f"{name}: {array.dtype} {_shape(array.shape)} min {values.min():.6g} "
            f"mean {values.mean():.6g} max {values.max():.6g} argmax {values.argmax()}"
        )
    if options.output_dir is not None:
        make_folder(options.output_dir)
        for name, array in outputs.items():
            with atomic_write(options.output_dir / f"{name.replace('/', '_')}.npy") as file:
                np.save(file, array)


def benchmark(options: argparse.Namespace) -> None:
    """Print the latency of whole runs, inputs and outputs included."""
    with _session(options) as session:
        inputs = _inputs(options, session)
        latencies = latencies_of(lambda: session.run(inputs))
        found = list(islice(latencies, options.warmup + options.iterations))[options.warmup :]
    summary = LatencySummary.of(found, percentiles=(90, 99))
    percentiles = ", ".join(f"{name} {ms:.4g}" for name, ms in summary.percentiles_ms.items())
    print(
        f"{summary.runs} runs: median {summary.median_ms:.4g} ms, interquartile range "
        f"{summary.spread_ms:.4g}, min {summary.min_ms:.4g}, max {summary.max_ms:.4g}, "
        f"{percentiles}"
    )
    print(f"machine: {describe_machine()}")


def inspect(options: argparse.Namespace) -> None:
    """Print inputs, outputs, devices and verification; nothing of the artifact is executed."""
    manifest, *others = read_manifests(options.artifact, verify_key=options.verify_key)
    if options.manifest:
        print(manifest.to_json())
        return
    for kind, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            print(f"{kind} {spec.name}: {spec.dtype} {_shape(spec.shape)}")
    for other in others:
        print("also", ", ".join(f"{name} {_shape(own)}" for name, own in other.shape.items()))
    if manifest.shapes is not None and manifest.shapes.batch is not None:
        batch = manifest.shapes.batch
        print(f"batches from {batch.smallest} to {batch.largest} run")
    for device in manifest.devices:
        print(f"device {device.name}: {device.target}")
    print(f"scheduler {manifest.schedule['scheduler']}")
    print(manifest.verification)


def verify(options: argparse.Namespace) -> None:
    """Compare the outputs for recorded inputs with recorded outputs."""
    expected = read_arrays(options.expected, "--expected")
    with _session(options) as session:
        outputs = session.run(_inputs(options, session))
        tolerance = tolerance_of(session.manifest.recipe, options.rtol)
    found = deviations(outputs, expected)
    for deviation in found:
        print(
            f"{deviation.output}: largest error {deviation.max_error:.1e} of the largest magnitude"
        )
    wrong = [deviation.output for deviation in found if not deviation.within(tolerance)]
    if wrong:
        raise ExecutionError(
            f"{', '.join(wrong)}: differs from --expected by more than {tolerance.rtol:g}"
        )


def serve(options: argparse.Namespace) -> None:
    """Serve artifacts by the Open Inference Protocol, over REST and gRPC."""
    require_kserve()
    from hios_tvm.serving.server import serve

    names = [field.name for field in fields(ServerOptions)]
    server_options = ServerOptions(**{name: getattr(options, name) for name in names})
    serve(options.artifacts, options.devices, server_options, options.verify_key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hios-run", description="Run artifacts of hios-tvm.")
    parser.add_argument("--version", action="version", version=f"hios-run {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (run, benchmark, inspect, verify, serve):
        about = (command.__doc__ or "").rstrip(".")
        added = commands.add_parser(command.__name__, help=about, description=about)
        added.set_defaults(command=command)
        added.add_argument("--verify-key", type=Path, help="public key (PEM) of the signature")
        if command is serve:
            _add_server_options(added)
            continue
        added.add_argument("artifact", type=Path)
        if command is inspect:
            added.add_argument("--manifest", action="store_true", help="print it whole, as JSON")
            continue
        added.add_argument("--devices", help="instead of those of the compile")
        added.add_argument(
            "--input",
            action="append",
            default=[],
            metavar="NAME=FILE",
            help="a .npy file, or FILE.npz with all inputs; those not given are random",
        )
        added.add_argument("--seed", type=_seed, default=0, help="of random inputs")
        if command is run:
            added.add_argument("--output-dir", type=Path, help="write the outputs there (.npy)")
        elif command is benchmark:
            added.add_argument("--iterations", type=_count, default=50, help="runs to measure")
            added.add_argument("--warmup", type=int, default=10, help="runs before")
        else:
            added.add_argument(
                "--expected",
                action="append",
                required=True,
                metavar="NAME=FILE",
                help="an output (.npy), or FILE.npz with all outputs",
            )
            added.add_argument("--rtol", type=float, help="largest error, of the largest magnitude")
    return parser


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifacts", nargs="+", metavar="[NAME[/VERSION]=]ARTIFACT")
    parser.add_argument(
        "--devices", action="append", default=[], help="once for each artifact, in order"
    )
    for field in fields(ServerOptions):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            default=field.default,
            type=type(field.default),
            help=f"{field.metadata['help']} (%(default)s)",
        )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number


def _session(options: argparse.Namespace) -> Session:
    devices = None if options.devices is None else split_devices(options.devices)
    return load(options.artifact, devices=devices, verify_key=options.verify_key)


def _inputs(options: argparse.Namespace, session: Session) -> dict[str, np.ndarray]:
    return given_inputs(options.input, session.inputs, options.seed)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


if __name__ == "__main__":
    sys.exit(main())
