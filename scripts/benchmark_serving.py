"""What serving costs, beside what it is to cost: `aim` below, exit code 1 where one is missed.

    python scripts/benchmark_serving.py       # pip install 'hios-tvm[serve]' 'tritonclient[all]'

Own time is the processor time of the server's process for each request, less the time of its runs.
Beside it stand servers that only receive and answer the same bytes (gRPC's and uvicorn's), and
KServe's server with a model of the same work and none of `hios_tvm.serving`. Clients are on this
machine.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import TensorProto, helper
from serving_load import HIOS, PROTOCOLS, Server, caller, hios_server, other_server, saturate
from serving_memory import measure_memory
from serving_rivals import OTHERS, SHAPE

import hios_tvm
from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.options import print_table
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.files import atomic_write
from hios_tvm.frontends import load_model
from hios_tvm.measuring.benchmark import benchmark
from hios_tvm.runtime import load
from hios_tvm.runtime.devices.cpu.cores import default_devices
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.verification.inputs import random_inputs
from hios_tvm.zoo import build

ROUNDS, REQUESTS = 12, 25
OWN_US = {"grpc": 300.0, "http": 500.0}


@dataclass(frozen=True)
class Aim:
    """A number, and what it is to be: at most `limit`, or at least."""

    what: str
    found: float
    limit: float
    is_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it is so."""
        return self.found >= self.limit if self.is_least else self.found <= self.limit


@dataclass
class OwnTime:
    """Microseconds for each request, by round; latencies by request."""

    cpu_us: list[float] = field(default_factory=list)
    latency_us: list[float] = field(default_factory=list)


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


@click.command(help=__doc__)
@click.option("--network", default="squeezenet1_1", show_default=True)
@click.option("--artifact", type=click.Path(exists=True, path_type=Path), help="Of that network.")
@click.option("--seconds", default=5.0, show_default=True, help="For each load.")
@click.option("--rounds", default=3, show_default=True, help="Of each load, in turn.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write JSON there.")
def main(
    network: str, artifact: Path | None, seconds: float, rounds: int, json_file: Path | None
) -> None:
    aims: list[Aim] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data: dict[str, Any] = {"machine": describe_machine().to_data()}
        data["own time, us"] = _measure_own_times(mean_model(folder / "mean.hios"), aims)
        if artifact is None:
            model = folder / f"{network}.onnx"
            model.write_bytes(build(network).SerializeToString())
            artifact = model.with_suffix(".hios")
            stderr().print(f"compile {network} ...")
            options = CompileOptions(devices=default_devices())
            compile_model(load_model(model), artifact, options, name=network)
        data["throughput, requests/s"] = _measure_throughput(artifact, seconds, rounds, aims)
        data["overload, ms"] = _measure_overload(artifact, seconds, aims)
        batched = mlp_model(folder / "mlp.hios")
        data["batching, requests/s"] = _measure_batching(batched, seconds, rounds, aims)
        data["memory, MiB"] = memory = measure_memory(artifact)
        for what in ("sessions", "processes"):
            aims.append(Aim(f"weights of 8 {what}, of one", memory[what] / memory["one"], 1.1))
        data["shapes, ms"] = _measure_shapes(folder, network, aims)
    rows = [[a.what, f"{a.found:.4g}", _limit(a), "yes" if a.is_met else "no"] for a in aims]
    print_table("aims", ["what", "found", "aim", "met"], rows)
    stdout().print(f"machine: {describe_machine()}", soft_wrap=True)
    if json_file is not None:
        with atomic_write(json_file) as file:
            file.write((json.dumps(data, indent=1) + "\n").encode())
    sys.exit(not all(aim.is_met for aim in aims))


def _limit(aim: Aim) -> str:
    return f"at {'least' if aim.is_least else 'most'} {aim.limit:.4g}"


def _measure_own_times(artifact: Path, aims: list[Aim]) -> list[dict[str, Any]]:
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
    for protocol, limit in OWN_US.items():
        own, bare = (
            statistics.median(found[name, protocol].cpu_us) for name in ("hios-tvm", "bare")
        )
        aims.append(Aim(f"own time over {protocol}, us", own, limit))
        aims.append(Aim(f"own time over {protocol}, us, beside a bare server's", own - bare, limit))
    return rows


def _measure_throughput(
    artifact: Path, seconds: float, rounds: int, aims: list[Aim]
) -> dict[str, list[float]]:
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
    for name in PROTOCOLS:
        ratio = statistics.median(found[name]) / direct
        aims.append(Aim(f"throughput over {name}, of benchmark's", ratio, 0.9, is_least=True))
    return found


def _measure_overload(artifact: Path, seconds: float, aims: list[Aim]) -> list[dict[str, Any]]:
    """Send from many more connections than the queue is long."""
    queue, threads = 8, 32
    rows: list[dict[str, Any]] = []
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
    for row in rows:
        ratio = row["p99_ms"] / row["bound_ms"]
        aims.append(
            Aim(f"p99 over {row['protocol']} while overloaded, of queue + 2 runs", ratio, 1)
        )
    return rows


def _measure_batching(
    artifact: Path, seconds: float, rounds: int, aims: list[Aim]
) -> list[dict[str, Any]]:
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
    for row in rows:
        what = f"batches over {row['protocol']}, of one by one"
        aims.append(Aim(what, row["joined"] / row["alone"], 1.2, is_least=True))
    return rows


def _measure_shapes(folder: Path, network: str, aims: list[Aim]) -> list[dict[str, Any]]:
    """Compare an artifact of two batches with one for each, in turn."""
    model = build(network)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path := folder / "batches.onnx")
    (value,) = model.graph.input
    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
    rows = []
    with ExitStack() as stack:
        sessions = {}
        for batch in (range(1, 3), 1, 2):
            output = folder / f"batch-{batch}.hios"
            compiled = hios_tvm.compile(
                path, output, shapes={value.name: (batch, *sizes)}, scheduler="sequential"
            )
            sessions[batch] = stack.enter_context(compiled.load())
        several = sessions[range(1, 3)]
        for batch in (1, 2):
            inputs = {value.name: np.ones((batch, *sizes), np.float32)}
            times: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(ROUNDS):
                for is_several, session in ((True, several), (False, sessions[batch])):
                    session.run(inputs)  # the weights are in the caches then
                    for _ in range(REQUESTS):
                        start = time.perf_counter()
                        session.run(inputs)
                        times[is_several].append(1e3 * (time.perf_counter() - start))
            of_several, alone = statistics.median(times[True]), statistics.median(times[False])
            rows.append({"batch": batch, "several_ms": of_several, "one_ms": alone})
            what = f"latency of batch {batch} among several shapes, of one shape"
            aims.append(Aim(what, of_several / alone, 1.03))
    columns = ["batch", "several shapes, ms", "one shape, ms"]
    print_table(network, columns, [[f"{cell:.3g}" for cell in row.values()] for row in rows])
    return rows


if __name__ == "__main__":
    main()
