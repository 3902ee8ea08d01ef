"""Each example runs as its first lines say, and ends well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
SAYS = {
    "compare_schedulers": "above the lower bound",
    "compile_and_run": "largest difference from ONNX Runtime",
    "deploy": "compiler imported: False",
    "from_onnxruntime": "the same through io_binding: True",
    "own_scheduler": "round-robin: ",
    "relay_program": "rows add up to",
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_example(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"{name}.py"
    assert f"python examples/{name}.py" in path.read_text()
    result = subprocess.run(
        [sys.executable, "-W", "error", path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent)},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert SAYS[name] in result.stdout
