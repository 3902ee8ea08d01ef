"""Check and measure artifacts for GPUs: `prepare` where the compiler is, `run` where the GPU is.

The first needs nvcc and no GPU, the second TVM's runtime and no compiler. Costs are estimates in
the first round; `run` measures them, and `prepare --costs` uses what it has measured:

    python scripts/check_cuda.py prepare cuda-check --target sm_90
    ./scripts/check_cuda.sh cuda-check --json first.json          # on the machine with the GPU
    python scripts/check_cuda.py prepare cuda-check --target sm_90 --costs cuda-check/costs
    ./scripts/check_cuda.sh cuda-check --json scripts/results/cuda.json
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import numpy as np

from hios_tvm import runtime
from hios_tvm.cli.options import precision_option
from hios_tvm.errors import HiosError
from hios_tvm.measuring.artifact_costs import measure_artifact, write_costs
from hios_tvm.runtime.devices.cuda.driver import load_driver
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.runtime.trace import RunTrace
from hios_tvm.schema.device_names import gpu_place, split_devices
from hios_tvm.schema.gpu_models import Precision
from hios_tvm.verification.deviation import RTOL, deviations

NETWORKS = "inception_v3,nasnet_a_large,randwire,squeezenet1_1,resnet50,densenet121"
ON_ONE = ("sequential", "ios", "hios-lp", "auto")
ON_SEVERAL = ("hios-lp", "hios-mr", "auto")
KERNELS, REFERENCE = "kernels.hios", "reference.npz"
MODEL, TVM_DEFAULT = "model.onnx", "tvm-default.so"  # what rivals run
PRECISION = "precision.txt"  # of a case


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


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--iterations", default=50, show_default=True, help="Runs of each artifact.")
@click.option("--warmup", default=10, show_default=True, help="Runs before them.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write results there.")
def run(folder: Path, iterations: int, warmup: int, json_file: Path | None) -> None:
    """Check and measure everything in FOLDER on the GPUs of this machine; write its costs."""
    try:
        driver = load_driver()
    except HiosError as error:
        raise click.ClickException(str(error)) from error
    gpus = [f"cuda:{i}" for i in range(driver.gpu_count())]
    click.echo(f"{len(gpus)} GPUs of architecture {driver.arch(0)}")
    (folder / "costs").mkdir(exist_ok=True)
    results: dict[str, Any] = {"gpus": len(gpus), "arch": driver.arch(0), "cases": {}}
    failed = False
    for case in sorted(path.parent for path in folder.glob(f"*/{REFERENCE}")):
        found = results["cases"][case.name] = {}
        artifacts = {path: _devices(path, gpus) for path in sorted(case.glob("*-*.hios"))}
        measured: dict[str, tuple[str, ...]] = {}  # by file of costs: as many as a link takes
        for devices in artifacts.values():
            file, distinct = _costs_file(case, devices), tuple(dict.fromkeys(devices))[:2]
            measured[file] = max(measured.get(file, ()), distinct, key=len)
        for file, distinct in measured.items():
            write_costs(*measure_artifact(case / KERNELS, distinct), folder / "costs" / file)
        for artifact, devices in artifacts.items():
            try:
                result = _check(artifact, devices, case, iterations, warmup)
            except HiosError as error:
                result, failed = {"failed": str(error)}, True
            found[artifact.stem] = result
            click.echo(f"{case.name} {artifact.stem} on {','.join(devices)}: {json.dumps(result)}")
        for name, rival in RIVALS.items():
            try:
                result = _statistics(rival(case), iterations, warmup)
            except Exception as error:  # a rival that is missing or fails is no fault of ours
                result = {"failed": f"{type(error).__name__}: {error}"}
            found[name] = result
            click.echo(f"{case.name} {name}: {json.dumps(result)}")
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=1) + "\n")
    raise SystemExit(failed)


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


RIVALS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "tvm-default": _tvm_default,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "torch-eager": partial(_torch, mode=None),
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


def _check(
    artifact: Path, devices: Sequence[str], case: Path, iterations: int, warmup: int
) -> dict[str, Any]:
    """Compare outputs with the recorded ones, measure latency and how much overlaps."""
    reference, largest_error = _reference(case), RTOL[_precision(case)]
    inputs, expected = reference["input"], reference["output"]
    result: dict[str, Any] = {"predicted_ms": read_manifest(artifact).prediction.makespan_ms}
    for label, graph in (("streams", False), ("graph", True)):
        with runtime.load(artifact, devices=devices, cuda_graph=graph) as session:
            outputs = session.run(inputs)
            error = max(d.max_error for d in deviations(outputs, expected))
            if not error <= largest_error:
                raise HiosError(f"with {label} the outputs differ by {error:.1e}")
            run_once = partial(session.run, inputs)
            result[label] = {"error": error, **_statistics(run_once, iterations, warmup)}
    with runtime.load(artifact, devices=devices, gpu_trace=True) as session:
        session.run(inputs)
        _, trace = session.run_traced(inputs)
        result["overlap"] = _overlap(trace)
    return result


def _statistics(run: Callable[[], object], iterations: int, warmup: int) -> dict[str, float]:
    times = list(_latencies(run, iterations, warmup))
    return {"median_ms": statistics.median(times), "min_ms": min(times)}


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
