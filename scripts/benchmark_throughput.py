"""Placements for many inputs, on the graphs of a publication.

FOLDER has the data of Tarnawski et al., Efficient Algorithms for Device Placement of DNN Graph
Operators (NeurIPS 2020), as in https://github.com/msr-fiddle/dnn-partitioning: JSON files with
nodes, edges, the number of devices, their memory, and classes of nodes that lie on one device. For
each graph it prints what their contiguous dynamic program finds, which is exact here as there, what
the search finds, and a lower bound. Each placement is evaluated from the definition of a load by
code of its own, which shares nothing with the search.

    python scripts/benchmark_throughput.py FOLDER
    python scripts/benchmark_throughput.py FOLDER --graphs bert --moves 20000
"""

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import print_table
from hios_tvm.files import atomic_write
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.schedulers.throughput import ThroughputDevice, ThroughputOperator, ThroughputProblem
from hios_tvm.schedulers.throughput_contiguous import MAX_IDEALS, contiguous_split
from hios_tvm.schedulers.throughput_search import ThroughputOptions, find_pipeline

RESULTS = Path(__file__).parent / "results"
TOLERANCE = 1e-9
"""Share by which sums in another order may differ."""


@dataclass(frozen=True)
class Row:
    """What was found for a graph; times in the unit of the data, milliseconds."""

    graph: str
    operators: int
    devices: int
    contiguous_ms: float
    is_best_contiguous: bool
    found_ms: float
    lower_bound_ms: float
    seconds: float

    @property
    def ratio(self) -> float:
        """The interval over that of the contiguous split."""
        return self.found_ms / self.contiguous_ms

    @property
    def can_gain(self) -> bool:
        """Whether the lower bound leaves room below the contiguous split."""
        return self.lower_bound_ms < self.contiguous_ms * (1.0 - TOLERANCE)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--graphs", default="", help="Only files with this in their names.")
@click.option("--moves", type=click.IntRange(0), default=400_000, help="Per round of the search.")
@click.option("--rounds", type=click.IntRange(0), default=3)
@click.option("--seeds", type=click.IntRange(1), default=1, help="Searches; the best one counts.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS / "throughput.json")
def main(folder: Path, graphs: str, moves: int, rounds: int, seeds: int, output: Path) -> None:
    rows = []
    for path in sorted(path for path in folder.glob("*.json") if graphs in path.name):
        data = json.loads(path.read_text())
        rows.append(_row(path.stem, data, moves, rounds, seeds))
        stdout().print(f"{path.stem}: {rows[-1].found_ms:.3f}")
    if not rows:
        raise click.UsageError(f"{folder} has no JSON file with {graphs!r} in its name")
    print_table(
        "Time from one result to the next",
        [
            "graph",
            "operators",
            "devices",
            "contiguous",
            "found",
            "ratio",
            "lower bound",
            "gap",
            "s",
        ],
        [_cells(row) for row in rows],
    )
    for words, chosen in (
        ("all graphs", rows),
        ("graphs whose bound leaves room", [row for row in rows if row.can_gain]),
    ):
        if chosen:
            stdout().print(
                f"{words}: ratio {_mean([row.ratio for row in chosen]):.4f} (geometric mean)"
            )
    with atomic_write(output) as file:
        result = {
            "machine": describe_machine().to_data(),
            "moves": moves,
            "rounds": rounds,
            "seeds": seeds,
        }
        text = json.dumps({**result, "graphs": [asdict(row) for row in rows]}, indent=1)
        file.write(f"{text}\n".encode())


def _row(name: str, data: Mapping[str, Any], moves: int, rounds: int, seeds: int) -> Row:
    problem = read_problem(data)
    split = contiguous_split(problem, MAX_IDEALS)
    contiguous_ms = max_load(data, split.device_of)
    start = time.process_time()
    found = []
    for seed in range(seeds):
        options = ThroughputOptions(moves=moves, rounds=rounds, seed=seed, time_limit_s=math.inf)
        found.append(find_pipeline(problem, options, split.device_of))
    best = min(found, key=lambda pipeline: pipeline.interval_ms)
    found_ms = max_load(data, best.device_of)
    _check_equal(found_ms, best.interval_ms)
    _check_equal(contiguous_ms, split.interval_ms)
    return Row(
        graph=name,
        operators=len(problem.operators),
        devices=len(problem.devices),
        contiguous_ms=contiguous_ms,
        is_best_contiguous=split.is_best,
        found_ms=found_ms,
        lower_bound_ms=best.lower_bound_ms,
        seconds=time.process_time() - start,
    )


def read_problem(data: Mapping[str, Any]) -> ThroughputProblem:
    """Return the problem of a file: its accelerators first, then its CPU cores."""
    nodes, edges = data["nodes"], data["edges"]
    position = {node["id"]: v for v, node in enumerate(nodes)}
    transfer_ms = {edge["sourceId"]: edge["cost"] for edge in edges}
    operators = tuple(
        ThroughputOperator(
            name=str(node["id"]),
            latency_ms=(
                node["fpgaLatency"] if node["supportedOnFpga"] else math.inf,
                node["cpuLatency"],
            ),
            transfer_ms=transfer_ms.get(node["id"], 0.0),
            memory_bytes=node.get("size", 0.0),
            colour=str(node["colorClass"]) if "colorClass" in node else None,
        )
        for node in nodes
    )
    accelerators = (
        ThroughputDevice(f"accelerator {i}", 0, data["maxSizePerFPGA"])
        for i in range(data["maxFPGAs"])
    )
    cores = (ThroughputDevice(f"core {i}", 1, is_host=True) for i in range(data["maxCPUs"]))
    return ThroughputProblem(
        operators,
        tuple((position[edge["sourceId"]], position[edge["destId"]]) for edge in edges),
        (*accelerators, *cores),
    )


def max_load(data: Mapping[str, Any], device_of: Sequence[int]) -> float:
    """Return the largest load of a placement, from the definition, with all limits checked."""
    nodes, accelerators = data["nodes"], data["maxFPGAs"]
    place = {node["id"]: d for node, d in zip(nodes, device_of, strict=True)}
    loads: Counter[int] = Counter()
    nbytes: Counter[int] = Counter()
    for node in nodes:
        d = place[node["id"]]
        assert 0 <= d < accelerators + data["maxCPUs"]
        assert d >= accelerators or node["supportedOnFpga"]
        loads[d] += node["fpgaLatency"] if d < accelerators else node["cpuLatency"]
        nbytes[d] += node.get("size", 0.0)
    assert all(nbytes[d] <= data["maxSizePerFPGA"] for d in range(accelerators))
    classes = {(node["colorClass"], place[node["id"]]) for node in nodes if "colorClass" in node}
    assert len(classes) == len({colour for colour, _ in classes})
    for d in range(accelerators):
        crossing = {
            (edge["sourceId"], edge["cost"])
            for edge in data["edges"]
            if (place[edge["sourceId"]] == d) != (place[edge["destId"]] == d)
        }
        loads[d] += sum(cost for _, cost in crossing)
    return max(loads.values())


def _check_equal(one: float, other: float) -> None:
    if not math.isclose(one, other, rel_tol=TOLERANCE):
        raise AssertionError(f"the evaluators disagree: {one} and {other}")


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _cells(row: Row) -> list[str]:
    return [
        row.graph,
        str(row.operators),
        str(row.devices),
        f"{row.contiguous_ms:.3f}" + ("" if row.is_best_contiguous else " (one order)"),
        f"{row.found_ms:.3f}",
        f"{row.ratio:.4f}",
        f"{row.lower_bound_ms:.3f}",
        f"{row.found_ms / row.lower_bound_ms - 1.0:.1%}",
        f"{row.seconds:.0f}",
    ]


if __name__ == "__main__":
    main()
