"""What serving costs: own time, throughput at saturation and in batches, latency when overloaded.

    python scripts/benchmark_serving.py --network squeezenet1_1

Clients are on the same machine, and send what tritonclient sends. Own time is the processor
time of the server's process for each request, less the time of its runs. Beside it stand servers
that only receive and answer the same bytes (gRPC's and uvicorn's), and KServe's server with a
model of the same work and none of `hios_tvm.serving`.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import TensorProto, helper

from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.options import print_table
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.frontends import load_model
from hios_tvm.measuring.benchmark import benchmark
from hios_tvm.runtime import load
from hios_tvm.runtime.devices.cpu.cores import default_devices
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.verification.inputs import random_inputs
from hios_tvm.zoo import build

SHAPE = (1, 3, 224, 224)  # 602,112 bytes
PROTOCOLS = ("grpc", "http")
ROUNDS, REQUESTS = 12, 25
BACKOFF_S = 0.1  # after a refusal; clients that ask again at once leave no cores for the model
HIOS = "from hios_tvm.cli import main; main()"


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
    """Run this script as one of the servers to compare with."""
    ports = dict(zip(PROTOCOLS, _free_ports(2), strict=True))
    command = [sys.executable, __file__, "--as", kind, *map(str, ports.values())]
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


@dataclass
class OwnTime:
    """Microseconds for each request, by round; latencies by request."""

    cpu_us: list[float] = field(default_factory=list)
    latency_us: list[float] = field(default_factory=list)


def caller(
    protocol: str, port: int, model: str, inputs: dict[str, np.ndarray]
) -> Callable[[], bool]:
    """Return what sends one request over a connection of its own, and says whether it was run.

    The bytes of the request are those of tritonclient, made once: the client is to take little of
    the cores that the server runs on.
    """
    import importlib

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


def own_times(servers: dict[str, Server], slow: Sequence[str]) -> dict[tuple[str, str], OwnTime]:
    """Measure each server with one request after another, in turn; those in `slow` less often."""
    image = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    cases = [(name, protocol) for name in servers for protocol in PROTOCOLS]
    calls = {
        (name, protocol): caller(protocol, servers[name].ports[protocol], "mean", {"x": image})
        for name, protocol in cases
    }
    for call in calls.values():
        for _ in range(3):
            call()
    found = {case: OwnTime() for case in cases}
    for _ in range(ROUNDS):
        for case in cases:
            server, count = servers[case[0]], 1 if case[0] in slow else REQUESTS
            runs = server.run_s if case[0] == "hios-tvm" else lambda: 0.0
            run_s, cpu_s = runs(), server.cpu_s()
            for _ in range(count):
                start = time.perf_counter()
                calls[case]()
                found[case].latency_us.append(1e6 * (time.perf_counter() - start))
            cpu_s, run_s = server.cpu_s() - cpu_s, runs() - run_s
            found[case].cpu_us.append(1e6 * (cpu_s - run_s) / count)
    return found


def mean_model(path: Path) -> Path:
    """Compile a model that does almost nothing with an image."""
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph(
        [node],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE[:2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path.with_suffix(".onnx"))
    options = CompileOptions(devices=("cpu@0",), scheduler="sequential")
    compile_model(load_model(path.with_suffix(".onnx")), path, options)
    return path


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
                time.sleep(BACKOFF_S)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return answered, refused


@click.command(help=__doc__)
@click.option("--network", default="squeezenet1_1", show_default=True)
@click.option("--artifact", type=click.Path(exists=True, path_type=Path), help="Of that network.")
@click.option("--seconds", default=5.0, show_default=True, help="For each load.")
@click.option("--rounds", default=3, show_default=True, help="Of each load, in turn.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write JSON there.")
def main(
    network: str, artifact: Path | None, seconds: float, rounds: int, json_file: Path | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data: dict[str, Any] = {"machine": describe_machine().to_data()}
        data["own time, us"] = _measure_own_times(mean_model(Path(folder, "mean.hios")))
        if artifact is None:
            model = Path(folder, f"{network}.onnx")
            model.write_bytes(build(network).SerializeToString())
            artifact = model.with_suffix(".hios")
            stderr().print(f"compile {network} ...")
            options = CompileOptions(devices=default_devices())
            compile_model(load_model(model), artifact, options, name=network)
        data["throughput, requests/s"] = _measure_throughput(artifact, seconds, rounds)
        data["overload, ms"] = _measure_overload(artifact, seconds)
        batched = mlp_model(Path(folder, "mlp.hios"))
        data["batching, requests/s"] = _measure_batching(batched, seconds, rounds)
    stdout().print(f"machine: {describe_machine()}", soft_wrap=True)
    if json_file is not None:
        json_file.write_text(json.dumps(data, indent=1) + "\n")


def _measure_own_times(artifact: Path) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        servers = {"hios-tvm": stack.enter_context(hios_server(artifact))}
        servers |= {kind: stack.enter_context(other_server(kind)) for kind in OTHERS}
        found = own_times(servers, slow=["kserve"])
    rows = [
        {
            "server": name,
            "protocol": protocol,
            "cpu_us": statistics.median(own.cpu_us),
            "least_cpu_us": min(own.cpu_us),
            "latency_us": statistics.median(own.latency_us),
            "least_latency_us": min(own.latency_us),
        }
        for (name, protocol), own in found.items()
    ]
    columns = ["server", "protocol", "cpu us", "least", "latency us", "least"]
    cells = [[str(v) if isinstance(v, str) else f"{v:.0f}" for v in row.values()] for row in rows]
    print_table("own time for each request of 600 KB", columns, cells)
    return rows


def _measure_throughput(artifact: Path, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Compare with threads that call `session.run`, in turn."""
    found: dict[str, list[float]] = {name: [] for name in ("session.run", *PROTOCOLS)}
    threads = 4
    for _ in range(rounds):
        with load(artifact) as session:
            inputs = random_inputs(session.inputs, 0)
            result = benchmark(session, inputs, duration=seconds, concurrency=threads)
            found["session.run"].append(result.throughput_per_s)
        with hios_server(f"m={artifact}") as server:
            for protocol in PROTOCOLS:
                saturate(server, protocol, "m", inputs, threads, 0.5)
                answered, _ = saturate(server, protocol, "m", inputs, threads, seconds)
                found[protocol].append(len(answered) / seconds)
    direct = statistics.median(found["session.run"])
    rows = [
        [name, f"{statistics.median(values):.1f}", f"{statistics.median(values) / direct:.2f}"]
        for name, values in found.items()
    ]
    print_table("throughput at saturation", ["caller", "requests/s", "of session.run"], rows)
    return found


def _measure_overload(artifact: Path, seconds: float) -> list[dict[str, Any]]:
    """Send from many more connections than the queue is long."""
    queue, threads = 8, 32
    rows = []
    with hios_server(f"m={artifact}", "--queue", queue) as server, load(artifact) as session:
        inputs = random_inputs(session.inputs, 0)
        for protocol in PROTOCOLS:
            before = server.run_s()
            answered, refused = saturate(server, protocol, "m", inputs, threads, seconds)
            run_ms = 1e3 * (server.run_s() - before) / len(answered)
            rows.append(
                {
                    "protocol": protocol,
                    "answered": len(answered),
                    "refused": len(refused),
                    "run_ms": run_ms,
                    "bound_ms": (queue + 2) * run_ms,
                    "p50_ms": 1e3 * float(np.percentile(answered, 50)),
                    "p99_ms": 1e3 * float(np.percentile(answered, 99)),
                    "refused_p50_ms": 1e3 * float(np.percentile(refused or [0], 50)),
                }
            )
    columns = ["protocol", "answered", "refused", "run ms", "queue + 2 runs", "p50 ms", "p99 ms"]
    cells = [[v if isinstance(v, str) else f"{v:.4g}" for v in row.values()] for row in rows]
    print_table(f"{threads} callers, {queue} may wait", [*columns, "refusal ms"], cells)
    return rows


def mlp_model(path: Path) -> Path:
    """Compile six layers whose weights take longer to read than to multiply by one row."""
    width, layers = 1024, 6
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(layers):
        array = (rng.standard_normal((width, width)) / 32).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(array, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [last := f"r{i}"]))
    read, written = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name in ("x", last)
    )
    graph = helper.make_graph(nodes, "mlp", [read], [written], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path.with_suffix(".onnx"))
    shapes = ("--shape", f"x:1..8,{width}", "--programs", "1,8", "--scheduler", "sequential")
    command = [sys.executable, "-c", HIOS, "compile", str(path.with_suffix(".onnx")), *shapes]
    subprocess.run([*command, "--devices", "cpu@0", "-o", str(path)], check=True)
    return path


def _measure_batching(artifact: Path, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Compare a server that joins requests with one that does not, in turn."""
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 1024), np.float32)}
    threads = 12
    found: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        servers = {
            most: stack.enter_context(hios_server(f"m={artifact}", "--max-batch", most))
            for most in (1, 8)
        }
        for protocol in PROTOCOLS:
            for _ in range(rounds):
                for most, server in servers.items():
                    answered, _ = saturate(server, protocol, "m", inputs, threads, seconds)
                    found.setdefault((protocol, most), []).append(len(answered) / seconds)
    rows: list[dict[str, Any]] = []
    for protocol in PROTOCOLS:
        alone, joined = (statistics.median(found[protocol, most]) for most in (1, 8))
        rows.append({"protocol": protocol, "alone": alone, "joined": joined})
    print_table(
        f"six products with 1024 x 1024 weights, {threads} callers, requests/s",
        ["protocol", "one by one", "batches to 8", "ratio"],
        [
            [name, f"{alone:.0f}", f"{joined:.0f}", f"{joined / alone:.2f}"]
            for name, alone, joined in (row.values() for row in rows)
        ],
    )
    return rows


def bare(grpc_port: int, http_port: int) -> None:
    """Serve without looking at requests: what gRPC and uvicorn take for themselves."""
    import grpc
    import uvicorn
    import uvloop
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as pb_grpc

    output: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": SHAPE[:2]}
    raw = bytes(12)
    answer = pb.ModelInferResponse(outputs=[output], raw_output_contents=[raw])
    output["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"model_name": "mean", "outputs": [output]}).encode()
    headers = {
        "content-length": len(head) + len(raw),
        "inference-header-content-length": len(head),
    }

    class Service(pb_grpc.GRPCInferenceServiceServicer):
        async def ModelInfer(self, request: Any, context: Any) -> Any:
            return answer

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        pairs = [(name.encode(), str(value).encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": head + raw})

    async def serve() -> None:
        server = grpc.aio.server()
        pb_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
        server.add_insecure_port(f"127.0.0.1:{grpc_port}")
        await server.start()
        await uvicorn.Server(uvicorn.Config(app, port=http_port, log_config=None)).serve()

    uvloop.run(serve())


def stock(grpc_port: int, http_port: int) -> None:
    """Serve a model of the same work on KServe's server as it is."""
    import logging

    import kserve

    class Mean(kserve.Model):
        async def predict(self, payload: Any, headers: Any = None, _response: Any = None) -> Any:
            mean = payload.inputs[0].as_numpy().mean((2, 3))
            output = kserve.InferOutput("y", list(mean.shape), "FP32")
            output.set_data_from_numpy(mean)
            return kserve.InferResponse("", "mean", [output])

    logging.basicConfig(level="WARNING", force=True)
    asyncio.set_event_loop(asyncio.new_event_loop())
    model = Mean("mean")
    model.load()
    server = kserve.ModelServer(
        http_port=http_port, grpc_port=grpc_port, enable_latency_logging=False
    )
    server.start([model])


OTHERS = {"bare": bare, "kserve": stock}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--as"]:
        kind, *ports = sys.argv[2:]
        sys.argv[1:] = []  # KServe reads it
        OTHERS[kind](*map(int, ports))
    else:
        main()
