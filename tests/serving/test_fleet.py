"""A fleet without a cluster: options, resources, artifacts at URLs, and what a replica answers.

`scripts/check_fleet.py` runs whole clusters, and breaks them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hios_tvm.errors import ArtifactError, UsageError
from hios_tvm.runtime import load
from hios_tvm.serving.artifact_store import fetch, identity_of
from hios_tvm.serving.fleet_options import FRONT, FleetOptions, resources_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve" / "fleet.yaml"


def test_options_hold_all_versions_of_each_model() -> None:
    options = FleetOptions.parse(
        {"artifacts": ["a/1=x.hios", "https://there/b.hios", "a/2=y.hios"], "queue": 8}
    )
    versions = {name: [s.version for s in found] for name, found in options.models.items()}
    assert versions == {"a": ["1", "2"], "b": ["1"]}
    assert options.models["b"][0].location == "https://there/b.hios"
    assert options.limits.queue == 8


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({}, "artifacts has to be a list"),
        ({"artifacts": ["a.hios"], "batch": 1}, "'batch' is unknown; known are artifacts"),
        ({"artifacts": ["a.hios", "b/a.hios"]}, "two models are version 1 of 'a'"),
        ({"artifacts": ["front.hios"]}, "no model can be called 'front'"),
        ({"artifacts": ["a.hios"], "require_signature": True}, "needs verify_key"),
        ({"artifacts": ["a.hios"], "queue": "many"}, "queue has to be int, not 'many'"),
        ({"artifacts": ["a.hios"], "max_request": "1"}, "at least 1KiB"),
    ],
)
def test_options_that_cannot_be_used_are_named(args: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        FleetOptions.parse(args)


def test_a_replica_asks_for_the_devices_of_its_artifacts(twice: Path) -> None:
    with load(twice) as session:
        devices = [device.name for device in session.manifest.devices]
    assert resources_of([devices]) == {"num_cpus": 1, "num_gpus": 0}
    assert resources_of([["cuda:0"], ["cuda:0"]]) == {"num_cpus": 2, "num_gpus": 2}


def test_the_example_is_an_application() -> None:
    config = yaml.safe_load(EXAMPLE.read_text())
    (application,) = config["applications"]
    options = FleetOptions.parse(application["args"])
    names = [deployment["name"] for deployment in application["deployments"]]
    assert names == [FRONT, *options.models]
    (service,) = config["grpc_options"]["grpc_servicer_functions"]
    for module, name in (application["import_path"].split(":"), service.rsplit(".", 1)):
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None
        assert f"def {name}(" in Path(spec.origin).read_text()


@pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'hios-tvm[fleet]'")
def test_ray_serve_takes_the_example() -> None:
    code = f"""
import yaml
from ray.serve.schema import ServeDeploySchema
ServeDeploySchema.model_validate(yaml.safe_load(open({str(EXAMPLE)!r})))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_artifact_at_a_url_is_fetched_once(
    twice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec", reason="needs pip install 'hios-tvm[fleet]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remote = tmp_path / "remote.hios"
    remote.write_bytes(twice.read_bytes())
    first = fetch(remote.as_uri())
    assert first.read_bytes() == twice.read_bytes()
    assert identity_of(first) == identity_of(twice)
    assert fetch(remote.as_uri()) == first
    remote.write_bytes(b"another")
    assert fetch(remote.as_uri()) != first
    with pytest.raises(ArtifactError, match=r"nothing\.hios: cannot be read"):
        fetch((tmp_path / "nothing.hios").as_uri())
    first.parent.chmod(0o777)
    with pytest.raises(ArtifactError, match="other users may write in"):
        fetch(remote.as_uri())


@pytest.mark.skipif(find_spec("kserve") is None, reason="needs pip install 'hios-tvm[serve]'")
def test_a_replica_answers_as_the_session_does(twice: Path, tmp_path: Path) -> None:
    """In a process of its own: kserve and tritonclient cannot be imported in one."""
    x = np.random.default_rng(0).standard_normal((1, 4), np.float32)
    code = f"""
import asyncio, json
from hios_tvm.errors import ArtifactError
from hios_tvm.serving.artifact_store import identity_of
from hios_tvm.serving.fleet_options import FleetOptions
from hios_tvm.serving.fleet_replica import Replica
from pathlib import Path
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

options = FleetOptions.parse({{"artifacts": [{str(twice)!r}]}})
(sources,) = options.models.values()
try:
    Replica(sources, {{"1": "another"}}, options)
except ArtifactError as error:
    refused = str(error)
replica = Replica(sources, {{"1": identity_of(Path({str(twice)!r}))}}, options)

async def ask():
    path = f"/v2/models/{{sources[0].name}}"
    request = {{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": {x.ravel().tolist()}}}
    body = json.dumps({{"inputs": [request]}}).encode()
    rest = [
        await replica.rest("POST", path + "/infer", [], body),
        await replica.rest("POST", path + "/infer", [], b"{{"),
        await replica.rest("GET", path, [], b""),
    ]
    message = pb.ModelMetadataRequest(name=sources[0].name)
    metadata = await replica.grpc("ModelMetadata", message.SerializeToString())
    other = pb.ModelMetadataRequest(name="other").SerializeToString()
    unknown = await replica.grpc("ModelMetadata", other)
    await replica.check_health()
    return {{
        "rest": [[status, json.loads(content)] for status, _, content in rest],
        "grpc": [pb.ModelMetadataResponse.FromString(metadata).inputs[0].name, unknown.code],
        "refused": refused,
    }}

print(json.dumps(asyncio.run(ask())))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    found = json.loads(done.stdout.splitlines()[-1])
    (status, answer), (bad_status, bad), (metadata_status, metadata) = found["rest"]
    with load(twice) as session:
        expected = session.run({"x": x})["y"]
    assert (status, bad_status, metadata_status) == (200, 400, 200)
    assert np.array_equal(np.float32(answer["outputs"][0]["data"]), expected.ravel())
    assert bad["error"].startswith("body: Invalid JSON")
    assert metadata["inputs"][0]["shape"] == [1, 4]
    assert found["grpc"] == ["x", "NOT_FOUND"]
    assert "has changed since it was deployed" in found["refused"]
