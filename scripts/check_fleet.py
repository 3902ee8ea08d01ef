"""Break a fleet on purpose while clients use it: no request may be lost or answered wrongly.

    python scripts/check_fleet.py          # pip install 'hios-tvm[fleet]' 'tritonclient[http,grpc]'

Three nodes of Ray run on this machine, each with an address of its own (127.0.0.2 and so on), and
`serve run` deploys what it compiles. Clients (tritonclient, REST and gRPC with binary tensors)
compare every answer with `session.run` of the version that the answer names, bit by bit. The
proxies of all nodes share one port, on which the system spreads connections, as a load balancer
does: a client whose connection breaks connects again and repeats its request.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.update(  # Ray ends what does not answer soon; on a busy machine nothing answers soon
    RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="300",
    RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S="300",
    RAY_worker_register_timeout_seconds="600",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_enable_worker_prestart="0",
    RAY_prestart_worker_first_driver="0",
)

import click
import numpy as np
import onnx
import psutil
import ray
import yaml
from fleet_load import EXAMPLES, GRPC_PORT, HTTP_PORT, MODEL, Load, Phase
from onnx import TensorProto, helper
from ray import serve
from ray.cluster_utils import Cluster

from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.options import print_table
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.files import atomic_write
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime import load
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.runtime.machine import describe_machine

ROWS, DEPTH, COLUMNS = 4, 2048, 2048  # a product of some milliseconds
EXAMPLE = "examples/serve/fleet.yaml"
METRIC = rf'(?m)^ray_serve_deployment_replica_healthy\{{.*deployment="{MODEL}".*\}} (\S+)$'
EVENTS = (
    *("steady", "scale-up", "kill-replica", "kill-front", "kill-node"),
    *("new-version", "damaged", "changed", "scale-down"),
)
LEAST, MOST = 2, 3  # replicas
SCALING = {
    "min_replicas": LEAST,
    "max_replicas": MOST,
    "target_ongoing_requests": 1,
    "upscale_delay_s": 2,
    "downscale_delay_s": 8,
    "metrics_interval_s": 1,
    "look_back_period_s": 3,
}
HAPPENS_S = 1800.0  # within which anything happens, on a busy machine too
PATIENCE = {"health_check_timeout_s": 300}
TOO_SLOW = "proxies not available after"  # the command waits a minute; they begin all the same
RAY_CONFIG = {"metrics_report_interval_ms": 1000, "health_check_timeout_ms": 300_000}


def _compile(path: Path, seed: int) -> None:
    """Compile the product with weights of `seed` for one core."""
    weight = np.random.default_rng(seed).standard_normal((DEPTH, COLUMNS), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (ROWS, DEPTH))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (ROWS, COLUMNS))],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    device = f"cpu@{min(allowed_cores())}"
    compile_model(from_onnx(model), path, CompileOptions(devices=(device,), scheduler="sequential"))


class Fleet:
    """Three nodes on this machine, and what is deployed there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cluster = Cluster()
        self.nodes = [
            self.cluster.add_node(
                num_cpus=2,
                include_dashboard=False,
                object_store_memory=200_000_000,
                node_ip_address=f"127.0.0.{i}",
                **({"_system_config": RAY_CONFIG} if i == 2 else {}),
            )
            for i in (2, 3, 4)
        ]
        ray.init(address=self.cluster.address, log_to_driver=False)

    def close(self) -> None:
        """End all processes."""
        ray.shutdown()
        self.cluster.shutdown()

    def deploy(self, *artifacts: object) -> None:
        """Deploy these artifacts with the example's file."""
        config = yaml.safe_load((Path(__file__).parents[1] / EXAMPLE).read_text())
        config["http_options"] = {"host": "127.0.0.1", "port": HTTP_PORT}
        config["grpc_options"]["port"] = GRPC_PORT
        (application,) = config["applications"]
        application["args"] = {"artifacts": list(map(str, artifacts))}
        application["deployments"] = [
            {"name": "front", "num_replicas": 3, "max_replicas_per_node": 1, **PATIENCE},
            {"name": MODEL, "autoscaling_config": SCALING, **PATIENCE},
        ]
        path = self._folder / "fleet.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [Path(sys.executable).with_name("serve"), "run", "--non-blocking", path]
        words = [*map(str, command), "--address", self.cluster.address]
        end = time.monotonic() + HAPPENS_S
        while (done := subprocess.run(words, capture_output=True, text=True)).returncode:
            if TOO_SLOW not in done.stderr or time.monotonic() > end:
                raise RuntimeError(f"serve run failed:\n{done.stderr}")

    def status(self) -> Any:
        """What Ray says of the application."""
        return serve.status().applications.get("models")

    def running(self) -> int:
        """Replicas of the model that run."""
        found = self.status().deployments.get(MODEL)  # none is known while an application is built
        return 0 if found is None else int(found.replica_states.get("RUNNING", 0))

    def measured_replicas(self) -> int:
        """Return what the metrics of the cluster say of replicas."""
        total = 0.0
        for node in ray.nodes():
            with suppress(OSError):
                url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
                text = urllib.request.urlopen(url, timeout=5).read().decode()
                total += sum(map(float, re.findall(METRIC, text)))
        return int(total)

    def kill_replica(self, deployment: str) -> None:
        """Kill the process of a replica."""
        own = psutil.Process().children(recursive=True)
        title = f"ray::ServeReplica:models:{deployment}"
        found = [process for process in own if "".join(process.cmdline()).startswith(title)]
        found[0].kill()

    def kill_node(self) -> None:
        """Kill all processes of a node at once."""
        node = self.nodes.pop()
        (raylet,) = node.all_processes["raylet"]
        parent = psutil.Process(raylet.process.pid)
        for process in (parent, *parent.children(recursive=True)):
            process.kill()
        self.cluster.remove_node(node, allow_graceful=False)

    def retries(self) -> int:
        """Requests that front doors have given to another replica, as their logs say it."""
        logs = Path(self.cluster.head_node.get_logs_dir_path(), "serve")
        found = logs.glob("replica_models_front_*.log")
        return sum(path.read_text().count("the request goes to another") for path in found)


def _until(what: str, condition: Callable[[], bool], timeout_s: float = HAPPENS_S) -> float:
    """Wait for `condition`; return how long that took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            raise TimeoutError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - start


def _overwrite(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


class Check:
    """What happens, one thing after the other."""

    def __init__(
        self,
        fleet: Fleet,
        load: Load,
        artifacts: list[Path],
        events: Sequence[str],
        pause_s: float,
    ) -> None:
        self._fleet = fleet
        self._events = events
        self._load = load
        self._artifacts = artifacts
        self._pause_s = pause_s
        self.phases: list[Phase] = []

    def run(self) -> None:
        """Do all of them."""
        for event in self._events:
            step = getattr(self, f"_{event.replace('-', '_')}")
            name = (step.__doc__ or "").rstrip(".")
            stderr().print(f"{name} ...")
            phase = self._load.phase = Phase(name)
            self.phases.append(phase)
            retries = self._fleet.retries()
            phase.note = step()
            time.sleep(self._pause_s)
            phase.retried = self._fleet.retries() - retries
            stderr().print(f"  {phase.note}")

    def _steady(self) -> str:
        """Nothing happens."""
        return f"{self._fleet.running()} replicas"

    def _scale_up(self) -> str:
        """Six clients instead of two."""
        return self._scaled(6, lambda found: found >= MOST)

    def _kill_replica(self) -> str:
        """A replica is killed."""
        return self._replaced(lambda: self._fleet.kill_replica(MODEL))

    def _kill_front(self) -> str:
        """A front door is killed."""
        self._fleet.kill_replica("front")
        return ""

    def _kill_node(self) -> str:
        """A node is killed."""
        return self._replaced(self._fleet.kill_node)

    def _replaced(self, kill: Callable[[], None]) -> str:
        """Return what became of the replicas after `kill`."""
        wanted = self._fleet.running()
        kill()
        with suppress(TimeoutError):
            _until("the loss", lambda: self._fleet.running() < wanted, 20)
        lowest = self._fleet.running()
        seconds = _until("the replacement", lambda: self._fleet.running() >= wanted)
        return f"{wanted} replicas, {lowest}, again {wanted} after {seconds:.0f} s"

    def _new_version(self) -> str:
        """Version 2 is deployed."""
        start = time.monotonic()
        self._fleet.deploy(f"{MODEL}/2={self._artifacts[1]}")
        _until("version 2", lambda: self._serves("2"))
        seconds = time.monotonic() - start
        versions = sorted(self._load.phase.answers.items())
        found = ", ".join(f"{count} of version {version}" for version, count in versions)
        return f"{found}; {seconds:.0f} s"

    def _serves(self, version: str) -> bool:
        """Whether clients have seen a version, and all replicas have it."""
        found = self._fleet.status().deployments.get(MODEL)
        is_healthy = found is not None and found.status == "HEALTHY"
        return is_healthy and self._load.phase.answers[version] > 0

    def _damaged(self) -> str:
        """A damaged version 3 is deployed."""
        content = bytearray(self._artifacts[1].read_bytes())
        content[len(content) // 2] ^= 1
        path = self._artifacts[1].with_name("damaged.hios")
        path.write_bytes(content)
        self._fleet.deploy(f"{MODEL}/3={path}")
        _until("the refusal", lambda: self._fleet.status().status == "DEPLOY_FAILED")
        return str(self._fleet.status().message).replace(str(path), path.name)

    def _changed(self) -> str:
        """A replica is killed whose artifact was overwritten, so that no other can be loaded."""
        self._fleet.deploy(f"{MODEL}/2={self._artifacts[1]}")
        _until("version 2", lambda: self._serves("2"))
        wanted = self._fleet.running()
        kept = self._artifacts[1].read_bytes()
        _overwrite(self._artifacts[1], self._artifacts[0].read_bytes())
        self._fleet.kill_replica(MODEL)
        _until(
            "a failure", lambda: "has changed" in self._fleet.status().deployments[MODEL].message
        )
        lowest = self._fleet.running()
        _overwrite(self._artifacts[1], kept)
        seconds = _until("the replacement", lambda: self._fleet.running() >= wanted)
        return f"{wanted} replicas, {lowest}, again {wanted} {seconds:.0f} s after its restoration"

    def _scale_down(self) -> str:
        """Two clients are left."""
        return self._scaled(2, lambda found: found <= LEAST)

    def _scaled(self, clients: int, is_right: Callable[[int], bool]) -> str:
        """Return when the metrics show the right number of replicas for so many `clients`."""
        before = self._fleet.measured_replicas()
        self._load.set_clients(clients)
        seconds = _until("scaling", lambda: is_right(self._fleet.measured_replicas()))
        after = self._fleet.measured_replicas()
        return f"metrics: {before} replicas, {after} after {seconds:.0f} s"


@click.command()
@click.option(
    "--event",
    "events",
    type=click.Choice(EVENTS),
    multiple=True,
    default=EVENTS,
    help="What happens, in this order.  [default: all]",
)
@click.option("--pause", default=5.0, help="Seconds that clients go on after each event.")
def main(events: tuple[str, ...], pause: float) -> None:
    """Run the check; exit code 1 if a request was lost or answered wrongly."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifacts = [folder / "one-1.hios", folder / "one-2.hios"]
        rng = np.random.default_rng(0)
        inputs = [rng.standard_normal((ROWS, DEPTH), np.float32) for _ in range(EXAMPLES)]
        expected = {}
        for seed, path in enumerate(artifacts, 1):
            _compile(path, seed)
            with load(path) as session:
                expected[str(seed)] = [session.run({"x": x})["y"] for x in inputs]
        clients = Load(inputs, expected)
        fleet = Fleet(folder)
        check = Check(fleet, clients, artifacts, events, pause)
        try:
            fleet.deploy(f"{MODEL}/1={artifacts[0]}")
            _until("the deployment", lambda: fleet.status().status == "RUNNING")
            clients.set_clients(2)
            check.run()
        finally:
            clients.stop()
            fleet.close()
            _print(check.phases)
    sys.exit(any(phase.wrong or phase.lost for phase in check.phases))


def _print(phases: list[Phase]) -> None:
    """Print the table, and what was lost."""
    columns = [
        "event",
        "answers",
        "wrong",
        "lost",
        "connections broken",
        "retried by fronts",
        "longest s",
        "note",
    ]
    rows = [
        [
            phase.name,
            *map(
                str,
                (
                    phase.answers.total(),
                    phase.wrong,
                    phase.lost.total(),
                    phase.broken,
                    phase.retried,
                ),
            ),
            f"{phase.longest_s:.1f}",
            phase.note,
        ]
        for phase in phases
    ]
    print_table("", columns, rows)
    stdout().print(f"machine: {describe_machine()}", soft_wrap=True)
    for phase in phases:
        for problem, count in phase.lost.items():
            stderr().print(f"{phase.name}: {count} times {problem}")


if __name__ == "__main__":
    main()
