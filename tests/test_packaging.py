"""What is installed is what lies in the folders, and the runtime stays light."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import hios_tvm

ROOT = Path(__file__).parents[1]

if sys.version_info >= (3, 11):
    import tomllib

    PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_every_package_on_disk_is_listed() -> None:
    found = set()
    for folder, name in (
        ("hios_tvm", "hios_tvm"),
        ("passes", "hios_tvm.passes"),
        ("runtime", "hios_tvm.runtime"),
    ):
        for init in (ROOT / folder).rglob("__init__.py"):
            below = init.parent.relative_to(ROOT / folder).parts
            if folder != "hios_tvm" or not below or below[0] not in ("passes", "runtime"):
                found.add(".".join((name, *below)))
    assert found == set(PYPROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("name", ["passes", "runtime"])
def test_links_lead_to_the_top_level_folders(name: str) -> None:
    link = ROOT / "hios_tvm" / name
    if not link.exists():
        pytest.skip("an unpacked source distribution has no links")
    assert os.path.samefile(link, ROOT / name)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_version_is_the_same_everywhere() -> None:
    assert PYPROJECT["project"]["version"] == hios_tvm.__version__
    assert f"## {hios_tvm.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_pytorch_finds_the_backend_by_its_name() -> None:
    (found,) = entry_points(group="torch_dynamo_backends", name="hios")
    path = ROOT / f"{found.module.replace('.', '/')}.py"
    assert f"def {found.attr}(" in path.read_text()


def test_public_names_are_there() -> None:
    assert all(hasattr(hios_tvm, name) for name in hios_tvm.__all__)
    assert hios_tvm.__all__ == sorted(hios_tvm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'typo'"):
        hios_tvm.typo  # noqa: B018


def test_what_public_functions_return_is_public() -> None:
    for name in hios_tvm.__all__:
        if inspect.isfunction(function := getattr(hios_tvm, name)):
            returned = inspect.formatannotation(inspect.signature(function).return_annotation)
            types = re.findall(r"\b[A-Z]\w+", returned)
            assert {*types} <= {*hios_tvm.__all__, "IRModule"}, name


def test_runtime_imports_without_the_compiler_and_its_libraries() -> None:
    """A deployment machine has NumPy and TVM's runtime, and nothing else of this."""
    code = """
import sys
for name in ("tvm", "onnx", "networkx", "click", "psutil", "rich", "lark"):
    sys.modules[name] = None
import hios_tvm.runtime
assert hios_tvm.load is hios_tvm.runtime.load
assert hios_tvm.Session is hios_tvm.runtime.Session
assert issubclass(hios_tvm.HiosError, Exception)
heavy = {"hios_tvm.compiler", "hios_tvm.passes"} & set(sys.modules)
assert not heavy, heavy
assert not {"passes", "runtime"} & set(sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
