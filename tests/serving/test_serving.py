"""A real server, called by clients that others wrote: results, bad requests, overload, its end."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from attacks_on_artifacts import write_artifact
from onnx import TensorProto, helper

from hios_tvm import CompileOptions, compile_model
from hios_tvm.errors import InputError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime import load
from hios_tvm.runtime.devices.cpu.cores import allowed_cores

WHY = "serving is not installed: pip install 'hios-tvm[serve]' 'tritonclient[http,grpc]'"
if find_spec("kserve") is None:  # it is not imported: one process cannot hold both
    pytest.skip(WHY, allow_module_level=True)
triton_grpc, triton_http, triton_utils = (
    pytest.importorskip(f"tritonclient.{name}", reason=WHY) for name in ("grpc", "http", "utils")
)

CLIENTS = {"http": triton_http, "grpc": triton_grpc}
Server, try_connection, try_grpc, try_rest = (
    getattr(pytest.importorskip("attacks_on_servers", reason=WHY), name)
    for name in ("Server", "try_connection", "try_grpc", "try_rest")
)
by_protocol = pytest.mark.parametrize("protocol", CLIENTS)
TIMEOUT_S = 300  # of what hangs


@dataclass(frozen=True)
class Running:
    """A server, and where it listens."""

    process: subprocess.Popen[str]
    http_port: int
    grpc_port: int
    log: list[dict[str, Any]]

    def client(self, protocol: str) -> Any:
        port = self.http_port if protocol == "http" else self.grpc_port
        return CLIENTS[protocol].InferenceServerClient(f"127.0.0.1:{port}")

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.http_port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product that takes some milliseconds, and whether each number of a vector is positive."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4096, 1024), np.float32)
    zero = onnx.numpy_helper.from_array(np.array(0, np.int32), "zero")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Greater", ["n", "zero"], ["positive"]),
        ],
        "two",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (16, 4096)),
            helper.make_tensor_value_info("n", TensorProto.INT32, (3,)),
        ],
        [
            helper.make_tensor_value_info("product", TensorProto.FLOAT, (16, 1024)),
            helper.make_tensor_value_info("positive", TensorProto.BOOL, (3,)),
        ],
        [onnx.numpy_helper.from_array(weight, "w"), zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("serving") / "two.hios"
    device = f"cpu@{min(allowed_cores())}"
    compile_model(from_onnx(model), path, CompileOptions(devices=(device,), scheduler="sequential"))
    return path


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    x = np.random.default_rng(1).standard_normal((16, 4096), np.float32)
    return {"x": x, "n": np.array([-1, 0, 7], np.int32)}


@pytest.fixture(scope="module")
def expected(artifact: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with load(artifact) as session:
        return session.run(inputs)


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from hios_tvm.cli import main; main()", "serve"]
    options = ("--http-port", 0, "--grpc-port", 0, "--log-format", "json")
    return subprocess.Popen(
        [*command, *map(str, (*words, *options))], stderr=subprocess.PIPE, text=True
    )


def wait_for(process: subprocess.Popen[str]) -> Running:
    """Return when the server listens; its log is read on."""
    assert process.stderr is not None
    log = []
    for line in process.stderr:
        log.append(json.loads(line))
        if "http_port" in log[-1]:
            break
    else:
        pytest.fail(f"the server ended: {log}")
    ports = log[-1]["http_port"], log[-1]["grpc_port"]

    def read() -> None:
        log.extend(map(json.loads, process.stderr or ()))

    threading.Thread(target=read, daemon=True).start()
    return Running(process, *ports, log)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact that random requests are for."""
    path = tmp_path_factory.mktemp("attacked") / "m.hios"
    write_artifact(path)
    return path


@pytest.fixture(scope="module")
def processes(artifact: Path, attacked: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two servers that start at the same time, the second one to be ended by a test."""
    versions = f"two/1={artifact}", f"two/2={artifact}"
    started = [
        start(*versions, f"other={artifact}", f"m={attacked}", "--queue", 2),
        start(artifact),
    ]
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server(processes: list[subprocess.Popen[str]]) -> Running:
    return wait_for(processes[0])


def tensors(module: Any, inputs: dict[str, np.ndarray], *, binary: bool = True) -> list[Any]:
    made = []
    for name, array in inputs.items():
        datatype = {"float32": "FP32", "int32": "INT32"}[str(array.dtype)]
        made.append(module.InferInput(name, array.shape, datatype))
        if module is triton_http:
            made[-1].set_data_from_numpy(array, binary_data=binary)
        else:
            made[-1].set_data_from_numpy(array)
    return made


def assert_equal(result: Any, expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        found = result.as_numpy(name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@by_protocol
@pytest.mark.parametrize("version", ["", "1", "2"])
def test_results_are_those_of_a_session(
    server: Running,
    protocol: str,
    version: str,
    inputs: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
) -> None:
    with server.client(protocol) as client:
        given = tensors(CLIENTS[protocol], inputs)
        result = client.infer("two", given, model_version=version, request_id="7")
        assert_equal(result, expected)
        response = result.get_response()
        id_, served = (
            (response["id"], response["model_version"])
            if protocol == "http"
            else (response.id, response.model_version)
        )
        assert (id_, served) == ("7", version or "2")


def test_json_has_exactly_the_same_numbers(
    server: Running, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    with server.client("http") as client:
        given = tensors(triton_http, inputs, binary=False)
        wanted = [
            triton_http.InferRequestedOutput(name, binary_data=name == "positive")
            for name in expected
        ]
        assert_equal(client.infer("other", given, outputs=wanted), expected)


@by_protocol
def test_one_output_of_several(
    server: Running, protocol: str, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    module = CLIENTS[protocol]
    with server.client(protocol) as client:
        wanted = [module.InferRequestedOutput("positive")]
        result = client.infer("two", tensors(module, inputs), outputs=wanted)
        assert_equal(result, {"positive": expected["positive"]})
        assert result.as_numpy("product") is None
        with pytest.raises(triton_utils.InferenceServerException, match="no output 'typo'"):
            wanted = [module.InferRequestedOutput("typo")]
            client.infer("two", tensors(module, inputs), outputs=wanted)
        with pytest.raises(triton_utils.InferenceServerException, match="asked for 3 times"):
            wanted = [module.InferRequestedOutput("positive")] * 3
            client.infer("two", tensors(module, inputs), outputs=wanted)


@by_protocol
def test_health_and_metadata(server: Running, protocol: str) -> None:
    with server.client(protocol) as client:
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready("two") and client.is_model_ready("two", "1")
        options = {} if protocol == "http" else {"as_json": True}
        metadata = client.get_model_metadata("two", **options)
        assert metadata["versions"] == ["1", "2"]
        (x, n) = metadata["inputs"]
        assert (x["name"], x["datatype"], list(map(int, x["shape"]))) == ("x", "FP32", [16, 4096])
        assert (n["name"], n["datatype"]) == ("n", "INT32")
        assert [item["datatype"] for item in metadata["outputs"]] == ["FP32", "BOOL"]
        for version in ("", "9"):
            with pytest.raises(triton_utils.InferenceServerException, match=r"no (model|version)"):
                client.get_model_metadata("two" if version else "none", version)


def test_what_is_served_cannot_be_changed_by_requests(server: Running) -> None:
    with server.client("grpc") as client, pytest.raises(triton_utils.InferenceServerException):
        client.unload_model("two")
    assert server.request("POST", "/v2/repository/models/two/unload")[0] == 404
    assert server.request("GET", "/v2/models/two/ready")[0] == 200


def test_metrics_count_requests_and_the_time_of_devices(
    server: Running, inputs: dict[str, np.ndarray]
) -> None:
    def metric(name: str, labels: str) -> float:
        _, text = server.request("GET", "/metrics")
        found = re.findall(rf"^{name}\{{{labels}\}} (\S+)", text.decode(), flags=re.MULTILINE)
        return float(found[0]) if found else 0.0

    other = 'model="other",version="1"'
    ok = 'code="OK",model="other",protocol="grpc",version="1"'
    before = metric("hios_requests_total", ok)
    with server.client("grpc") as client:
        client.infer("other", tensors(triton_grpc, inputs))
    assert metric("hios_requests_total", ok) == before + 1
    assert metric("hios_batch_size_count", other) >= 1
    assert metric("hios_queue_length", other) == 0
    device = re.escape(f"cpu@{min(allowed_cores())}")
    busy_s = metric("hios_device_busy_seconds_total", rf'device="cpu@\d+",{other}')
    assert 0 < busy_s <= metric("hios_run_seconds_sum", other), device


def body(**changes: Any) -> bytes:
    """A request that is right but for `changes` of its second input."""
    x = {"name": "x", "shape": [16, 4096], "datatype": "FP32", "data": [0.5] * (16 * 4096)}
    n = {"name": "n", "shape": [3], "datatype": "INT32", "data": [1, 2, 3], **changes}
    return json.dumps({"inputs": [x, {k: v for k, v in n.items() if v is not None}]}).encode()


LONG_AND_MANY = ["a" * (1 << 20), *["b"] * (1 << 15)]  # as an array of NumPy: 128 GiB
BAD = {
    "no JSON": (b"\xff{", "body: Invalid JSON"),
    "nothing": (b"", "body: Invalid JSON"),
    "deep": (b'{"inputs":' + b"[" * 100_000, "body: Invalid JSON"),
    "no object": (b"[]", "body: "),
    "no inputs": (b"{}", "inputs: Field required"),
    "missing input": (b'{"inputs": []}', "'x' is missing: float32"),
    "unknown input": (body(name="typo"), "'typo' is unknown"),
    "input twice": (body(name="x"), "'x' is given twice"),
    "wrong type": (body(datatype="INT64"), "'n' is int64"),
    "unknown type": (body(datatype="FP99"), "'FP99'; known are BOOL"),
    "bytes": (body(datatype="BYTES"), "'BYTES'; known are BOOL"),
    "wrong shape": (body(shape=[1, 3]), "'n' is int32 [1, 3], not int32 [3]"),
    "shape of others": (body(shape=[4]), "3 elements; [4] has 4"),
    "huge shape": (body(shape=[1 << 62, 1 << 62]), "which no tensor has"),
    "huge shape without elements": (body(shape=[0, 1 << 62], data=[]), "which no tensor has"),
    "shape of thousands of digits": (body(shape=[10**4000] * 2), "has the shape [1000"),
    "negative shape": (body(shape=[-1]), "[-1], which no tensor has"),
    "no shape": (body(shape="3"), "inputs.1.shape: "),
    "fractions": (body(data=[1, 2, 3.5]), "values that are no INT32"),
    "too large": (body(data=[1, 2, 1 << 40]), "values that are no INT32"),
    "far too large": (body(data=[1, 2, 1 << 90]), "values that are no INT32"),
    "strings": (body(data=["1", "2", "3"]), "values that are no INT32"),
    "a long string and many": (body(data=LONG_AND_MANY), "has 32769 elements; [3] has 3"),
    "strings in a list": (body(data=[LONG_AND_MANY]), "has 32769 elements; [3] has 3"),
    "null": (body(data=[1, None, 3]), "values that are no INT32"),
    "ragged": (body(data=[[1, 2], [3]]), "rows of different lengths"),
    "no data": (body(data=None), "either data or binary_data_size"),
    "bytes that are not there": (
        body(data=None, parameters={"binary_data_size": 12}),
        "'n' has 0 bytes; INT32 [3] has 12",
    ),
    "many inputs": (b'{"inputs": [' + b"{}," * 300_000 + b"{}]}", "inputs.0.name: Field required"),
    "many outputs": (
        b'{"inputs": [], "outputs": [' + b'{"name": "y"},' * 2000 + b'{"name": "y"}]}',
        "outputs: List should have at most 1024 items",
    ),
    "many dimensions": (body(shape=[1] * 1000), "inputs.1.shape: List should have at most 32"),
    "long strings": (body(data=["y" * 1_000_000] + [""] * 200_000), "200001 elements"),
    "long name": (body(name="n" * 100_000), "'nnn"),
    "negative bytes": (body(parameters={"binary_data_size": -1}), "greater than or equal to 0"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_bodies_are_refused(server: Running, what: str) -> None:
    content, problem = BAD[what]
    status, answer = server.request("POST", "/v2/models/two/infer", content)
    assert status == 400
    assert problem in json.loads(answer)["error"]
    assert b"Traceback" not in answer and b"\n" not in answer and len(answer) < 1100


def binary_body(inputs: dict[str, np.ndarray]) -> tuple[bytes, int]:
    request, json_bytes = triton_http.InferenceServerClient.generate_request_body(
        tensors(triton_http, inputs)
    )
    return request, json_bytes


def test_truncated_and_longer_binary_bodies_are_refused(
    server: Running, inputs: dict[str, np.ndarray]
) -> None:
    whole, json_bytes = binary_body(inputs)
    for content, length, problem in (
        (whole[:-1], json_bytes, "'n' has 11 bytes; INT32 [3] has 12"),
        (whole + b"1", json_bytes, "its inputs end at byte"),
        (whole, len(whole) + 1, "its JSON part is to have"),
        (whole, json_bytes - 1, "Invalid JSON"),
        (whole, "x", "is no number of bytes"),
    ):
        headers = {"Inference-Header-Content-Length": str(length)}
        status, answer = server.request("POST", "/v2/models/two/infer", content, headers)
        assert (status, problem in json.loads(answer)["error"]) == (400, True), answer


def test_other_refusals_over_http(server: Running) -> None:
    infer = "/v2/models/two/infer"
    assert server.request("POST", "/v2/models/none/infer", body())[0] == 404
    assert server.request("POST", "/v2/models/two/versions/3/infer", body())[0] == 404
    assert server.request("GET", infer)[0] == 404
    assert server.request("POST", infer, body(), {"Content-Encoding": "gzip"})[0] == 415
    status, answer = server.request("POST", infer, bytes(20_000_000))
    assert (status, b"20000000 bytes, more than" in answer) == (413, True)
    chunks = (bytes(1 << 20) for _ in range(20))  # their length is not announced
    assert server.request("POST", infer, chunks)[0] == 413


@pytest.mark.parametrize(
    ("attack", "count"), [(try_rest, 100), (try_grpc, 100), (try_connection, 22)]
)
def test_random_changes_of_a_request_do_no_harm(
    server: Running, attacked: Path, attack: Callable[..., None], count: int
) -> None:
    rng = random.Random(0)
    ports = server.http_port, server.grpc_port
    with load(attacked) as session:
        target = Server(attacked, session, server.process, *ports)
        for _ in range(count):
            with suppress(InputError):  # it was refused
                attack(target, rng)
        target.require_sound()


def test_bad_messages_are_refused(server: Running, inputs: dict[str, np.ndarray]) -> None:
    from tritonclient.grpc import service_pb2 as pb

    def message(**changes: Any) -> Any:
        """Return a request that is right but for `changes` of its second input."""
        made = [
            pb.ModelInferRequest.InferInputTensor(
                name=name, datatype=datatype, shape=inputs[name].shape
            )
            for name, datatype in (("x", "FP32"), ("n", "INT32"))
        ]
        for field, value in changes.items():
            if field == "shape":
                made[1].ClearField("shape")
                made[1].shape.extend(value)
            else:
                setattr(made[1], field, value)
        raw = [array.tobytes() for array in inputs.values()]
        return pb.ModelInferRequest(model_name="two", inputs=made, raw_input_contents=raw)

    cases: list[tuple[Callable[[], Any], str, str]] = [
        (lambda: message(name="typo"), "INVALID_ARGUMENT", "'typo' is unknown"),
        (lambda: message(datatype="FP32"), "INVALID_ARGUMENT", "'n' is float32"),
        (lambda: message(datatype="?"), "INVALID_ARGUMENT", "known are BOOL"),
        (lambda: message(name="n" * 20_000), "INVALID_ARGUMENT", "'nnn"),
        (lambda: message(shape=[4]), "INVALID_ARGUMENT", "12 bytes; INT32 [4] has 16"),
        (lambda: message(shape=[-3]), "INVALID_ARGUMENT", "which no tensor has"),
        (lambda: pb.ModelInferRequest(model_name="none"), "NOT_FOUND", "no model"),
        (lambda: pb.ModelInferRequest(model_name="two"), "INVALID_ARGUMENT", "'x' is missing"),
        (
            lambda: pb.ModelInferRequest(model_name="two", raw_input_contents=[b""]),
            "INVALID_ARGUMENT",
            "0 inputs, but 1 raw_input_contents",
        ),
        (
            lambda: pb.ModelInferRequest(raw_input_contents=[bytes(20_000_000)]),
            "RESOURCE_EXHAUSTED",
            "larger than max",
        ),
    ]
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        for make, code, problem in cases:
            with pytest.raises(grpc.RpcError) as caught:
                infer(make())
            assert caught.value.code().name == code
            assert problem in caught.value.details()
        assert len(infer(message()).outputs) == 2
        unread = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError, match="the message is no ModelInferRequest") as caught:
            unread(b"\xff" * 9)
        assert caught.value.code().name == "INVALID_ARGUMENT"


def test_too_many_requests_are_refused_at_once_and_the_others_answered(
    server: Running, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    whole, json_bytes = binary_body(inputs)
    headers = {"Inference-Header-Content-Length": str(json_bytes)}

    def over_http(_: int) -> str:
        status, answer = server.request("POST", "/v2/models/two/infer", whole, headers)
        if status == 200:
            return "answered"
        assert (status, "2 requests wait already" in json.loads(answer)["error"]) == (503, True)
        return "http refused"

    def over_grpc(_: int) -> str:
        with server.client("grpc") as client:
            try:
                assert_equal(client.infer("two", tensors(triton_grpc, inputs)), expected)
            except triton_utils.InferenceServerException as error:
                assert error.status() == "StatusCode.RESOURCE_EXHAUSTED"
                return "grpc refused"
            return "answered"

    found: set[str] = set()
    with ThreadPoolExecutor(12) as threads:
        for _ in range(20):  # until both have been refused: who comes first is not known
            found |= {*threads.map(over_http, range(6)), *threads.map(over_grpc, range(6))}
            if len(found) == 3:
                break
    assert found == {"answered", "http refused", "grpc refused"}


def test_the_end_waits_for_what_was_accepted(
    processes: list[subprocess.Popen[str]],
    inputs: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
) -> None:
    server = wait_for(processes[1])
    whole, json_bytes = binary_body(inputs)
    head = (
        f"POST /v2/models/two/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(whole)}\r\n"
        f"Inference-Header-Content-Length: {json_bytes}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=TIMEOUT_S) as connection:
        connection.sendall(head.encode())
        assert b"100 Continue" in connection.recv(1000)  # the request has been accepted
        server.process.send_signal(signal.SIGTERM)
        while not any("stopping" in line["message"] for line in list(server.log)):
            assert server.process.poll() is None
            os.sched_yield()
        connection.sendall(whole)
        answer = b""
        while part := connection.recv(1 << 20):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert expected["product"].tobytes() in answer
    assert server.process.wait(timeout=TIMEOUT_S) == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.http_port), timeout=TIMEOUT_S)
