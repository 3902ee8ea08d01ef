"""What the pages say is so: they build, and their paths, names, numbers and picture are right."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import onnx
import pytest

from hios_tvm.backends.interface import Backend
from hios_tvm.cli import main
from hios_tvm.runtime.devices.interface import DeviceKind
from hios_tvm.schema.manifest import MAX_SHAPES

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
]
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

NEEDS_TOMLLIB = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is of Python 3.11")


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert 'id="hios_tvm.compile_model"' in (tmp_path / "api" / "index.html").read_text()
    for page in tmp_path.rglob("*.html"):  # they can be read without a network
        assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=\"https?:", page.read_text())


@by_name
def test_paths_exist(page: Path) -> None:
    folders = "docs|examples|hios_tvm|passes|runtime|scripts|tests"
    found = re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text())
    assert [path for path in found if not (ROOT / path).exists()] == []


@by_name
def test_names_exist(page: Path) -> None:
    for name in re.findall(r"\bhios_tvm(?:\.\w+)+\b", page.read_text()):
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), name


def test_every_member_of_a_kind_of_device_is_explained() -> None:
    text = (ROOT / "docs" / "add-device-kind.md").read_text()
    members = [name for name in {*Backend.__annotations__, *vars(Backend)} if name[0] != "_"]
    members += [field.name for field in dataclasses.fields(DeviceKind)]
    named = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(named) == sorted(members)


def test_limits_of_the_format_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "artifact.md").read_text()
    limits = re.findall(r"\| `(hios_tvm[\w.]+)\.([A-Z_]+)` \| (\d+) \|", text)
    assert len(limits) >= 7
    for module, name, value in limits:
        assert getattr(importlib.import_module(module), name) == int(value), name
    header = (ROOT / "runtime" / "checks" / "limits.h").read_text()
    constants = dict(re.findall(r"constexpr \w+ (k\w+) = (\d+);", header))
    assert dict(re.findall(r"\| `(k\w+)` \| (\d+) \|", text)) == constants
    assert int(constants["kMaxShapes"]) == MAX_SHAPES


@NEEDS_TOMLLIB
def test_the_picture_shows_the_layers_of_the_import_contract() -> None:
    import draw_layers

    redraw = "run: python scripts/draw_layers.py"
    assert draw_layers.PICTURE.read_bytes() == draw_layers.drawn(), redraw
    pages = {path.stem for path in (ROOT / "docs" / "api").glob("*.md")}
    packages = {name for layer in draw_layers.layers() for name in layer}
    private = {
        "build",
        "cli",
        "hios_run",
        "compiled_code",
        "files",
        "onnx_backend",
        "version",
    }  # commands, and helpers without an API
    assert packages - private <= pages


def test_the_operators_are_those_of_the_importer() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import list_operators
    finally:
        sys.path.pop(0)
    text = list_operators.PAGE.read_text()
    if f"ONNX\n{onnx.__version__}." not in text:
        pytest.skip(f"the page was made with another version of onnx than {onnx.__version__}")
    assert text == list_operators.page(), "run: python scripts/list_operators.py"


@by_name
def test_commands_and_their_options_exist(page: Path) -> None:
    text = page.read_text().replace("\\\n", "")  # a command may take several lines
    for line in re.findall(r"^\s*\$ hios-tvm (.*)", text, flags=re.MULTILINE):
        words = shlex.split(line, comments=True)
        command: click.Command = main
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        known = {name for o in command.params for name in (*o.opts, *o.secondary_opts)}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, line
