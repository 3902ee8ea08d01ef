"""``hios-tvm sign``: keys, and who made an artifact."""

from pathlib import Path

import click

from hios_tvm.cli.options import EXISTING_FILE, NEW_FILE
from hios_tvm.errors import UsageError


@click.command("sign")
@click.argument("artifact", type=EXISTING_FILE, required=False)
@click.option("--key", type=EXISTING_FILE, help="Ed25519 private key (PEM) to sign with.")
@click.option("-o", "--output", type=NEW_FILE, help="Signed artifact.  [default: ARTIFACT itself]")
@click.option(
    "--new-key",
    type=NEW_FILE,
    metavar="FILE",
    help="Write a new private key there, and its public half beside it as NAME.pub.pem.",
)
def command(
    artifact: Path | None, key: Path | None, output: Path | None, new_key: Path | None
) -> None:
    """Sign ARTIFACT, so that a deployment machine can refuse what its build machine did not make.

    \b
    hios-tvm sign --new-key build.pem                    # once; keep it on the build machine
    hios-tvm sign model.hios --key build.pem
    hios-tvm run model.hios --verify-key build.pub.pem   # where it is deployed

    The signature covers the manifest, which holds the SHA-256 of code and weights.
    """
    from hios_tvm.artifact.sign import sign_artifact, write_new_key

    if new_key is not None:
        if artifact is not None or key is not None or output is not None:
            raise UsageError("--new-key only makes a key: sign with it in a second call")
        public = write_new_key(new_key)
        click.echo(f"{new_key}: private, keep it secret\n{public}: public, for --verify-key")
        return
    if artifact is None or key is None:
        raise UsageError("name the artifact and the --key to sign it with, or make a --new-key")
    sign_artifact(artifact, key, output)
    click.echo(f"{output or artifact}: signed with {key}")
