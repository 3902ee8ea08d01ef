"""Measure the operators of the six networks on one core; write a cost file with the graph of each.

The files are what `hios-tvm schedule` and scripts/benchmark_schedulers.py read. Times are those of
the cores of this machine, alone; transfers follow from the bytes of the edges and from a link that
is chosen when the graph is scheduled. A device of several cores is measured as a whole, and so are
its parts: each operator may then take any number of its cores.

    python scripts/measure_zoo_costs.py --networks squeezenet1_1 --device cpu@0
    python scripts/measure_zoo_costs.py --device cpu@0-1
"""

import tempfile
from pathlib import Path

import click

from hios_tvm.backends.cache import CostCache
from hios_tvm.backends.cpu.costs import collect_costs
from hios_tvm.backends.cpu.platform import cpu_platform
from hios_tvm.backends.network import lower_network
from hios_tvm.cli.progress import progress_bar
from hios_tvm.compiled_code import default_cache_dir
from hios_tvm.frontends import load_model
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import cpu_divisions, cpu_model_name, parse_cores
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.platform import Device, Platform
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
            parts = {cpu_model_name(part): part for part in cpu_divisions(device)}
            tables = [
                collect_costs(
                    cpu.mod,
                    cpu.graph,
                    cpu.target,
                    cpu_platform([part], cpu.target),
                    cache=cache,
                    kernel_dir=default_cache_dir() / "kernels",
                    progress=progress,
                )
                for part in parts.values()
            ]
        costs = CostTable({model: times for t in tables for model, times in t.latency.items()})
        instance = Instance(network.graph, costs, _platform(device))
        path = folder / cost_file_name(name, len(parse_cores(device)))
        instance.save(path)
        total_ms = sum(timing.ms for timing in costs.latency[cpu_model_name(device)].values())
        click.echo(
            f"{path}: {len(network.graph.operators)} operators, {len(network.graph.edges)} edges, "
            f"{total_ms:.2f} ms, {path.stat().st_size / 1e3:.0f} kB"
        )
    click.echo(f"machine: {describe_machine()}")


def _platform(device: str) -> Platform:
    """Return the device and its parts, which hand tensors over without a copy."""
    return Platform(
        tuple(
            Device(part, cpu_model_name(part), 1, cores=parse_cores(part), memory=device)
            for part in cpu_divisions(device)
        )
    )


if __name__ == "__main__":
    main()
