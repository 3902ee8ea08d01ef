"""Check and measure artifacts for GPUs: `prepare` where the compiler is, `run` where the GPU is.

The first needs nvcc and no GPU, the second TVM's runtime and no compiler. The folder has the
weights of each network once, beside its artifacts. Costs are estimates in the first round; `run`
measures them, and `prepare --costs` uses what it has measured:

    python scripts/check_cuda.py prepare cuda-check --target sm_90
    ./scripts/check_cuda.sh cuda-check --json first.jsonl         # on the machine with the GPU
    python scripts/check_cuda.py prepare cuda-check --target sm_90 --costs cuda-check/costs
    ./scripts/check_cuda.sh cuda-check --json scripts/results/cuda.jsonl
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
from gpu_parts import check_parts
from shared_weights import SEPARATE, join, separate

from hios_tvm import runtime
from hios_tvm.cli.options import precision_option, print_table
from hios_tvm.errors import HiosError
from hios_tvm.measuring.artifact_costs import measure_artifact, write_costs
from hios_tvm.runtime.devices.cuda.driver import load_driver
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.runtime.trace import RunTrace
from hios_tvm.schema.device_names import gpu_place, split_devices
from hios_tvm.schema.precisions import Precision
from hios_tvm.verification.deviation import RTOL, deviations

NETWORKS = "inception_v3,nasnet_a_large,randwire,squeezenet1_1,resnet50,densenet121"
ON_ONE = ("sequential", "ios", "hios-lp", "auto")
ON_SEVERAL = ("hios-lp", "hios-mr", "auto")
KERNELS, REFERENCE = "kernels.hios", "reference.npz"
MODEL, TVM_DEFAULT = "model.onnx", "tvm-default.so"  # what rivals run
PRECISION = "precision.txt"  # of a case
REPEATED = 20  # runs whose outputs must have the same bits


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--target", default="sm_90", show_default=True, help="As in hios-tvm compile.")
@click.option("--networks", default=NETWORKS, show_default=True, help="Comma-separated.")
@click.option("--sizes", default="", help="Comma-separated pixels.  [default: as published]")
@click.option("--gpus", default=2, show_default=True, help="Of artifacts for several GPUs.")
@click.option("--parts", default="2,3,4", show_default=True, help="Of artifacts for one GPU.")
@click.option("--link", default="nvlink4", show_default=True, help="As in hios-tvm compile.")
@precision_option
@click.option("--costs", type=click.Path(path_type=Path), help="Folder that `run` wrote.")
def prepare(
    folder: Path,
    target: str,
    networks: str,
    sizes: str,
    gpus: int,
    parts: str,
    link: str,
    precision: Precision,
    costs: Path | None,
) -> None:
    """Compile artifacts of all networks into FOLDER, with inputs and recorded outputs."""
    from hios_tvm.compiler import CompileOptions, compile_model
    from hios_tvm.frontends import load_model
    from hios_tvm.measuring.kernel_export import export_kernels
    from hios_tvm.schema.instance import read_costs
    from hios_tvm.verification.inputs import random_inputs
    from hios_tvm.verification.onnx_reference import onnxruntime_outputs
    from hios_tvm.zoo import build

    # By the end of an artifact's name: which devices it is for
    setups = {"1": split_devices("cuda:0"), f"{gpus}": tuple(f"cuda:{i}" for i in range(gpus))}
    for count in filter(None, parts.split(",")):
        setups[f"parts{count}"] = split_devices(f"cuda:0/{count}")
    for name in networks.split(","):
        for size in map(int, sizes.split(",")) if sizes else (None,):
            proto = build(name) if size is None else build(name, height=size, width=size)
            words = [name, *([str(size)] if size else []), precision]
            case = folder / "-".join(words)
            case.mkdir(parents=True, exist_ok=True)
            (case / PRECISION).write_text(precision)
            model = case / MODEL
            model.write_bytes(proto.SerializeToString())
            kernels = case / KERNELS
            export_kernels(
                load_model(model), kernels, target=target, precision=precision, name=case.name
            )
            for label, devices in setups.items():
                known = None if costs is None else read_costs(costs / _costs_file(case, devices))
                for scheduler in ON_ONE if len(devices) == 1 else ON_SEVERAL:
                    options = CompileOptions(
                        devices=devices,
                        target=target,
                        precision=precision,
                        scheduler=scheduler,
                        costs=known,
                        link=link,
                    )
                    artifact = case / f"{scheduler}-{label}.hios"
                    result = compile_model(load_model(model), artifact, options, name=case.name)
                    click.echo(
                        f"{artifact}: predicted {result.manifest.prediction.makespan_ms:.3f} ms"
                    )
            inputs = random_inputs(read_manifest(artifact).inputs, seed=0)
            outputs = onnxruntime_outputs(proto, inputs)
            arrays: dict[str, Any] = {f"input/{key}": value for key, value in inputs.items()}
            arrays |= {f"output/{key}": value for key, value in outputs.items()}
            np.savez(case / REFERENCE, **arrays)
            _export_tvm_default(load_model(model), target, case / TVM_DEFAULT)
            for artifact in case.glob("*.hios"):
                separate(artifact)


def _costs_file(case: Path, devices: Sequence[str]) -> str:
    """Return the name of the file of costs of whole GPUs, or of parts."""
    parts = gpu_place(devices[0]).parts
    return f"{case.name}.json" if parts == 1 else f"{case.name}-parts{parts}.json"


def _export_tvm_default(mod: Any, target: str, path: Path) -> None:
    """Compile with TVM's default pipeline for GPUs; the runtime alone can run it."""
    import tvm

    from hios_tvm.backends import parse_targets

    os.environ["TVM_CUDA_COMPILE_MODE"] = "nvcc"  # the default asks a GPU for its architecture
    gpu = parse_targets(target, ["cuda:0"])["cuda"]
    with gpu:
        tvm.compile(mod, gpu).export_library(str(path))


@dataclass(frozen=True)
class Step:
    """One thing to check or measure, in a process of its own.

    `what` is ``parts`` (which multiprocessors they run on), ``costs`` of kernels, ``streams`` or
    ``graph`` (how an artifact runs), ``overlap`` of its kernels, or ``rival``; `name` is that of
    the split, the artifact, the file of costs, or the rival.
    """

    case: str
    what: str
    name: str
    devices: tuple[str, ...] = ()


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--iterations", default=50, show_default=True, help="Runs of each artifact.")
@click.option("--warmup", default=10, show_default=True, help="Runs before them.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds for each step.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write a line a step.")
def run(folder: Path, iterations: int, warmup: int, timeout: float, json_file: Path | None) -> None:
    """Check and measure everything in FOLDER on the GPUs of this machine; write its costs.

    Each step has a process of its own and a time limit, so that a failure, which may leave a GPU's
    context unusable, is one line and the rest goes on.
    """
    try:
        driver = load_driver()
        gpus = [f"cuda:{i}" for i in range(driver.gpu_count())]
        click.echo(f"{len(gpus)} GPUs of architecture {driver.arch(0)}")
    except HiosError as error:
        raise click.ClickException(str(error)) from error
    (folder / "costs").mkdir(exist_ok=True)
    for left in folder.glob(f"*/*{SEPARATE}"):
        join(left)
    results: dict[Step, dict[str, Any]] = {}
    for step in steps_of(folder, gpus):
        result = isolated(folder, step, iterations, warmup, timeout)
        if "failed" in result and step.what in ("streams", "graph"):
            # Where every call waits for its end, the call that failed is the one that is named
            again, blocking = replace(step, what="streams"), {"CUDA_LAUNCH_BLOCKING": "1"}
            result["blocking"] = isolated(folder, again, 1, 0, timeout, blocking)
        results[step] = result
        line = json.dumps({**asdict(step), **result})
        click.echo(line)
        if json_file is not None:
            with json_file.open("a") as file:
                file.write(line + "\n")
    _print_results(results)
    raise SystemExit(any("failed" in r for step, r in results.items() if step.what != "rival"))


def steps_of(folder: Path, gpus: Sequence[str]) -> Iterator[Step]:
    """Yield all steps: parts, then small networks first, and of each what says most."""
    cases = {path.parent for path in folder.glob(f"*/{REFERENCE}")}
    splits = {_devices(path, gpus) for path in folder.glob("*/*-parts*.hios")}
    for devices in sorted(splits, key=len):
        yield Step("parts of a GPU", "parts", f"cuda:0/{len(devices)}", devices)
    for case in sorted(cases, key=lambda case: ((case / MODEL).stat().st_size, case.name)):
        artifacts = {path: _devices(path, gpus) for path in sorted(case.glob("*-*.hios"))}
        on_one = sorted(artifacts.items(), key=lambda item: len(item[1]))
        for what in ("graph", "streams", "overlap"):
            yield from (Step(case.name, what, path.stem, where) for path, where in on_one)
        yield from (Step(case.name, "rival", name) for name in RIVALS)
        measured: dict[str, tuple[str, ...]] = {}  # by file of costs: as many as a link takes
        for devices in artifacts.values():
            file, distinct = _costs_file(case, devices), tuple(dict.fromkeys(devices))[:2]
            measured[file] = max(measured.get(file, ()), distinct, key=len)
        yield from (Step(case.name, "costs", file, where) for file, where in measured.items())


def isolated(
    folder: Path,
    step: Step,
    iterations: int,
    warmup: int,
    timeout: float,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what a process found in `step`, or why it failed."""
    words = (json.dumps(asdict(step)), str(iterations), str(warmup))
    command = [sys.executable, __file__, "step", str(folder), *words]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {timeout:g} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return cast(dict[str, Any], json.loads(lines[-1]))
    reason = (done.stderr.strip() or "no message").splitlines()[-1]
    return {"failed": f"{reason} (exit status {done.returncode})"}


@main.command(name="step", hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("step")
@click.argument("iterations", type=int)
@click.argument("warmup", type=int)
def step_command(folder: Path, step: str, iterations: int, warmup: int) -> None:
    """Do one step, and print what was found as JSON."""
    fields = json.loads(step)
    chosen = Step(**{**fields, "devices": tuple(fields["devices"])})
    try:
        click.echo(json.dumps(perform(folder, chosen, iterations, warmup)))
    except HiosError as error:
        raise click.ClickException(str(error)) from error


def perform(folder: Path, step: Step, iterations: int, warmup: int) -> dict[str, Any]:
    """Do one step in this process."""
    case = folder / step.case
    if step.what == "parts":
        return check_parts(load_driver(), step.devices)
    if step.what == "costs":
        write_costs(*measure_artifact(case / KERNELS, step.devices), folder / "costs" / step.name)
        return {"file": step.name}
    if step.what == "rival":
        run_once = RIVALS[step.name](case)
        return {
            "error": _rival_error(case, run_once()),
            **_statistics(run_once, iterations, warmup),
        }
    artifact = case / f"{step.name}.hios"
    if step.what == "overlap":
        inputs = _reference(case)["input"]
        with runtime.load(artifact, devices=step.devices, gpu_trace=True) as session:
            session.run(inputs)
            _, trace = session.run_traced(inputs)
            return {"overlap": _overlap(trace)}
    return _check(artifact, step, case, iterations, warmup)


def _print_results(results: Mapping[Step, Mapping[str, Any]]) -> None:
    """Print a table: a row for each artifact and rival, with its latency, or how it failed."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for step, result in results.items():
        if step.what in ("parts", "costs"):
            continue
        row = rows.setdefault((step.case, step.name), {})
        if "failed" in result:
            row[step.what] = "failed"
        elif step.what == "overlap":
            row["overlap"] = f"{result['overlap']:.2f}"
        else:
            row[step.what] = f"{result['median_ms']:.3f} ± {result['spread_ms']:.3f}"
            row["error"] = f"{result['error']:.1e}"
    columns = ["graph", "streams", "rival", "overlap", "error"]
    print_table(
        "median ms of a run ± interquartile range",
        ["network", "artifact or rival", *columns],
        [[*key, *(row.get(column, "") for column in columns)] for key, row in rows.items()],
    )


def _devices(artifact: Path, gpus: Sequence[str]) -> tuple[str, ...]:
    """Return where to run an artifact: on streams of one GPU where several are missing."""
    devices = tuple(device.name for device in read_manifest(artifact).devices)
    are_parts = gpu_place(devices[0]).parts > 1
    return devices if are_parts or len(devices) <= len(gpus) else (gpus[0],) * len(devices)


def _tvm_default(case: Path) -> Callable[[], object]:
    import tvm
    from tvm.runtime.vm import VirtualMachine

    device = tvm.cuda(0)
    main_function = VirtualMachine(tvm.runtime.load_module(str(case / TVM_DEFAULT)), device)["main"]
    inputs = _reference(case)["input"].values()

    def run_once() -> object:
        arguments = [tvm.runtime.tensor(array, device) for array in inputs]
        result = main_function(*arguments)
        results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return [tensor.numpy() for tensor in results]

    return run_once


def _onnxruntime_cuda(case: Path) -> Callable[[], object]:
    import onnxruntime

    name = "CUDAExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        raise HiosError("ONNX Runtime is installed without CUDA")
    options = {"use_tf32": int(_precision(case) != "fp32")}  # which it is by default
    session = onnxruntime.InferenceSession(str(case / MODEL), providers=[(name, options)])
    return partial(session.run, None, _reference(case)["input"])


def _torch(case: Path, *, mode: str | None) -> Callable[[], object]:
    import onnx
    import torch
    from torch_network import TorchNetwork

    precision = _precision(case)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    network: Callable[..., Any] = TorchNetwork(onnx.load(case / MODEL)).eval().cuda()
    if mode is not None:
        network = torch.compile(network, mode=mode)
    inputs = [torch.from_numpy(value).pin_memory() for value in _reference(case)["input"].values()]

    def run_once() -> object:
        with (
            torch.inference_mode(),
            torch.autocast("cuda", torch.float16, enabled=precision == "fp16"),
        ):
            results = network(*(value.cuda(non_blocking=True) for value in inputs))
            return [result.cpu() for result in results]

    return run_once


def _torch_graph(case: Path) -> Callable[[], object]:
    """PyTorch's fastest form: cuDNN's best kernels, channels last, one CUDA graph."""
    import onnx
    import torch
    from torch_network import TorchNetwork

    precision = _precision(case)
    dtype = torch.float16 if precision == "fp16" else torch.float32
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    network = TorchNetwork(onnx.load(case / MODEL)).eval().cuda()
    network = network.to(dtype=dtype, memory_format=torch.channels_last)
    given = [torch.from_numpy(value).pin_memory() for value in _reference(case)["input"].values()]
    layouts = [
        torch.channels_last if value.ndim == 4 else torch.contiguous_format for value in given
    ]
    inputs = [
        value.cuda().to(dtype=dtype, memory_format=layout)
        for value, layout in zip(given, layouts, strict=True)
    ]
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.inference_mode():
        with torch.cuda.stream(side):  # as PyTorch asks for before a capture
            for _ in range(3):
                network(*inputs)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            outputs = network(*inputs)

    def run_once() -> object:
        for place, value in zip(inputs, given, strict=True):
            place.copy_(value, non_blocking=True)
        graph.replay()
        return [output.float().cpu() for output in outputs]

    return run_once


RIVALS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "tvm-default": _tvm_default,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "torch-eager": partial(_torch, mode=None),
    "torch-graph": _torch_graph,
    "torch-compiled": partial(_torch, mode="reduce-overhead"),  # which is with CUDA graphs
}


def _precision(case: Path) -> Precision:
    return cast(Precision, (case / PRECISION).read_text())


def _reference(case: Path) -> dict[str, dict[str, np.ndarray]]:
    arrays: dict[str, dict[str, np.ndarray]] = {"input": {}, "output": {}}
    with np.load(case / REFERENCE) as file:
        for key in file.files:
            kind, _, name = key.partition("/")
            arrays[kind][name] = file[key]
    return arrays


def _check(artifact: Path, step: Step, case: Path, iterations: int, warmup: int) -> dict[str, Any]:
    """Compare outputs with the recorded ones and with each other's bits, and measure latency."""
    reference, largest_error = _reference(case), RTOL[_precision(case)]
    inputs, expected = reference["input"], reference["output"]
    found: dict[str, Any] = {"predicted_ms": read_manifest(artifact).prediction.makespan_ms}
    graph = step.what == "graph"
    with runtime.load(artifact, devices=step.devices, cuda_graph=graph) as session:
        outputs = session.run(inputs)
        error = max(d.max_error for d in deviations(outputs, expected))
        if not error <= largest_error:
            raise HiosError(f"the outputs differ by {error:.1e}")
        for _ in range(REPEATED):
            again = session.run(inputs)
            if any(again[name].tobytes() != value.tobytes() for name, value in outputs.items()):
                raise HiosError("two runs on the same inputs differ")
        run_once = partial(session.run, inputs)
        return {**found, "error": error, **_statistics(run_once, iterations, warmup)}


def _rival_error(case: Path, results: object) -> float:
    """Return how far a rival's outputs are from the recorded ones."""
    values = results if isinstance(results, list) else [results]
    expected = _reference(case)["output"]
    outputs = dict(zip(expected, (np.asarray(value, np.float32) for value in values), strict=True))
    return max(d.max_error for d in deviations(outputs, expected))


def _statistics(run: Callable[[], object], iterations: int, warmup: int) -> dict[str, float]:
    times = list(_latencies(run, iterations, warmup))
    low, middle, high = np.percentile(times, (25, 50, 75))
    return {"median_ms": float(middle), "spread_ms": float(high - low), "min_ms": min(times)}


def _latencies(run: Callable[[], object], iterations: int, warmup: int) -> Iterator[float]:
    for _ in range(warmup):
        run()
    for _ in range(iterations):
        start = time.perf_counter()
        run()
        yield 1000 * (time.perf_counter() - start)


def _overlap(trace: RunTrace) -> float:
    """Return the time of all kernels over the time in which any runs; 1 where none overlap."""
    calls = [span for span in trace.spans if span.kind == "call"]
    together = RunTrace(tuple(calls), trace.start_ns, trace.end_ns).milliseconds("call")
    total = sum(span.end_ns - span.start_ns for span in calls) / 1e6
    return total / sum(together.values())


if __name__ == "__main__":
    main()
