"""Print what the tile model expects of convolutions and products on a GPU, costliest first.

MODEL is an ONNX file, or a name of `hios-tvm zoo`. Beside the model's time stand what it was with
slices of one depth, no parts and weights of single precision, and what the GPU could do at most:
multiply-adds at its peak, tensors once through its memory. These are no measurements; needs neither
nvcc nor a GPU:

    python scripts/gpu_tile_model.py inception_v3 --precision fp32
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import click
from tvm import tirx

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.cuda.backend import CudaBackend
from hios_tvm.backends.cuda.targets import cuda_target
from hios_tvm.backends.network import Network, lower_network
from hios_tvm.cli.options import print_table
from hios_tvm.frontends import load_model
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.gpu_rules import gpu_rules
from hios_tvm.passes.gpu_rules.implicit_gemm import ImplicitGemm
from hios_tvm.passes.gpu_rules.matrix_product import MatrixProduct, matrix_product
from hios_tvm.passes.gpu_rules.tensor_cores import TensorCores
from hios_tvm.passes.gpu_rules.tiles import (
    GEMM_TILES,
    WARP_TILES,
    GemmTile,
    ProductSizes,
    Slicing,
    WarpTile,
    blocks_of,
    gemm_cycles,
    warp_cycles,
)
from hios_tvm.passes.schedule_kernels import ScheduleRule
from hios_tvm.schema.gpu_models import GpuModel, gpu_model
from hios_tvm.schema.precisions import Precision
from hios_tvm.zoo import NETWORKS, build


@dataclass(frozen=True)
class Row:
    """A kernel that is called so many times; times of one call in microseconds."""

    calls: int
    sizes: ProductSizes
    tile: GemmTile | WarpTile
    before_us: float
    now_us: float
    arithmetic_us: float
    memory_us: float

    @property
    def limit_us(self) -> float:
        """What the hardware takes at least."""
        return max(self.arithmetic_us, self.memory_us)

    def cells(self) -> list[str]:
        """Return the row as the table shows it."""
        sizes, slicing = self.sizes, self.tile.slicing
        return [
            f"{sizes.rows}x{sizes.columns}x{sizes.reduced}",
            str(self.calls),
            f"{self.tile.rows}x{self.tile.columns}x{slicing.depth}",
            f"{slicing.parts}",
            f"{slicing.stages}",
            str(blocks_of(self.tile, sizes)),
            *(f"{us:.1f}" for us in (self.before_us, self.now_us)),
            *(f"{us:.2f}" for us in (self.arithmetic_us, self.memory_us)),
        ]


def modelled(
    product: MatrixProduct, rules: list[ScheduleRule], units: int
) -> tuple[GemmTile | WarpTile, float, float]:
    """Return the tile of a product, and its cycles with the first depth alone, and now."""
    sizes = product.sizes
    for rule in rules:
        if isinstance(rule, TensorCores) and (warp := rule.tile_for(product)):
            form, plain = rule.format, Slicing(rule.format.slices[0])
            tiles = [replace(tile, slicing=plain) for tile in WARP_TILES]
            single = replace(sizes, weight_bytes=4)
            before = min(warp_cycles(tile, single, units, form) for tile in tiles)
            return warp, before, warp_cycles(warp, sizes, units, form)
    (rule,) = (rule for rule in rules if isinstance(rule, ImplicitGemm))
    gemm = rule.tile_for(product)
    before = min(gemm_cycles(tile, sizes, units) for tile in GEMM_TILES)
    return gemm, before, gemm_cycles(gemm, sizes, units)


def rows_of(network: Network, gpu: GpuModel, precision: Precision) -> Iterator[Row]:
    """Yield a row for each kernel that is a convolution of one group or a product."""
    graph = network.graph
    rules = gpu_rules(network.on("cuda:0").target, gpu, precision)
    calls = Counter(operator.kernel for operator in graph.operators)
    called = {operator.kernel: operator for operator in graph.operators}
    for var, func in network.kernels.functions_items():
        if not isinstance(func, tirx.PrimFunc):
            continue
        narrowed = [rule.narrowed(func).func for rule in rules if isinstance(rule, TensorCores)]
        product = matrix_product(*narrowed or [func])
        if product is None:
            continue
        operator = called[str(var.name_hint)]
        nbytes = sum(graph.tensor[t].nbytes for t in (*operator.inputs, *operator.outputs))
        sizes = product.sizes
        flops = 2.0 * sizes.rows * sizes.columns * sizes.reduced
        tile, before, now = modelled(product, rules, gpu.multiprocessors)
        yield Row(
            calls=calls[operator.kernel],
            sizes=sizes,
            tile=tile,
            before_us=before / gpu.clock_ghz / 1e3,
            now_us=now / gpu.clock_ghz / 1e3,
            arithmetic_us=flops / gpu.gflops(precision) / 1e3,
            memory_us=nbytes / gpu.bandwidth_gb_s / 1e3,
        )


@click.command(help=__doc__)
@click.argument("model")
@click.option("--arch", default="sm_90", show_default=True)
@click.option(
    "--precision", default="fp32", show_default=True, type=click.Choice(CudaBackend.precisions)
)
@click.option("--rows", default=12, show_default=True, help="Kernels that are shown.")
def main(model: str, arch: str, precision: str, rows: int) -> None:
    imported = from_onnx(build(model)) if model in NETWORKS else load_model(Path(model))
    host, precise = host_target(), cast(Precision, precision)
    network = lower_network(imported, host, cuda_target(arch, host, precise))
    gpu = gpu_model(arch)
    found = sorted(rows_of(network, gpu, precise), key=lambda row: -row.calls * row.now_us)
    columns = ["sizes", "calls", "tile", "parts", "stages", "blocks", "before", "now"]
    columns += ["arithmetic", "memory"]
    title = f"{Path(model).stem}, {precision}, by the tile model of {gpu.name}; times in us"
    print_table(title, columns, [row.cells() for row in found[:rows]])
    before, now, limit = (
        math.fsum(row.calls * time for row, time in zip(found, times, strict=True)) / 1e3
        for times in (
            [row.before_us for row in found],
            [row.now_us for row in found],
            [row.limit_us for row in found],
        )
    )
    idle = sum(row.calls for row in found if blocks_of(row.tile, row.sizes) < gpu.multiprocessors)
    calls = sum(row.calls for row in found)
    click.echo(f"all {calls} calls: before {before:.2f} ms, now {now:.2f} ms, limit {limit:.2f} ms")
    click.echo(f"{idle} calls with fewer blocks than {gpu.multiprocessors} multiprocessors")


if __name__ == "__main__":
    main()
