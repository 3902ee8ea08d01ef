"""Compile the networks that `export_networks.py` exported, and check the numbers they return.

Each runs on one device of all cores, in a process of its own, on all recorded inputs. Its outputs
are compared with those of ONNX Runtime and of PyTorch in float64. A network passes if it differs
from ONNX Runtime by at most LARGEST_ERROR, or from float64 by at most ORT_FACTOR times as much as
ONNX Runtime does.

    python scripts/check_networks.py networks --json scripts/results/networks_exported.json
"""

import json
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.options import print_table
from hios_tvm.compiled_code import default_cache_dir
from hios_tvm.errors import HiosError, UsageError
from hios_tvm.files import atomic_write
from hios_tvm.onnx_backend import prepare
from hios_tvm.runtime.devices.cpu.cores import default_devices
from hios_tvm.verification.deviation import deviations
from hios_tvm.verification.onnx_reference import onnxruntime_outputs

LARGEST_ERROR = 2e-5  # of the largest magnitude of an output
# How much farther than ONNX Runtime we may be from float64: the error of a deep network varies with
# the order of its sums.
ORT_FACTOR = 2.0
OTHER_NETWORK = 1e-3  # from here on, ONNX Runtime's error means that the export is at fault
OUTCOMES = ("passed", "wrong", "refused", "failed", "crashed")

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Errors:
    """Largest errors over all inputs and outputs, relative to each output's largest magnitude."""

    to_onnxruntime: float
    to_float64: float
    onnxruntime_to_float64: float

    def __str__(self) -> str:
        return (
            f"differs from ONNX Runtime by {self.to_onnxruntime:.1e}, from float64 by "
            f"{self.to_float64:.1e} (ONNX Runtime: {self.onnxruntime_to_float64:.1e})"
        )

    @property
    def pass_check(self) -> bool:
        if self.to_onnxruntime <= LARGEST_ERROR:
            return True
        if not self.onnxruntime_to_float64 < OTHER_NETWORK:
            return False
        return self.to_float64 <= ORT_FACTOR * self.onnxruntime_to_float64


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    ``wrong`` are other numbers or shapes, ``refused`` is a clear error, ``failed`` any other
    exception, ``crashed`` the end of the process, or none within the time limit.
    """

    network: str
    exporter: str
    outcome: str
    message: str = ""
    errors: Errors | None = None
    seconds: float = 0.0  # for everything: import, code generation, runs


@click.command(help=__doc__)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--time-limit", default=600.0, show_default=True, help="Seconds for one file.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write JSON there.")
def main(paths: tuple[Path, ...], time_limit: float, json_file: Path | None) -> None:
    outcomes = []
    for file in model_files(paths):
        outcome = _in_process(file, time_limit)
        stderr().print(f"{file.name}: {outcome.outcome}  {outcome.message}", markup=False)
        outcomes.append(outcome)
    _print(outcomes)
    counts = Counter(outcome.outcome for outcome in outcomes)
    stdout().print(", ".join(f"{counts[o]} {o}" for o in OUTCOMES))
    if json_file is not None:
        data = {"counts": counts, "networks": [asdict(outcome) for outcome in outcomes]}
        with atomic_write(json_file) as stream:
            stream.write((json.dumps(data, indent=1) + "\n").encode())
    sys.exit(0 if counts["passed"] == len(outcomes) else 1)


def model_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.glob("*.onnx")) if path.is_dir() else [path]


def _in_process(file: Path, time_limit: float) -> Outcome:
    """Check a file in a process that a crash or a hang takes down alone."""
    network, _, exporter = file.stem.partition(".")
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_work, args=(theirs, file))
    start = time.monotonic()
    process.start()
    theirs.close()
    result: tuple[str, str, Errors | None]
    try:
        if ours.poll(time_limit):
            result = ours.recv()
        else:
            result = ("crashed", f"no end within {time_limit:.0f} s", None)
    except EOFError:
        process.join()
        result = ("crashed", f"exit {process.exitcode}", None)
    finally:
        process.kill()
        process.join()
        ours.close()
    return Outcome(network, exporter, *result, seconds=round(time.monotonic() - start, 1))


def _work(pipe: Connection, file: Path) -> None:
    warnings.simplefilter("ignore")
    pipe.send(_check(file))


def _check(file: Path) -> tuple[str, str, Errors | None]:
    try:
        model = onnx.load(file)
        draws = recorded_draws(file)
        if not draws:
            raise UsageError(f"no outputs are recorded beside {file.name}: run export_networks.py")
        ours = _run(model, [inputs for inputs, _ in draws])
    except HiosError as error:
        return "refused", f"{type(error).__name__}: {error}", None
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}", None
    theirs = [onnxruntime_outputs(model, inputs) for inputs, _ in draws]
    exact = [outputs for _, outputs in draws]
    try:
        errors = Errors(_error(ours, theirs), _error(ours, exact), _error(theirs, exact))
    except UsageError as error:  # names or shapes are not the same
        return "wrong", str(error), None
    if errors.pass_check:
        return "passed", "", errors
    return "wrong", str(errors), errors


def recorded_draws(file: Path) -> list[tuple[Arrays, Arrays]]:
    """Return what `export_networks.py` recorded: inputs, and outputs in float64, of each draw."""
    path = file.with_name(f"{file.name.partition('.')[0]}.reference.npz")
    if not path.exists():
        return []
    draws: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    with np.load(path) as arrays:
        for key, array in arrays.items():
            draw, kind, name = key.split("/")
            draws.setdefault(draw, ({}, {}))[kind == "output"][name] = array
    return list(draws.values())


def _run(model: onnx.ModelProto, draws: Sequence[Arrays]) -> list[Arrays]:
    compiled = prepare(model, devices=default_devices(), cache_dir=default_cache_dir())
    names = [output.name for output in model.graph.output]
    return [dict(zip(names, compiled.run(inputs), strict=True)) for inputs in draws]


def _error(outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> float:
    pairs = zip(outputs, reference, strict=True)
    errors = [d.max_error for pair in pairs for d in deviations(*pair)]
    return float(np.max(errors))  # NaN where one is


def _print(outcomes: Sequence[Outcome]) -> None:
    columns = ["network", "exporter", "outcome", "error", "float64", "onnxruntime", "seconds"]
    rows = []
    for o in outcomes:
        errors = ["-"] * 3
        if o.errors is not None:
            errors = [f"{value:.1e}" for value in asdict(o.errors).values()]
        rows.append([o.network, o.exporter, o.outcome, *errors, f"{o.seconds:.0f}"])
    print_table("exported networks", columns, rows)
    stdout().print(
        "error: largest difference to ONNX Runtime over the largest magnitude; "
        "float64, onnxruntime: that of ours and of ONNX Runtime to PyTorch in float64"
    )


if __name__ == "__main__":
    main()
