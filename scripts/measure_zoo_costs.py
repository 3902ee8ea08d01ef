"""Measure the operators of the six networks on a device; write a cost file with the graph of each.

The files are what `hios-tvm schedule` and scripts/benchmark_schedulers.py read. Times are those of
the cores of one device of this machine, alone; transfers follow from the bytes of the edges and
from a link that is chosen when the graph is scheduled. Two cores say how kernels scale:
`scripts/benchmark_schedulers.py cores` reads files of both.

    python scripts/measure_zoo_costs.py --networks squeezenet1_1 --device cpu@0
    python scripts/measure_zoo_costs.py --device cpu@0-1
"""

import tempfile
from pathlib import Path

import click

from hios_tvm.backends.cache import CostCache, default_cache_dir
from hios_tvm.backends.cpu.costs import collect_costs
from hios_tvm.backends.cpu.platform import cpu_platform
from hios_tvm.backends.network import lower_network
from hios_tvm.cli.progress import progress_bar
from hios_tvm.frontends import load_model
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.schema.device_names import parse_cores
from hios_tvm.schema.instance import Instance
from hios_tvm.zoo import NETWORKS, build
from hios_tvm.zoo.costs import COSTS_DIR, cost_file_name


@click.command(help=__doc__)
@click.option("--networks", default=",".join(NETWORKS), help="Comma-separated.  [default: all six]")
@click.option("--device", default="cpu@0", show_default=True)
@click.option(
    "--folder", type=click.Path(path_type=Path), default=COSTS_DIR, help="Where the files go."
)
@click.option("--no-cache", is_flag=True, help="Measure anew, whatever was measured before.")
def main(networks: str, device: str, folder: Path, no_cache: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cache = None if no_cache else CostCache(default_cache_dir())
    for name in networks.split(","):
        with tempfile.TemporaryDirectory() as temporary, progress_bar() as progress:
            model = Path(temporary) / f"{name}.onnx"
            model.write_bytes(build(name).SerializeToString())
            network = lower_network(load_model(model), "host", name=name)
            cpu = network.lowered["cpu"]
            platform = cpu_platform([device], cpu.target)
            costs = collect_costs(
                cpu.mod,
                cpu.graph,
                cpu.target,
                platform,
                cache=cache,
                kernel_dir=default_cache_dir() / "kernels",
                progress=progress,
            )
        instance = Instance(network.graph, costs, platform)
        path = folder / cost_file_name(name, len(parse_cores(device)))
        instance.save(path)
        total_ms = sum(timing.ms for times in costs.latency.values() for timing in times.values())
        click.echo(
            f"{path}: {len(network.graph.operators)} operators, {len(network.graph.edges)} edges, "
            f"{total_ms:.2f} ms, {path.stat().st_size / 1e3:.0f} kB"
        )
    click.echo(f"machine: {describe_machine()}")


if __name__ == "__main__":
    main()
