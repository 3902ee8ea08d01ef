#!/usr/bin/env python3
"""Measure every distinct kernel of networks on one core and on all, and compare with the peak.

NETWORKS are names of the zoo and ONNX files. The peak of a core is what a loop of multiply-adds in
registers reaches. It is measured between the kernels, because clocks change and other processes
share the core; its best round counts, as that of each kernel does. Convolutions by Winograd's
method count the multiplications that they save, and may be above the peak. The executor runs the
kernels. Their activations are in the cache; their weights too, unless --cold is given.

    ./scripts/benchmark_kernels.py                     # all networks of the zoo at full size
    ./scripts/benchmark_kernels.py squeezenet1_1 networks/bert.dynamo.onnx --json kernels.json
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import tvm
from rich.progress import track
from tvm import s_tir, tirx
from tvm.script import tirx as T

from hios_tvm.backends.cache import kernel_dir
from hios_tvm.backends.cpu.codegen import compile_kernels
from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.cpu.targets import host_target, vector_lanes
from hios_tvm.backends.network import lower_network
from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import print_table
from hios_tvm.compiled_code import default_cache_dir
from hios_tvm.frontends import load_model
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.cpu_rules.loop_nest import allocate, emitted, parallel, serial
from hios_tvm.passes.tir_trees import nodes_of
from hios_tvm.runtime.devices import HOST
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.runtime.devices.cpu.kernels import measure_kernels
from hios_tvm.runtime.devices.kernel_calls import KernelArg, KernelCall, kernel_call
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.schema.kernel_shapes import (
    CONVOLUTION,
    PRODUCT,
    WINDOW,
    ConvolutionShape,
    ProductShape,
    WindowShape,
)
from hios_tvm.zoo import NETWORKS, build

PEAK = "peak"
PEAK_CHAINS = 12
PEAK_STEPS = 4096
PEAK_TASKS = 32
PEAK_MULTIPLY_ADDS = PEAK_TASKS * PEAK_STEPS * PEAK_CHAINS  # of vectors
LARGE_LAYER_MFLOP = 20
SHAPES: Mapping[str, type[ConvolutionShape] | type[WindowShape] | type[ProductShape]] = {
    CONVOLUTION: ConvolutionShape,
    WINDOW: WindowShape,
    PRODUCT: ProductShape,
}


@dataclass(frozen=True)
class Layer:
    """A kernel with its arguments' shapes; `calls` counts it in its network."""

    network: str
    kernel: str
    shapes: tuple[tuple[int, ...], ...]
    mflop: float
    calls: int


@dataclass(frozen=True)
class Result:
    """The best times of a layer on one core and on all, and its shares of the peak of these."""

    layer: Layer
    one_ms: float
    all_ms: float
    one_share: float
    all_share: float


@dataclass(frozen=True)
class Peaks:
    """What multiply-adds in registers reach on one core and on all together."""

    one_gflops: float
    all_gflops: float


@dataclass(frozen=True)
class Summary:
    """Kernels of a network, or of all, by time.

    `one_share` and `all_share` are the multiply-adds of convolutions and products over what the
    peak would do in their time; `speedup` is of all kernels' time, `product_speedup` of these.
    """

    one_ms: float
    all_ms: float
    one_share: float
    all_share: float
    speedup: float
    product_speedup: float


def kernel_mflop(kernel: tirx.PrimFunc) -> float:
    """Return the MFLOP of the convolutions and products of a kernel without loops for a target."""
    work = 0
    for block in nodes_of(kernel.body, s_tir.SBlock):
        for name, shape in SHAPES.items():
            if name in block.annotations:
                found = shape.from_annotation(block.annotations[name])
                is_pooling = isinstance(found, WindowShape) and found.operation != "product"
                work += 0 if is_pooling else found.work
    return 2e-6 * work


def peak_kernel(lanes: int) -> tirx.PrimFunc:
    """Loops of independent multiply-adds that never touch memory; cores share them."""
    factor = tirx.decl_buffer((lanes,), "float32", "factor")
    out = tirx.decl_buffer((PEAK_TASKS, PEAK_CHAINS * lanes), "float32", "out")
    chains = [tirx.Ramp(i * lanes, 1, lanes) for i in range(PEAK_CHAINS)]
    value = factor[tirx.Ramp(0, 1, lanes)]
    zero = tirx.Broadcast(tirx.const(0.0, "float32"), lanes)

    def write() -> None:
        for task in parallel("task", PEAK_TASKS, work=PEAK_MULTIPLY_ADDS * lanes):
            sums = allocate("sums", PEAK_CHAINS * lanes)
            for chain in chains:
                T.buffer_store(sums, zero, [chain])
            for _ in serial("step", PEAK_STEPS):
                for chain in chains:
                    T.buffer_store(sums, sums[chain] * value + value, [chain])
            for chain in chains:
                T.buffer_store(out, sums[chain], [task, chain])

    kernel = tirx.PrimFunc([factor, out], emitted(write))
    return kernel.with_attr({"global_symbol": PEAK, "tirx.noalias": True, "s_tir": True})


def compiled(name: str, target: tvm.target.Target) -> tuple[bytes, dict[Layer, KernelCall]]:
    """Return a library of a network's kernels and the peak's, and the calls of the layers."""
    model = from_onnx(build(name)) if name in NETWORKS else load_model(Path(name))
    network = lower_network(model, target)
    form = network.lowered[HOST]
    distinct = {op.kernel: op.name for op in form.graph.operators}
    kernels = {kernel: form.mod[kernel] for kernel in distinct}
    module = tvm.IRModule({**kernels, PEAK: peak_kernel(vector_lanes(target))})
    objects = compile_kernels(module, target, cache_dir=kernel_dir(default_cache_dir()))
    layers = {}
    count = Counter(op.kernel for op in form.graph.operators)
    for kernel, operator in distinct.items():
        call = kernel_call(form.graph, operator)
        shapes = tuple(arg.shape for arg in call.args)
        mflop = kernel_mflop(network.kernels[kernel])
        layers[Layer(Path(name).name, kernel, shapes, mflop, count[kernel])] = call
    return link_library(objects.values(), target), layers


def measure(networks: Sequence[str], rounds: int, cold: bool) -> tuple[Peaks, list[Result]]:
    """Return the peaks, and the layers of all networks, slowest first."""
    target = host_target()
    lanes = vector_lanes(target)
    cores = tuple(sorted(allowed_cores()))
    places = (cores[:1], cores)
    outputs = KernelArg((PEAK_TASKS, PEAK_CHAINS * lanes), "float32", "output")
    peak_call = KernelCall(PEAK, (KernelArg((lanes,), "float32"), outputs))
    libraries = [compiled(name, target) for name in track(networks, "compile")]
    never = (math.inf, math.inf)
    peak_ms = never
    best: dict[Layer, tuple[float, float]] = {}
    for _ in track(range(rounds), "measure"):
        for library, layers in libraries:
            calls = [call if cold else _warm(call) for call in layers.values()]
            pairs = [(call, some) for call in (peak_call, *calls) for some in places]
            times = [measured.ms for measured in measure_kernels(library, pairs)]
            peak, *of_layers = zip(times[::2], times[1::2], strict=True)
            peak_ms = _smaller(peak_ms, peak)
            for layer, pair in zip(layers, of_layers, strict=True):
                best[layer] = _smaller(best.get(layer, never), pair)
    mflop = 2e-6 * lanes * PEAK_MULTIPLY_ADDS
    peaks = Peaks(mflop / peak_ms[0], mflop / peak_ms[1])
    results = [
        Result(
            layer,
            one_ms,
            all_ms,
            layer.mflop / one_ms / peaks.one_gflops,
            layer.mflop / all_ms / peaks.all_gflops,
        )
        for layer, (one_ms, all_ms) in best.items()
    ]
    return peaks, sorted(results, key=lambda result: -result.one_ms * result.layer.calls)


def _smaller(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    return min(first[0], second[0]), min(first[1], second[1])


def _warm(call: KernelCall) -> KernelCall:
    """Return a call whose weights stay in the cache as activations do."""
    args = [replace(arg, role="input") if arg.role == "weight" else arg for arg in call.args]
    return KernelCall(call.kernel, tuple(args))


def summary(results: Iterable[Result]) -> Summary:
    results = list(results)
    products = [result for result in results if result.layer.mflop]

    def times(some: Iterable[Result]) -> tuple[float, float]:
        totals = [(r.one_ms * r.layer.calls, r.all_ms * r.layer.calls) for r in some]
        return sum(one for one, _ in totals), sum(every for _, every in totals)

    one_ms, all_ms = times(results)
    product_one_ms, product_all_ms = times(products)
    return Summary(
        one_ms,
        all_ms,
        sum(r.one_share * r.one_ms * r.layer.calls for r in products) / product_one_ms,
        sum(r.all_share * r.all_ms * r.layer.calls for r in products) / product_all_ms,
        one_ms / all_ms,
        product_one_ms / product_all_ms,
    )


def worst_large_share(results: list[Result]) -> float:
    """The least share of a layer of more than `LARGE_LAYER_MFLOP` on one core."""
    large = [result.one_share for result in results if result.layer.mflop > LARGE_LAYER_MFLOP]
    return min(large, default=math.nan)


def row(result: Result) -> list[str]:
    layer = result.layer
    shapes = " ".join("x".join(map(str, shape)) for shape in layer.shapes)
    cells = [layer.network, layer.kernel, shapes, f"{layer.mflop:.1f}", str(layer.calls)]
    cells += [f"{result.one_ms:.4f}", f"{result.one_share:.0%}", f"{result.all_ms:.4f}"]
    return [*cells, f"{result.all_share:.0%}", f"{result.one_ms / result.all_ms:.2f}"]


def summary_row(name: str, found: Summary) -> list[str]:
    cells = [name, f"{found.one_ms:.2f}", f"{found.one_share:.0%}", f"{found.all_ms:.2f}"]
    return [
        *cells,
        f"{found.all_share:.0%}",
        f"{found.product_speedup:.2f}",
        f"{found.speedup:.2f}",
    ]


@click.command(help=__doc__)
@click.argument("networks", nargs=-1)
@click.option("--rounds", default=3, show_default=True, help="How often each kernel is timed.")
@click.option("--cold", is_flag=True, help="Weights come from memory.")
@click.option("--rows", default=60, show_default=True, help="Layers to print, slowest first.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write JSON there.")
def main(
    networks: tuple[str, ...], rounds: int, cold: bool, rows: int, json_file: Path | None
) -> None:
    peaks, results = measure(networks or tuple(NETWORKS), rounds, cold)
    one, every = "of peak", "of peak, all cores"
    columns = ["network", "kernel", "shapes", "MFLOP", "calls", "ms", one, "all cores", every]
    print_table("kernels", [*columns, "speed-up"], list(map(row, results[:rows])))
    names = dict.fromkeys(result.layer.network for result in results)
    of_networks = {
        name: summary(result for result in results if result.layer.network == name)
        for name in sorted(names)
    }
    of_networks["all"] = summary(results)
    columns = ["network", "ms", one, "all cores", every, "speed-up of products", "of all kernels"]
    print_table("by time", columns, [summary_row(*item) for item in of_networks.items()])
    worst = worst_large_share(results)
    stdout().print(
        f"peak of one core {peaks.one_gflops:.0f} GFLOP/s, of all {peaks.all_gflops:.0f}"
    )
    stdout().print(f"worst kernel above {LARGE_LAYER_MFLOP} MFLOP: {worst:.0%} of the peak")
    if json_file is not None:
        data = {
            "machine": describe_machine().to_data(),
            "peaks": asdict(peaks),
            "cold_weights": cold,
            "worst_large_share": worst,
            "networks": {name: asdict(found) for name, found in of_networks.items()},
            "layers": [asdict(result) for result in results],
        }
        json_file.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
