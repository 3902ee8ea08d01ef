"""What the pages show to be pasted is pasted here, page by page, with a small network.

A block that cannot run here says why, in a comment above it: ``<!-- not run: needs nvcc -->``.
"""

from __future__ import annotations

import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from hios_tvm import hios_run
from hios_tvm.cli import main

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code of a page; `reason` says why it cannot run here."""

    language: str
    text: str
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    found = _BLOCK.finditer(page.read_text())
    return [Block(m["language"], m["text"], m["reason"]) for m in found]


PAGES = {
    page.stem: [block for block in blocks_of(page) if block.reason is None]
    for page in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md")
}


def small_network() -> onnx.ModelProto:
    """Return two convolutions side by side, and their sum."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["input", name], [f"{name}_out"], pads=[1, 1, 1, 1])
        for name in ("left", "right")
    ]
    nodes += [
        helper.make_node("Relu", ["left_out"], ["positive"]),
        helper.make_node("Add", ["positive", "right_out"], ["output"]),
    ]
    weights = [
        onnx.numpy_helper.from_array(rng.standard_normal((16, 3, 3, 3), np.float32), name)
        for name in ("left", "right")
    ]
    tensors = {"input": (1, 3, 8, 8), "output": (1, 16, 8, 8)}
    read, written = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in tensors.items()
    )
    graph = helper.make_graph(nodes, "small", [read], [written], weights)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout, as far as the pages use it, with a model in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("LICENSE", "hios_tvm", "pyproject.toml", "runtime", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    onnx.save(small_network(), "model.onnx")
    return tmp_path


@pytest.mark.parametrize("page", [name for name, blocks in PAGES.items() if blocks])
def test_what_a_page_shows_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page == "serve" and not (
        find_spec("kserve") and find_spec("tritonclient") and shutil.which("curl")
    ):
        pytest.skip("needs curl and pip install 'hios-tvm[serve]' 'tritonclient[http,grpc]'")
    names: dict[str, Any] = {}
    ports = {"8080": free_port(), "8081": free_port()}  # those of the page may be in use
    with ExitStack() as servers:
        for block in PAGES[page]:
            text = re.sub("808[01]", lambda match: ports[match[0]], block.text)
            if block.language == "python":
                exec(text, names)
            elif block.language == "console":
                for command in commands_of(text):
                    if command.endswith("&"):
                        options = f"--http-port {ports['8080']} --grpc-port {ports['8081']}"
                        servers.enter_context(background(f"{command[:-1]} {options}"))
                    else:
                        paste(command, monkeypatch)


def free_port() -> str:
    """Return a port that nobody listens on, and that no client gets."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return str(port)


@contextmanager
def background(command: str) -> Iterator[None]:
    """Let a command of this package run beside the block."""
    words = [sys.executable, "-c", "from hios_tvm.cli import main; main()"]
    process = subprocess.Popen([*words, *shlex.split(command)[1:]])
    try:
        yield
    finally:
        process.terminate()
        assert process.wait() == 0


def commands_of(text: str) -> list[str]:
    """Return what follows the prompts; lines without one are what commands print.

    >>> commands_of("$ ls a \\\\\\n    b\\nc\\n$ ls c\\n")
    ['ls a     b', 'ls c']
    """
    return re.findall(r"^\$ (.*)$", text.replace("\\\n", ""), flags=re.MULTILINE)


def paste(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command as a shell does, those of this package in this process."""
    words = shlex.split(command, comments=True)
    if words[0] == "export":
        monkeypatch.setenv(*words[1].split("=", 1))
    elif words[0] == "hios-tvm":
        result = CliRunner().invoke(main, words[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"
        if words[1] == "zoo":  # it works; what follows is quicker with a small network
            onnx.save(small_network(), words[words.index("-o") + 1])
    elif words[0] == "hios-run":
        assert hios_run.main(words[1:]) == 0, command
    else:
        command = re.sub("^python ", f"{shlex.quote(sys.executable)} ", command)
        found = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert found.returncode == 0, f"{command}\n{found.stderr}"


def test_no_page_is_left_out() -> None:
    """Each block has a language, so that it is run or says why not; most pages of use have some."""
    for page in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md"):
        fences = re.findall(r"^```\w*$", page.read_text(), flags=re.MULTILINE)
        assert len(fences) == 2 * len(blocks_of(page)), page
    assert sum(bool(blocks) for blocks in PAGES.values()) >= 6
