"""Placements for one input, on the graphs of a publication.

FOLDER has the latency graphs of Tarnawski et al., Efficient Algorithms for Device Placement of DNN
Graph Operators (NeurIPS 2020), as in https://github.com/msr-fiddle/dnn-partitioning. An accelerator
runs all that it has as one call, within its memory; CPUs have a core for each node. For each graph
it prints what the greedy rule of the authors finds, the best of many orders, what the search finds,
and a lower bound. Each placement is evaluated from the definition by code of its own, which shares
nothing with the search.

    python scripts/benchmark_latency.py FOLDER
    python scripts/benchmark_latency.py FOLDER --graphs resnet50 --moves 20000
"""

import json
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import networkx as nx
from benchmark_throughput import read_problem

from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import print_table
from hios_tvm.files import atomic_write
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.schedulers.calls import find_calls
from hios_tvm.schedulers.calls_bound import call_bound_ms
from hios_tvm.schedulers.throughput_search import ThroughputOptions

RESULTS = Path(__file__).parent / "results"
ORDERS = 100
"""Topological orders that the greedy rule is tried in; that of the authors' code is one of many."""
CPU = -1


@dataclass(frozen=True)
class Row:
    """What was found for a graph; times in the unit of the data, milliseconds."""

    graph: str
    nodes: int
    accelerators: int
    greedy_ms: float
    found_ms: float
    lower_bound_ms: float
    nodes_on_cpu: int
    seconds: float


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--graphs", default="", help="Only files with this in their names.")
@click.option("--moves", type=click.IntRange(0), default=100_000, help="Per round of the search.")
@click.option("--rounds", type=click.IntRange(0), default=3)
@click.option("--seeds", type=click.IntRange(1), default=1, help="Searches; the best one counts.")
@click.option("--ideals", type=click.IntRange(1), default=3000, help="For the best serial split.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS / "latency.json")
def main(
    folder: Path, graphs: str, moves: int, rounds: int, seeds: int, ideals: int, output: Path
) -> None:
    rows = []
    for path in sorted(path for path in folder.glob("*.json") if graphs in path.name):
        options = [
            ThroughputOptions(
                moves=moves, rounds=rounds, seed=seed, max_ideals=ideals, time_limit_s=math.inf
            )
            for seed in range(seeds)
        ]
        rows.append(_row(path.stem, json.loads(path.read_text()), options))
        stdout().print(f"{path.stem}: {rows[-1].found_ms:.3f}")
    if not rows:
        raise click.UsageError(f"{folder} has no JSON file with {graphs!r} in its name")
    columns = ["graph", "nodes", "greedy", "found", "ratio", "lower bound", "gap", "on CPUs", "s"]
    print_table("Time of one input", columns, [_cells(row) for row in rows])
    result = {
        "machine": describe_machine().to_data(),
        "moves": moves,
        "rounds": rounds,
        "seeds": seeds,
        "graphs": [asdict(row) for row in rows],
    }
    with atomic_write(output) as file:
        file.write(f"{json.dumps(result, indent=1)}\n".encode())


def _row(name: str, data: Mapping[str, Any], options: Sequence[ThroughputOptions]) -> Row:
    problem = read_problem(data)
    start = time.process_time()
    best = min((find_calls(problem, each) for each in options), key=lambda each: each.latency_ms)
    seconds = time.process_time() - start
    place = [d if d < data["maxFPGAs"] else CPU for d in best.device_of]
    found_ms = latency(data, place)
    if found_ms > best.latency_ms * (1.0 + 1e-9):
        raise AssertionError(f"the evaluators disagree: {found_ms} and {best.latency_ms}")
    bound_ms = call_bound_ms(problem)
    if bound_ms > found_ms:
        raise AssertionError(f"the bound {bound_ms} is above {found_ms}")
    return Row(
        graph=name,
        nodes=len(place),
        accelerators=data["maxFPGAs"],
        greedy_ms=min(latency(data, greedy(data, random.Random(seed))) for seed in range(ORDERS)),
        found_ms=found_ms,
        lower_bound_ms=bound_ms,
        nodes_on_cpu=place.count(CPU),
        seconds=seconds,
    )


def greedy(data: Mapping[str, Any], rng: random.Random) -> list[int]:
    """Return the accelerator of each node: each takes what comes next until its memory is full.

    Nodes of a class, and classes that reach each other, go together, in a topological order that
    follows what it has begun. CPUs get what no accelerator has room for.
    """
    nodes = data["nodes"]
    colour = {node["id"]: node.get("colorClass", f"node {node['id']}") for node in nodes}
    classes = nx.DiGraph()
    classes.add_nodes_from(colour.values())
    classes.add_edges_from(
        (colour[edge["sourceId"]], colour[edge["destId"]]) for edge in data["edges"]
    )
    blocks = nx.condensation(classes)
    block = {each: blocks.graph["mapping"][colour[each]] for each in colour}
    nbytes: Counter[int] = Counter()
    for node in nodes:
        nbytes[block[node["id"]]] += node.get("size", 0.0)
    place = dict.fromkeys(blocks, CPU)
    accelerator, free = -1, -math.inf
    for each in _depth_first(blocks, rng):
        if nbytes[each] > data["maxSizePerFPGA"]:
            free = -math.inf
            continue
        if nbytes[each] > free:
            accelerator, free = accelerator + 1, data["maxSizePerFPGA"]
        if accelerator == data["maxFPGAs"]:
            break
        place[each] = accelerator
        free -= nbytes[each]
    return [place[block[node["id"]]] for node in nodes]


def _depth_first(graph: nx.DiGraph, rng: random.Random) -> list[int]:
    """Return a topological order that goes on with what has become ready last."""
    missing = dict(graph.in_degree())
    ready = [each for each, count in missing.items() if not count]
    rng.shuffle(ready)
    order = []
    while ready:
        order.append(ready.pop())
        following = list(graph.successors(order[-1]))
        rng.shuffle(following)
        for each in following:
            missing[each] -= 1
            if not missing[each]:
                ready.append(each)
    return order


def latency(data: Mapping[str, Any], place: Sequence[int]) -> float:
    """Return the time of one input, from the definition, with all limits checked."""
    nodes = data["nodes"]
    device = {node["id"]: d for node, d in zip(nodes, place, strict=True)}
    call = {each: d if d != CPU else f"node {each}" for each, d in device.items()}
    time_ms: Counter[Any] = Counter()
    nbytes: Counter[int] = Counter()
    for node in nodes:
        d = device[node["id"]]
        assert d == CPU or (0 <= d < data["maxFPGAs"] and node["supportedOnFpga"])
        time_ms[call[node["id"]]] += node["cpuLatency"] if d == CPU else node["fpgaLatency"]
        nbytes[d] += node.get("size", 0.0)
    assert all(nbytes[d] <= data["maxSizePerFPGA"] for d in nbytes if d != CPU)
    classes = {(node["colorClass"], device[node["id"]]) for node in nodes if "colorClass" in node}
    assert len(classes) == len({colour for colour, _ in classes})
    moves: dict[Any, set[tuple[int, float]]] = defaultdict(set)
    calls = nx.DiGraph()
    calls.add_nodes_from(call.values())
    for edge in data["edges"]:
        one, other = call[edge["sourceId"]], call[edge["destId"]]
        if one != other:
            calls.add_edge(one, other)
            for each in (end for end in (one, other) if isinstance(end, int)):
                moves[each].add((edge["sourceId"], edge["cost"]))
    end_ms: dict[Any, float] = {}
    for each in nx.topological_sort(calls):
        start_ms = max((end_ms[other] for other in calls.predecessors(each)), default=0.0)
        moved_ms = sum(cost for _, cost in moves[each])
        end_ms[each] = start_ms + time_ms[each] + moved_ms
    return max(end_ms.values())


def _cells(row: Row) -> list[str]:
    return [
        row.graph,
        str(row.nodes),
        f"{row.greedy_ms:.3f}",
        f"{row.found_ms:.3f}",
        f"{row.found_ms / row.greedy_ms:.4f}",
        f"{row.lower_bound_ms:.3f}",
        f"{row.found_ms / row.lower_bound_ms - 1.0:.1%}",
        str(row.nodes_on_cpu),
        f"{row.seconds:.0f}",
    ]


if __name__ == "__main__":
    main()
