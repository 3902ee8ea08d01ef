"""A network in 8 bits against itself in bfloat16 and single precision, and two other engines.

bfloat16 takes part where the CPU multiplies in it (AVX512-BF16).

Each model is quantized by `onnxruntime.quantization` in QDQ form, with random inputs for
calibration: activations of uint8, weights of int8 for each channel. Artifacts are compiled for all
cores as one device. Contestants take turns of some hundred milliseconds.

    python scripts/benchmark_quantized.py resnet50.onnx bert.onnx
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from tvm.target import codegen

import hios_tvm
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.cli.options import print_table
from hios_tvm.files import temporary_folder
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.schema.precisions import Precision

Feeds = Mapping[str, np.ndarray]

TURN_S = 0.35
PAUSE_S = 0.15


@click.command(help=__doc__)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--turns", default=8, show_default=True)
def main(models: tuple[Path, ...], turns: int) -> None:
    rows = []
    for model in models:
        with temporary_folder() as folder:
            medians = measure(contestants(model, folder), turns)
        ours = medians["artifact, int8"]
        for name, ms in medians.items():
            rows.append([f"{model.stem}: {name}", f"{ms:.2f}", f"{ms / ours:.2f}"])
    print_table("", ["contestant", "median ms", "over int8"], rows)


def random_feeds(model: Path, seed: int) -> Feeds:
    """Normal numbers; integers below 1000, and masks of ones."""
    random = np.random.default_rng(seed)
    feeds: dict[str, np.ndarray] = {}
    session = onnxruntime.InferenceSession(model)
    for value in session.get_inputs():
        if value.type == "tensor(float)":
            feeds[value.name] = random.standard_normal(value.shape, dtype=np.float32)
        elif "mask" in value.name:
            feeds[value.name] = np.ones(value.shape, np.int64)
        else:
            feeds[value.name] = random.integers(0, 1000, value.shape)
    return feeds


class RandomInputs(CalibrationDataReader):  # type: ignore[misc]  # it has no types
    """A few random inputs for calibration."""

    def __init__(self, model: Path) -> None:
        self._feeds: Iterator[Feeds] = iter([random_feeds(model, seed) for seed in range(4)])

    def get_next(self) -> Feeds | None:
        return next(self._feeds, None)


def quantized(model: Path, folder: Path) -> Path:
    prepared, result = folder / "prepared.onnx", folder / "int8.onnx"
    quant_pre_process(model, prepared, skip_symbolic_shape=True)
    options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(prepared, result, RandomInputs(model), per_channel=True, **options)
    return result


def contestants(model: Path, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what runs each contestant once, by name."""
    import openvino

    narrow, cores = quantized(model, folder), len(allowed_cores())
    feeds = random_feeds(model, 9)
    found: dict[str, Callable[[], Any]] = {}
    artifacts: list[tuple[str, Path, Precision]] = [
        ("artifact, int8", narrow, "fp32"),
        ("artifact, fp32", model, "fp32"),
    ]
    if codegen.llvm_cpu_has_features("avx512bf16", host_target()):
        artifacts.append(("artifact, bf16", model, "bf16"))
    for number, (name, source, precision) in enumerate(artifacts):
        compiled = hios_tvm.compile(source, folder / f"{number}.hios", precision=precision)
        found[name] = partial(compiled.load().run, feeds)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    engine = onnxruntime.InferenceSession(narrow, options)
    found["ONNX Runtime, int8"] = lambda: engine.run(None, feeds)
    network = openvino.Core().read_model(narrow)
    network.reshape({value.any_name: list(feeds[value.any_name].shape) for value in network.inputs})
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cores}
    request = openvino.Core().compile_model(network, "CPU", hints).create_infer_request()
    found["OpenVINO, int8"] = lambda: request.infer(feeds)
    return found


def measure(runs: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Return the median time of each in ms; the first run of a turn does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            time.sleep(PAUSE_S)
            run()
            end = time.perf_counter() + TURN_S
            while time.perf_counter() < end:
                begin = time.perf_counter()
                run()
                times[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
