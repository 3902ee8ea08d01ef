"""``hios-tvm serve``: artifacts over the network."""

from dataclasses import fields
from pathlib import Path

import click

from hios_tvm.cli.devices import DeviceList
from hios_tvm.cli.options import (
    check_key,
    option_group,
    require_signature_option,
    verify_key_option,
)
from hios_tvm.serving import require_kserve
from hios_tvm.serving.options import ServerOptions

server_options = option_group(
    ServerOptions,
    *(
        click.option(
            f"--{field.name.replace('_', '-')}",
            default=field.default,
            type=type(field.default),
            help=field.metadata["help"],
        )
        for field in fields(ServerOptions)
    ),
)


@click.command("serve")
@click.argument("artifacts", nargs=-1, required=True, metavar="[NAME[/VERSION]=]ARTIFACT...")
@click.option(
    "--devices",
    type=DeviceList(),
    multiple=True,
    help="Once for each artifact, in order: run it on these devices.  [default: those of its "
    "compile, or others of this machine where a session uses these]",
)
@verify_key_option
@require_signature_option
@server_options
def command(
    artifacts: tuple[str, ...],
    devices: tuple[str, ...],
    verify_key: Path | None,
    require_signature: bool,
    server_options: ServerOptions,
) -> None:
    """Serve each ARTIFACT by the Open Inference Protocol, over REST and gRPC.

    \b
    hios-tvm serve model.hios
    hios-tvm serve resnet=old.hios resnet/2=new.hios --http-port 8000

    A model is called as its file, version 1, if nothing else is given. Needs KServe
    (pip install 'hios-tvm[serve]').
    """
    check_key(verify_key, require_signature)
    require_kserve()
    from hios_tvm.serving.server import serve

    serve(artifacts, devices, server_options, verify_key)
