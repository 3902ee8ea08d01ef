"""Attacks on a server: requests over REST and gRPC, connections, and its end under load."""

from __future__ import annotations

import json
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from attack_runner import Attack, Attempt, CrashError, ForeignBytesError, HangError
from attacks_on_artifacts import write_artifact

import hios_tvm
from hios_tvm.errors import HiosError, InputError

Array = np.ndarray
_LIMIT_S = 120.0
_INFER = "/v2/models/m/infer"
_LENGTH = "Inference-Header-Content-Length"
_DTYPES = {"FP32": np.float32, "INT64": np.int64}
_INPUTS = {
    "x": np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32),
    "i": np.array([0, 5, -1]),
}
_REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
# The server ends with the process that started it, however that ends.
_SERVE = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
from hios_tvm.cli import main
main()
"""


@dataclass
class Server:
    """A server of the artifact `m` in a process of its own, and the same artifact here."""

    artifact: Path
    session: hios_tvm.Session
    process: subprocess.Popen[str]
    http_port: int
    grpc_port: int

    @classmethod
    def start(cls, artifact: Path) -> Server:
        """Start one, and return when it listens."""
        options = ("--http-port", "0", "--grpc-port", "0", "--log-format", "json")
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, "serve", f"m={artifact}", *options],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "http_port" in (data := json.loads(line)):
                break
        else:
            raise CrashError("the server did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        session = hios_tvm.load(artifact)
        return cls(artifact, session, process, data["http_port"], data["grpc_port"])

    def ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an answer over REST."""
        connection = HTTPConnection("127.0.0.1", self.http_port, timeout=_LIMIT_S)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()
        except TimeoutError as error:
            raise HangError(f"no answer within {_LIMIT_S:.0f} s") from error
        finally:
            connection.close()

    def require_right(self, inputs: dict[str, Array], outputs: dict[str, Any]) -> None:
        """Raise if `outputs`, as arrays or lists of JSON, are not those of a run here."""
        try:
            expected = self.session.run(inputs)
        except HiosError as error:
            raise ForeignBytesError(f"what is wrong was run: {error}") from error
        for name, found in outputs.items():
            right = expected[name].ravel()
            if isinstance(found, list):
                same = found == [float(v) if np.isfinite(v) else None for v in right]
            else:
                same = found == right.tobytes()
            if not same:
                raise ForeignBytesError(f"{name!r} is not that of a run")

    def require_sound(self) -> None:
        """Raise unless the server answers a right request, and rightly."""
        if self.process.poll() is not None:
            raise CrashError(f"the server ended with code {self.process.returncode}")
        body, headers = _binary(_tree(), [])
        status, found, answer = self.ask("POST", _INFER, body, headers)
        if status != 200:
            raise RuntimeError(f"a right request got {status}: {answer!r}")
        self.require_right(_INPUTS, _outputs(found, answer))


def _tree() -> dict[str, Any]:
    """Return a right request, as JSON has it."""
    names = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
    inputs = [
        {"name": n, "shape": list(a.shape), "datatype": names[a.dtype], "data": a.ravel().tolist()}
        for n, a in _INPUTS.items()
    ]
    return {"id": "7", "inputs": inputs, "parameters": {"binary_data_output": True}}


def _binary(tree: dict[str, Any], names: list[str]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request with some of its inputs as bytes."""
    parts = []
    for item in tree["inputs"]:
        if item["name"] in names:
            parts.append(_INPUTS[item["name"]].tobytes())
            item["parameters"] = {"binary_data_size": len(parts[-1])}
            del item["data"]
    head = json.dumps(tree).encode()
    return b"".join([head, *parts]), {_LENGTH: str(len(head))} if parts else {}


def _outputs(headers: dict[str, str], answer: bytes) -> dict[str, Any]:
    """Return the outputs of an answer: lists, or bytes."""
    end = int(headers.get(_LENGTH.lower(), len(answer)))
    outputs: dict[str, Any] = {}
    for item in json.loads(answer[:end])["outputs"]:
        if "data" in item:
            outputs[item["name"]] = item["data"]
        else:
            size = item["parameters"]["binary_data_size"]
            outputs[item["name"]] = answer[end : end + size]
            end += size
    return outputs


def _inputs(body: bytes, headers: dict[str, str]) -> dict[str, Array]:
    """Return the inputs of a request that the server has run."""
    end = int(headers.get(_LENGTH, len(body)))
    inputs = {}
    for item in json.loads(body[:end])["inputs"]:
        dtype = _DTYPES[item["datatype"]]
        if item.get("data") is not None:
            array = np.array(item["data"]).astype(dtype)
        else:
            size = item["parameters"]["binary_data_size"]
            array = np.frombuffer(body[end : end + size], dtype)
            end += size
        inputs[item["name"]] = array.reshape(item["shape"])
    return inputs


_HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 1 << 31, 1 << 63, 1 << 90, 1e39, 1e308, float("nan"), "", "x", "\0"),
    *([], [[]], {}, {"data": 1}, [1, [2]], "FP32", "BYTES", "BF16", [1] * 100, ["y" * 5000, ""]),
)


def _spoil(value: Any, rng: random.Random) -> Any:
    """Return a tree of JSON with one place changed, removed or repeated."""
    if not isinstance(value, dict | list) or not value or rng.randrange(6) == 0:
        return rng.choice(_HOSTILE)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    changed = value.copy()
    match rng.randrange(4):
        case 0:
            del changed[key]
        case 1 if isinstance(changed, list):
            changed += [changed[key]] * rng.choice([1, 3, 2000])
        case _:
            changed[key] = _spoil(value[key], rng)
    return changed


def _flip(body: bytes, rng: random.Random, places: int) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.randrange(places)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def try_rest(server: Server, rng: random.Random) -> None:
    """Send one request with something wrong in it, in most cases."""
    method, path, tree = "POST", _INFER, _tree()
    headers: dict[str, str] = {}
    kind = rng.choice(["tree", "tree", "bytes", "length", "header", "path"])
    if kind == "tree":
        for _ in range(rng.randrange(1, 4)):
            tree = _spoil(tree, rng) if isinstance(tree, dict) else tree
        body = json.dumps(tree).encode()
    else:
        body, headers = _binary(tree, rng.choice([["x"], ["i"], ["x", "i"]]))
    if kind == "bytes":
        body = _flip(body, rng, 4)
    elif kind == "length":
        body = body[: rng.randrange(len(body) + 1)] + rng.randbytes(rng.choice([0, 0, 1, 9]))
        headers[_LENGTH] = str(int(headers[_LENGTH]) + rng.choice([0, 0, -1, 1, 1000]))
    elif kind == "header":
        name = rng.choice([_LENGTH, "Content-Type", "Content-Encoding", "Accept", "Expect"])
        headers[name] = rng.choice(["", "-1", "1e9", "9" * 30, "gzip", "text/html", "x" * 9000])
    elif kind == "path":
        method = rng.choice(["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST"])
        path = f"/v2/models/{rng.choice(['m', 'none', '%00', '..', 'm/versions/9', 'm%0a'])}"
        path += rng.choice(["", "/infer", "/ready", "/load", "/versions/1/infer", "//infer"])
    status, found, answer = server.ask(method, path, body, headers)
    if status == 200 and path.endswith("infer"):
        server.require_right(_inputs(body, headers), _outputs(found, answer))
    elif status >= 500:
        raise RuntimeError(f"{status}: {answer!r}")
    elif status >= 400:
        problem = json.loads(answer) if method != "HEAD" else {}
        text = str(problem)
        if "Traceback" in text or "\n" in text or len(text) > 2000:
            raise RuntimeError(f"the client is told {text}")
        raise InputError(text)


def _message(rng: random.Random) -> bytes:
    """Return a message of gRPC whose tensors are bytes; the class is not at hand in all processes.

    Fields: 1 the model, 5 inputs (1 name, 2 type, 3 shape), 7 bytes.
    """

    def field(number: int, content: bytes) -> bytes:
        length = len(content)
        size = b""
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    def tensor(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
        parts = field(1, name.encode()) + field(2, datatype.encode()) + field(3, bytes(shape))
        return field(5, parts)

    x, i = _INPUTS.values()
    parts = [
        field(1, b"m"),
        tensor("x", "FP32", x.shape),
        tensor("i", "INT64", i.shape),
        field(7, x.tobytes()),
        field(7, i.tobytes()),
    ]
    match rng.randrange(5):
        case 0:
            parts.pop(rng.randrange(len(parts)))
        case 1:
            at = rng.randrange(len(parts))
            parts[at] = parts[at][: rng.randrange(len(parts[at]))]
        case 2:
            parts += [rng.choice(parts)] * rng.choice([1, 2, 2000])
        case 3:
            parts[1] = tensor(
                rng.choice(["x", "z", "n" * 9000]),
                rng.choice(["FP32", "FP64", "BYTES", "?"]),
                rng.choice([(6, 8), (48,), (8, 6), (), (127,) * 40]),
            )
    return _flip(b"".join(parts), rng, 3)


def try_grpc(server: Server, rng: random.Random) -> None:
    """Send one message with something wrong in it, in most cases."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        method = rng.choice(["ModelInfer"] * 6 + ["ModelReady", "ModelMetadata", "None"])
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        try:
            call(_message(rng), timeout=_LIMIT_S)
        except grpc.RpcError as error:
            text = f"{error.code().name}: {error.details()}"
            if error.code().name not in _REFUSALS or "Stream removed" in text:
                raise RuntimeError(text) from error
            raise InputError(text) from error


def try_connection(server: Server, rng: random.Random) -> None:
    """Break a connection; the next request is answered."""
    body = json.dumps(_tree()).encode()
    head = f"POST {_INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    chunked = b"POST %b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" % _INFER.encode()
    sent = rng.choice(
        [
            rng.randbytes(200) + b"\r\n\r\n",
            head + body,
            (head + body) * 50,
            _flip(head, rng, 5) + body,
            b"GET /" + b"x" * 1_000_000,
            b"GET /v2 HTTP/1.1\r\n" + b"a: b\r\n" * 200_000,
            chunked + b"1;" + b"x" * 1_000_000,
            chunked + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n",
            chunked + b"1\r\n{\r\n0\r\n" + b"a: b\r\n" * 200_000,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(100),
            b"GET /v2 HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        ]
    )
    ports = (server.http_port, server.http_port, server.grpc_port)
    connection = socket.create_connection(("127.0.0.1", rng.choice(ports)), timeout=_LIMIT_S)
    with connection, suppress(OSError):  # it does not want more, or waits for more
        connection.settimeout(1)
        connection.sendall(sent[: rng.choice([len(sent), rng.randrange(len(sent))])])
        match rng.randrange(3):
            case 0:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
            case 1:  # ends with a reset
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    server.require_sound()


def try_end(server: Server, rng: random.Random) -> None:
    """End a server while clients ask: all that is answered is right, or a refusal."""
    wrong: list[str] = []
    answers: list[int] = []

    def ask() -> None:
        body, headers = _binary(_tree(), ["x"])
        with suppress(ConnectionError, HTTPException):  # it takes no more
            while True:
                status, found, answer = server.ask("POST", _INFER, body, headers)
                answers.append(status)
                if status == 200:
                    server.require_right(_INPUTS, _outputs(found, answer))
                elif status != 503:
                    wrong.append(f"{status}: {answer!r}")

    clients = [threading.Thread(target=ask) for _ in range(6)]
    for client in clients:
        client.start()
    enough = rng.randrange(200)
    while len(answers) < enough and any(client.is_alive() for client in clients):
        threading.Event().wait(0.001)
    server.process.send_signal(rng.choice([signal.SIGTERM, signal.SIGINT]))
    for client in clients:
        client.join()
    if (code := server.process.wait(_LIMIT_S)) != 0:
        raise CrashError(f"the server ended with code {code}")
    if wrong:
        raise RuntimeError(f"{len(wrong)} answers, for example {wrong[0]}")


def _of_one_server(make_try: Callable[[Server, random.Random], None], folder: Path) -> Attempt:
    write_artifact(folder / "model.hios")
    server = Server.start(folder / "model.hios")

    def attempt(rng: random.Random) -> None:
        try:
            make_try(server, rng)
        except InputError:
            if rng.randrange(10) == 0:
                server.require_sound()
            raise

    return attempt


def _ends(folder: Path) -> Attempt:
    write_artifact(folder / "model.hios")
    return lambda rng: try_end(Server.start(folder / "model.hios"), rng)


ATTACKS = (
    Attack("server: requests over REST", partial(_of_one_server, try_rest), 10_000, 300),
    Attack("server: messages over gRPC", partial(_of_one_server, try_grpc), 10_000, 300),
    Attack("server: broken connections", partial(_of_one_server, try_connection), 1000, 300),
    Attack("server: ends under load", _ends, 20, 600),
)
