"""The description of a release: hashes that hold, and every package that is needed."""

from __future__ import annotations

import hashlib
import json
import subprocess
from importlib import metadata
from pathlib import Path

from click.testing import CliRunner
from describe_release import BILL, SUMS, main


def test_a_release_is_described(tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(b"content")
    written = []
    for _ in range(2):
        result = CliRunner().invoke(main, [str(tmp_path)], catch_exceptions=False)
        assert result.exit_code == 0
        written.append([(tmp_path / name).read_bytes() for name in (BILL, SUMS)])
    assert written[0] == written[1]
    checked = subprocess.run(
        ["sha256sum", "--check", SUMS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert checked.stdout.splitlines() == ["some.whl: OK", f"{BILL}: OK"]

    bill = json.loads((tmp_path / BILL).read_text())
    (file,) = (each for each in bill["components"] if each["type"] == "file")
    assert file["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"content").hexdigest()}]
    versions = {each["name"]: each.get("version") for each in bill["components"]}
    for name in ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "protobuf"):  # onnx needs that
        assert versions[name] == metadata.version(name)
    assert "pytest" not in versions
    known = {each["bom-ref"] for each in bill["components"] if "bom-ref" in each}
    known.add(bill["metadata"]["component"]["bom-ref"])
    assert {entry["ref"] for entry in bill["dependencies"]} == known
    assert {ref for entry in bill["dependencies"] for ref in entry["dependsOn"]} <= known


def test_nothing_to_describe_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path)])
    assert result.exit_code == 1
    assert "holds no files to describe" in result.output
