"""``hios-tvm zoo``: benchmark networks as ONNX files."""

from pathlib import Path

import click

from hios_tvm.cli.options import NEW_FILE, print_table
from hios_tvm.zoo import NETWORKS


@click.command("zoo")
@click.argument("network", type=click.Choice(sorted(NETWORKS)), required=False)
@click.option("-o", "--output", type=NEW_FILE, help="ONNX file to write.  [default: NETWORK.onnx]")
@click.option("--height", type=click.IntRange(1), help="Image height.  [default: as published]")
@click.option("--width", type=click.IntRange(1), help="Image width.  [default: as published]")
@click.option("--batch", type=click.IntRange(1), default=1, help="Images.")
@click.option("--seed", default=0, help="Seed of the random weights.")
def command(
    network: str | None,
    output: Path | None,
    height: int | None,
    width: int | None,
    batch: int,
    seed: int,
) -> None:
    """Write a benchmark network as ONNX: real topology, random weights from a seed.

    Without NETWORK, list the networks.
    """
    if network is None:
        rows = [[name, n.title, f"{n.size}x{n.size}"] for name, n in sorted(NETWORKS.items())]
        print_table("Networks", ["name", "network", "image"], rows)
        return
    from hios_tvm.files import atomic_write
    from hios_tvm.zoo import build, model_size

    model = build(network, height=height, width=width, batch=batch, seed=seed)
    path = output or Path(f"{network}.onnx")
    with atomic_write(path) as file:
        file.write(model.SerializeToString())
    size = model_size(model)
    click.echo(
        f"{path}: {size.parameters / 1e6:.2f} M parameters, {size.multiply_adds / 1e9:.2f} G "
        "multiply-adds"
    )
