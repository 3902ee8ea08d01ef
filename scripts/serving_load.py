"""Servers on this machine, and clients that load them; `benchmark_serving.py` measures with these.

Clients send what tritonclient sends, from the same machine.
"""

from __future__ import annotations

import importlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import click
import numpy as np

PROTOCOLS = ("grpc", "http")
HIOS = "from hios_tvm.cli import main; main()"
_BACKOFF_S = 0.1  # after a refusal; clients that ask again at once leave no cores for the model
_RIVALS = Path(__file__).with_name("serving_rivals.py")


@dataclass(frozen=True)
class Server:
    """A process that serves, and its ports by protocol."""

    process: subprocess.Popen[str]
    ports: dict[str, int]

    def cpu_s(self) -> float:
        """Processor time of all threads."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def run_s(self) -> float:
        """Time in runs of models."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}/metrics") as page:
            text = page.read().decode()
        return sum(map(float, re.findall(r"^hios_run_seconds_sum\{.*\} (\S+)", text, re.MULTILINE)))


@contextmanager
def hios_server(*words: object) -> Iterator[Server]:
    """Serve artifacts as ``hios-tvm serve`` does."""
    options = ("--http-port", "0", "--grpc-port", "0", "--log-format", "json")
    command = [sys.executable, "-c", HIOS, "serve", *map(str, words), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        data = json.loads(line)
        if "http_port" in data:
            break
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        yield Server(process, {name: data[f"{name}_port"] for name in PROTOCOLS})
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextmanager
def other_server(kind: str) -> Iterator[Server]:
    """Run one of the servers to compare with."""
    ports = dict(zip(PROTOCOLS, _free_ports(2), strict=True))
    command = [sys.executable, str(_RIVALS), kind, *map(str, ports.values())]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True)
    try:
        for port in ports.values():
            _wait_for(port, process)
        yield Server(process, ports)
    finally:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [one.getsockname()[1] for one in sockets]


def _wait_for(port: int, server: subprocess.Popen[str]) -> None:
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:  # it does not listen yet
            time.sleep(0.2)
    raise click.ClickException(f"the server to compare with ended with code {server.returncode}")


def caller(
    protocol: str, port: int, model: str, inputs: dict[str, np.ndarray]
) -> Callable[[], bool]:
    """Return what sends one request over a connection of its own, and says whether it was run.

    The bytes of the request are those of tritonclient, made once: the client is to take little of
    the cores that the server runs on.
    """
    triton = importlib.import_module(f"tritonclient.{protocol}")
    given = []
    for name, array in inputs.items():
        given.append(triton.InferInput(name, array.shape, "FP32"))
        given[-1].set_data_from_numpy(array)
    if protocol == "http":
        body, json_bytes = triton.InferenceServerClient.generate_request_body(given)
        headers = {"Inference-Header-Content-Length": str(json_bytes)}
        headers["Content-Type"] = "application/octet-stream"
        return _http_caller(port, f"/v2/models/{model}/infer", body, headers)
    tensors = [item._get_tensor() for item in given]
    raw = [item._get_content() for item in given]
    request = triton.service_pb2.ModelInferRequest(
        model_name=model, inputs=tensors, raw_input_contents=raw
    )
    return _grpc_caller(port, request.SerializeToString())


def _http_caller(port: int, path: str, body: bytes, headers: dict[str, str]) -> Callable[[], bool]:
    connection = HTTPConnection("127.0.0.1", port)
    connection.connect()
    assert connection.sock is not None
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call() -> bool:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        content = response.read()
        if response.status not in (200, 503):
            raise RuntimeError(content)
        return response.status == 200

    return call


def _grpc_caller(port: int, request: bytes) -> Callable[[], bool]:
    import grpc

    channel = grpc.insecure_channel(
        f"127.0.0.1:{port}",
        [("grpc.use_local_subchannel_pool", 1)],  # a connection of its own
    )
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def call() -> bool:
        try:
            infer(request)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return False
        return True

    return call


def saturate(
    server: Server, protocol: str, model: str, inputs: dict[str, np.ndarray], threads: int, s: float
) -> tuple[list[float], list[float]]:
    """Call from `threads` connections at once; return the seconds of answers and of refusals."""
    answered: list[float] = []
    refused: list[float] = []
    end = time.perf_counter() + s

    def work() -> None:
        call = caller(protocol, server.ports[protocol], model, inputs)
        while (start := time.perf_counter()) < end:
            was_run = call()
            (answered if was_run else refused).append(time.perf_counter() - start)
            if not was_run:
                time.sleep(_BACKOFF_S)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return answered, refused
