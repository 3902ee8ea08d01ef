#!/usr/bin/env python3
"""Compile the zoo's networks with two checkouts of this project, and run both in turn.

It tells whether a change made artifacts or compiling slower. Each checkout is a folder with this
repository; both use the Python, and so the TVM, of this script. Caches begin empty.

    git worktree add ../before HEAD~1
    ./scripts/compare_checkouts.py ../before . --networks squeezenet1_1,resnet50
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import onnx

from hios_tvm.cli.console import stderr
from hios_tvm.cli.options import print_table
from hios_tvm.files import atomic_write
from hios_tvm.zoo import NETWORKS, build

PAUSE_S = 0.3  # until the thread pool of the other checkout sleeps
RUNS = 10  # of a session in a row

_COMPILE = "import sys; from hios_tvm.cli import main; sys.exit(main())"
_SESSION = """
import sys, time
import numpy as np
from hios_tvm import runtime
session = runtime.load(sys.argv[1])
rng = np.random.default_rng(0)
feeds = {spec.name: rng.standard_normal(spec.shape).astype(spec.dtype) for spec in session.inputs}
for _ in range(5):
    session.run(feeds)
print("ready", flush=True)
for line in sys.stdin:
    times = []
    for _ in range(int(line)):
        start = time.perf_counter()
        session.run(feeds)
        times.append(time.perf_counter() - start)
    print(1e3 * sorted(times)[len(times) // 2], flush=True)
"""


@dataclass(frozen=True)
class Comparison:
    """Compile times in s and latencies in ms of a network, of both checkouts.

    `ratio` is the median over all rounds of the second one's latency over the first one's;
    `spread` are the quartiles of it.
    """

    network: str
    compile_s: tuple[float, float]
    latency_ms: tuple[float, float]
    ratio: float
    spread: tuple[float, float]


@click.command(help=__doc__)
@click.argument("before", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--networks", default=",".join(NETWORKS), show_default=True)
@click.option("--rounds", default=20, show_default=True, help="Turns of each checkout.")
@click.option("--devices", help="As of hios-tvm compile.  [default: all cores as one device]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write JSON there.")
def main(
    before: Path,
    after: Path,
    networks: str,
    rounds: int,
    devices: str | None,
    json_file: Path | None,
) -> None:
    """Run the script."""
    options = [] if devices is None else ["--devices", devices]
    results = []
    for name in networks.split(","):
        stderr().print(name)
        with tempfile.TemporaryDirectory(prefix="hios-") as folder:
            results.append(_compare(name, (before, after), rounds, options, Path(folder)))
    rows = [
        [
            r.network,
            *(f"{seconds:.1f}" for seconds in r.compile_s),
            *(f"{ms:.2f}" for ms in r.latency_ms),
            f"{r.ratio:.3f}",
            f"{r.spread[0]:.3f} to {r.spread[1]:.3f}",
        ]
        for r in results
    ]
    columns = ["network", "compile s", "after", "latency ms", "after", "ratio", "quartiles"]
    print_table("Before and after", columns, rows)
    if json_file is not None:
        with atomic_write(json_file) as file:
            file.write(json.dumps([asdict(result) for result in results], indent=2).encode())


def _compare(
    name: str, checkouts: tuple[Path, Path], rounds: int, options: list[str], folder: Path
) -> Comparison:
    model = folder / f"{name}.onnx"
    onnx.save(build(name), model)
    seconds, sessions = [], []
    for number, checkout in enumerate(checkouts):
        artifact = folder / f"{number}.hios"
        start = time.perf_counter()
        arguments = ["compile", str(model), "-o", str(artifact), "--no-verify"]
        cache = ["--cost-cache", str(folder / f"cache{number}")]
        command = [sys.executable, "-c", _COMPILE, *arguments, *cache, *options]
        subprocess.run(command, cwd=checkout, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
        sessions.append(_start(artifact, checkout))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for session, own in zip(sessions, times, strict=True):
            time.sleep(PAUSE_S)
            own.append(_latency_ms(session))
    for session in sessions:
        session.communicate()
    ratios = [after / before for before, after in zip(*times, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Comparison(
        name,
        (seconds[0], seconds[1]),
        (statistics.median(times[0]), statistics.median(times[1])),
        middle,
        (low, high),
    )


def _start(artifact: Path, checkout: Path) -> subprocess.Popen[str]:
    session = subprocess.Popen(
        [sys.executable, "-c", _SESSION, str(artifact)],
        cwd=checkout,  # where Python looks first
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert session.stdout is not None
    session.stdout.readline()
    return session


def _latency_ms(session: subprocess.Popen[str]) -> float:
    assert session.stdin is not None and session.stdout is not None
    session.stdin.write(f"{RUNS}\n")
    session.stdin.flush()
    return float(session.stdout.readline())


if __name__ == "__main__":
    main()
