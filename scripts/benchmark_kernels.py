#!/usr/bin/env python3
"""Measure every distinct convolution and dense layer of the benchmark networks on one core.

The core's peak is what a loop of multiply-adds in registers reaches. It is measured between the
kernels, because clocks change and other processes share the core: each round times the loop and
then each kernel, and the best of all rounds counts. Layers below three quarters of the peak get
more rounds: on a busy machine most of them were only disturbed. Convolutions by Winograd's method
count the multiplications that they save, and may be above the peak.

    ./scripts/benchmark_kernels.py                     # all networks at full size
    ./scripts/benchmark_kernels.py squeezenet1_1 --rounds 5 --json kernels.json
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import tvm
from rich.progress import track
from tvm import tirx
from tvm.ir import Call
from tvm.script import tirx as T

from hios_tvm.backends.cpu.targets import host_target, vector_lanes
from hios_tvm.backends.network import lower
from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import print_table
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.cpu_rules.loop_nest import allocate, emitted, serial
from hios_tvm.zoo import NETWORKS, build

PEAK_CHAINS = 12
PEAK_STEPS = 4096
LARGE_LAYER_MFLOP = 20
DISTURBED_SHARE = 0.75


@dataclass(frozen=True)
class Layer:
    """A kernel with its arguments' shapes; `calls` counts it in all networks."""

    kernel: str
    shapes: tuple[tuple[int, ...], ...]
    mflop: float
    calls: int


@dataclass(frozen=True)
class Result:
    """The best time of a layer, and what share of the peak that is."""

    layer: Layer
    milliseconds: float
    gflops: float
    share: float


def layers_of(mod: tvm.IRModule) -> Iterator[tuple[str, tuple[tuple[int, ...], ...], float]]:
    """Yield name, shapes of arguments and results, and MFLOP of each convolution and product."""
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not isinstance(call, Call) or len(call.args[1].fields) < 2:
                continue
            shapes = [tuple(map(int, arg.ty.shape)) for arg in call.args[1].fields]
            output = tuple(map(int, binding.var.ty.shape))
            name = call.args[0].name_hint
            packed = [shape for shape in shapes if len(shape) == 5]
            if "depthwise" in name:
                window = shapes[1][:2]
            elif "winograd" in name:  # as much work as the convolution would be otherwise
                window = (3, 3, shapes[0][-1])
            elif ("conv2d" in name or "matmul" in name) and packed:
                window = packed[0][1:4]
            else:
                continue
            yield name, (*shapes, output), 2e-6 * math.prod(output) * math.prod(window)


def peak_kernel(lanes: int) -> tirx.PrimFunc:
    """A loop of independent multiply-adds that never touches memory."""
    factor = tirx.decl_buffer((lanes,), "float32", "factor")
    out = tirx.decl_buffer((PEAK_CHAINS * lanes,), "float32", "out")
    chains = [tirx.Ramp(i * lanes, 1, lanes) for i in range(PEAK_CHAINS)]
    value = factor[tirx.Ramp(0, 1, lanes)]
    zero = tirx.Broadcast(tirx.const(0.0, "float32"), lanes)

    def write() -> None:
        sums = allocate("sums", PEAK_CHAINS * lanes)
        for chain in chains:
            T.buffer_store(sums, zero, [chain])
        for _ in serial("step", PEAK_STEPS):
            for chain in chains:
                T.buffer_store(sums, sums[chain] * value + value, [chain])
        for chain in chains:
            T.buffer_store(out, sums[chain], [chain])

    kernel = tirx.PrimFunc([factor, out], emitted(write))
    return kernel.with_attr({"global_symbol": "peak", "tirx.noalias": True, "s_tir": True})


def timer(
    library: tvm.runtime.Module, kernel: str, shapes: tuple[tuple[int, ...], ...]
) -> Callable[[], float]:
    """Return a function that runs a kernel for some milliseconds and gives its best seconds."""
    rng = np.random.default_rng(0)
    arrays = [tvm.runtime.tensor(rng.uniform(0.1, 0.9, s).astype("float32")) for s in shapes]
    evaluate = library.time_evaluator(kernel, tvm.cpu(), number=1, repeat=3, min_repeat_ms=1)
    return lambda: min(evaluate(*arrays).results)


def measure(networks: Sequence[str], rounds: int) -> tuple[float, list[Result]]:
    """Return the peak in GFLOP/s, and the layers of all networks, slowest in total first."""
    target = host_target()
    lanes = vector_lanes(target)
    # One thread, and its parallel loops inline
    tvm.get_global_func("runtime.config_threadpool")(1, 1, ["0"], 1)
    peak = timer(
        tvm.compile(peak_kernel(lanes), target=target).mod,
        "peak",
        ((lanes,), (PEAK_CHAINS * lanes,)),
    )
    layers: dict[Layer, Callable[[], float]] = {}
    for network in track(networks, "compile"):
        mod = lower(from_onnx(build(network)), target)
        found = Counter(layers_of(mod))
        kernels = {name: mod[name].with_attr("global_symbol", name) for name, *_ in found}
        library = tvm.compile(tvm.IRModule(kernels), target=target).mod
        for (name, shapes, mflop), calls in found.items():
            layer = Layer(f"{network}: {name}", shapes, mflop, calls)
            layers[layer] = timer(library, name, shapes)
    peak_flop = 2 * lanes * PEAK_CHAINS * PEAK_STEPS
    best_peak = math.inf
    best = dict.fromkeys(layers, math.inf)
    for _ in track(range(rounds), "measure"):
        for layer, run in layers.items():
            best_peak = min(best_peak, peak())
            best[layer] = min(best[layer], run())
    for _ in track(range(2 * rounds), "measure what may have been disturbed"):
        for layer, run in layers.items():
            if layer.mflop * 1e6 / best[layer] < DISTURBED_SHARE * peak_flop / best_peak:
                best_peak = min(best_peak, peak())
                best[layer] = min(best[layer], run())
    peak_gflops = 1e-9 * peak_flop / best_peak
    results = []
    for layer, seconds in best.items():
        gflops = layer.mflop / seconds / 1e3
        results.append(Result(layer, seconds * 1e3, gflops, gflops / peak_gflops))
    results.sort(key=lambda result: -result.milliseconds * result.layer.calls)
    return peak_gflops, results


def mean_share(results: list[Result]) -> float:
    """Geometric mean of the shares of the peak, weighted by the time of the layers."""
    weights = [result.milliseconds * result.layer.calls for result in results]
    logs = np.log([result.share for result in results])
    return float(np.exp(np.average(logs, weights=weights)))


def worst_large_share(results: list[Result]) -> float:
    """The least share of a layer of more than `LARGE_LAYER_MFLOP`."""
    large = [result.share for result in results if result.layer.mflop > LARGE_LAYER_MFLOP]
    return min(large, default=math.nan)


def row(result: Result) -> list[str]:
    layer = result.layer
    shapes = " ".join("x".join(map(str, shape)) for shape in layer.shapes)
    cells = [layer.kernel, shapes, f"{layer.mflop:.1f}", str(layer.calls)]
    return [*cells, f"{result.milliseconds:.4f}", f"{result.gflops:.0f}", f"{result.share:.0%}"]


@click.command(help=__doc__)
@click.argument("networks", nargs=-1, type=click.Choice(list(NETWORKS)))
@click.option("--rounds", default=3, show_default=True, help="How often each kernel is timed.")
@click.option("--rows", default=60, show_default=True, help="Layers to print, slowest first.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write JSON there.")
def main(networks: tuple[str, ...], rounds: int, rows: int, json_file: Path | None) -> None:
    peak, results = measure(networks or tuple(NETWORKS), rounds)
    columns = ["layer", "shapes", "MFLOP", "calls", "ms", "GFLOP/s", "of peak"]
    print_table("layers", columns, list(map(row, results[:rows])))
    mean, worst = mean_share(results), worst_large_share(results)
    stdout().print(f"peak of one core: {peak:.0f} GFLOP/s (multiply-adds in registers)")
    stdout().print(
        f"{len(results)} layers, geometric mean weighted by time: {mean:.0%} of the peak"
    )
    stdout().print(f"worst layer above {LARGE_LAYER_MFLOP} MFLOP: {worst:.0%} of the peak")
    if json_file is not None:
        layers = [asdict(result) for result in results]
        figures = {"peak_gflops": peak, "mean_share": mean, "worst_large_share": worst}
        json_file.write_text(json.dumps({**figures, "layers": layers}, indent=2))


if __name__ == "__main__":
    main()
