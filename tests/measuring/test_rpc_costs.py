"""Real servers and a real tracker of TVM, on the loopback address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from hios_tvm.backends.network import Network, lower_network
from hios_tvm.cli import main
from hios_tvm.errors import DeviceError, UsageError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.measuring.rpc_costs import RpcAddress, remote_costs
from hios_tvm.schema.instance import read_instance

Start = Callable[..., tuple[subprocess.Popen[bytes], int]]


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `python -m tvm.exec.NAME` and wait until it listens."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(name: str, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
        port = free_port()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", f"tvm.exec.{name}", *arguments),
                *("--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        processes.append(process)
        while not is_listening(port):
            assert process.poll() is None
            time.sleep(0.05)
        return process, port

    yield run
    for process in processes:
        kill(process)
        process.wait()


def is_listening(port: int) -> bool:
    """Look into the system's table: to connect would use up a turn of the server."""
    wanted = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1] == wanted and line.split()[3] == "0A" for line in lines)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a server with the processes that serve its sessions."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"]),
            helper.make_node("Softmax", ["m"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [16, 64])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path_factory.mktemp("remote") / "small.onnx"
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def network(model: Path) -> Network:
    return lower_network(from_onnx(onnx.load(model)), "host")


def measure(network: Network, address: RpcAddress, devices: tuple[str, ...] = ("cpu@0",)) -> None:
    form = network.lowered["cpu"]
    remote_costs(form.mod, form.graph, form.target, devices, address)


def test_compile_measures_at_a_server(start: Start, model: Path, tmp_path: Path) -> None:
    _, port = start("rpc_server", "--key", "board")
    costs = tmp_path / "costs.json"
    arguments = [
        "compile", model, "-o", tmp_path / "small.hios", "--devices", "cpu@0,cpu@1", "--no-cache",
        "--rpc", f"127.0.0.1:{port}", "--rpc-key", "board", "--save-costs", costs,
    ]  # fmt: skip
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    instance = read_instance(costs)
    times = instance.costs.latency["cpu/1"]
    assert times.keys() == {operator.name for operator in instance.graph.operators}
    assert {time.source for time in times.values()} == {"measured over RPC"}
    assert all(time.ms > 0 for time in times.values())
    assert 0 < instance.platform.independence <= 1
    assert 0 < instance.platform.default_link.bandwidth_gb_s < 1e6


def test_a_tracker_lends_a_server(start: Start, network: Network) -> None:
    _, tracker = start("rpc_tracker")
    with pytest.raises(DeviceError, match="no server with the key 'board'; it has none"):
        measure(network, RpcAddress("127.0.0.1", tracker, "board"))
    start("rpc_server", "--key", "board", "--tracker", f"127.0.0.1:{tracker}")
    address = RpcAddress("127.0.0.1", tracker, "board")
    for attempt in range(50):  # the server reports to the tracker a moment after it listens
        try:
            measure(network, address)
            break
        except DeviceError:
            assert attempt < 49
            time.sleep(0.2)
    with pytest.raises(DeviceError, match="no server with the key 'other'; it has 'board'"):
        measure(network, RpcAddress("127.0.0.1", tracker, "other"))


def test_a_wrong_key_is_refused(start: Start, network: Network) -> None:
    _, port = start("rpc_server", "--key", "board")
    with pytest.raises(DeviceError, match=r"refuses the key 'other'.*--rpc-key"):
        measure(network, RpcAddress("127.0.0.1", port, "other"))


def test_nobody_listens(network: Network) -> None:
    with pytest.raises(DeviceError, match=r"nobody answers at 127.0.0.1:.*rpc_server"):
        measure(network, RpcAddress("127.0.0.1", free_port()))


def test_a_server_that_dies_is_one_clear_error(start: Start, network: Network) -> None:
    process, port = start("rpc_server", "--key", "board")

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "measure":
            kill(process)

    with pytest.raises(DeviceError, match=f"measuring at 127.0.0.1:{port} failed"):
        form = network.lowered["cpu"]
        remote_costs(
            form.mod,
            form.graph,
            form.target,
            ("cpu@0",),
            RpcAddress("127.0.0.1", port, "board"),
            progress=progress,
        )


@pytest.mark.parametrize("text", ["", "host", "host:", "host:port", ":9090", "host:0", "h:70000"])
def test_an_address_is_host_and_port(text: str) -> None:
    with pytest.raises(UsageError, match="write HOST:PORT"):
        RpcAddress.parse(text)
    assert str(RpcAddress.parse("board.local:9090")) == "board.local:9090"
