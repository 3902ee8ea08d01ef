"""``hios-tvm map``: an artifact over many rows, on one machine or on a cluster."""

from importlib.util import find_spec
from pathlib import Path

import click

from hios_tvm.cli.options import (
    check_key,
    no_progress_option,
    require_signature_option,
    verify_key_option,
)
from hios_tvm.cli.progress import progress_bar
from hios_tvm.errors import UsageError


@click.command("map")
@click.argument("artifact")
@click.argument("inputs", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the outputs; called again with it, what is missing there is computed.",
)
@click.option(
    "--part-rows", type=click.IntRange(1), default=1024, help="Rows in one file of outputs."
)
@click.option("--mean", default="0", help="Of pictures, to be taken from values from 0 to 1.")
@click.option("--std", default="1", help="Of pictures, that values are divided by then.")
@click.option(
    "--address", default="local", help="Ray cluster, HOST:PORT or auto; local: this machine alone."
)
@verify_key_option
@require_signature_option
@no_progress_option
def command(
    artifact: str,
    inputs: Path,
    output: Path,
    part_rows: int,
    mean: str,
    std: str,
    address: str,
    verify_key: Path | None,
    require_signature: bool,
    no_progress: bool,
) -> None:
    """Run ARTIFACT on all rows of INPUTS: a .npy, .npz or Parquet file, or a folder.

    \b
    hios-tvm map model.hios images.npy -o predictions/
    hios-tvm map model.hios rows/ -o predictions/ --address auto

    The first axis of an array is its rows; .npz files and Parquet name the inputs. A folder has
    such files, or pictures (PNG, JPEG), each of them a row. ARTIFACT may be
    a URL. On a cluster, all nodes must see the same files. Needs Ray (pip install
    'hios-tvm[fleet]').
    """
    check_key(verify_key, require_signature)
    if find_spec("ray") is None:
        raise UsageError("map needs the package ray; run: pip install 'hios-tvm[fleet]'")
    from hios_tvm.serving.map_images import ImageOptions
    from hios_tvm.serving.map_rows import MapOptions, map_rows

    options = MapOptions(
        artifact=artifact,
        inputs=inputs,
        outputs=output,
        part_rows=part_rows,
        images=ImageOptions.parse(mean, std),
        address=address,
        verify_key=verify_key,
    )
    with progress_bar(enabled=not no_progress) as progress:
        summary = map_rows(options, progress)
    kept = f", {summary.found} of them from before" if summary.found else ""
    click.echo(f"{output}: outputs for {summary.rows} rows in {summary.files} files{kept}")
