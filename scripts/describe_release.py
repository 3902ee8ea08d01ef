"""Describe a release: the hashes of its files, and all that these need.

    python -m pip wheel --no-deps -w dist .
    python scripts/build_runtime_wheel.py -o dist
    python scripts/describe_release.py dist

Writes SHA256SUMS, which ``sha256sum --check`` reads, and hios-tvm.cdx.json, a bill of materials in
the JSON of CycloneDX 1.6: the files, and the packages of this environment that hios-tvm depends on.
Equal files in equal environments have equal descriptions.
"""

import hashlib
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hios_tvm.files import atomic_write

ROOT = "hios-tvm"
SUMS, BILL = "SHA256SUMS", "hios-tvm.cdx.json"


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(folder: Path) -> None:
    """Run the script."""
    hashes = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in (SUMS, BILL)
    }
    if not hashes:
        raise click.ClickException(f"{folder} holds no files to describe")
    bill = json.dumps(bill_of_materials(hashes), indent=1).encode() + b"\n"
    sums = {**hashes, BILL: hashlib.sha256(bill).hexdigest()}
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    for name, content in ((BILL, bill), (SUMS, lines.encode())):
        with atomic_write(folder / name) as output:
            output.write(content)
    click.echo(lines, nl=False)


def bill_of_materials(hashes: dict[str, str]) -> dict[str, Any]:
    """Return the bill of files, given by their SHA-256, as a CycloneDX document."""
    needed = _needed()
    files = [
        {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
        for name, digest in hashes.items()
    ]
    libraries = [_component(name) for name in needed if name != ROOT]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component(ROOT) | {"type": "application"}},
        "components": [*files, *libraries],
        "dependencies": [
            {"ref": _purl(name), "dependsOn": [_purl(other) for other in others]}
            for name, others in needed.items()
        ],
    }


def _needed() -> dict[str, list[str]]:
    """Return hios-tvm and all packages that it depends on, each with those it names itself."""
    needed: dict[str, list[str]] = {}
    open_names = [ROOT]
    while open_names:
        name = open_names.pop()
        if name not in needed:
            needed[name] = sorted(set(_requirements(name)))
            open_names += needed[name]
    return dict(sorted(needed.items()))


def _requirements(name: str) -> Iterator[str]:
    """Yield what a package needs here, without its extras."""
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def _component(name: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(name),
        "name": name,
        "version": metadata.version(name),
        "purl": _purl(name),
    }
    about = metadata.metadata(name).json
    words = str(about.get("license", "")).splitlines()
    if "license_expression" in about:
        component["licenses"] = [{"expression": about["license_expression"]}]
    elif words:
        component["licenses"] = [{"license": {"name": words[0]}}]
    return component


def _purl(name: str) -> str:
    return f"pkg:pypi/{name}@{metadata.version(name)}"


if __name__ == "__main__":
    main()
