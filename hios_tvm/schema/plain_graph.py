"""The plain JSON graph: operators with a time, edges with a transfer time, a number of devices.

::

    {"operators": [{"name": "a", "latency_ms": 2.0, "utilization": 0.8}, ...],
     "edges": [{"src": "a", "dst": "b", "transfer_ms": 0.5}, ...],
     "num_devices": 4}

Operators and edges stand in any order. Utilization is 1 where it is absent, and the number of
devices may be given elsewhere.
"""

import math
from collections.abc import Iterable
from typing import Any

from hios_tvm.errors import CostError, GraphError
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.graph import Operator, OperatorGraph, Tensor

DEVICE_MODEL = "device"
"""The one device model of graphs that name none."""

MAX_DEVICES = 4096
"""Each device takes memory, and a file names any number of them in a few bytes."""

_SHOWN_OF_A_CYCLE = 8


def read_plain_graph(
    data: Any, *, name: str = "graph"
) -> tuple[OperatorGraph, CostTable, int | None]:
    """Return graph, costs and number of devices of parsed JSON; None where it has no number.

    Raises
    ------
    GraphError
        For a cycle, an unknown or repeated name, a repeated edge, a missing or unknown field.
    CostError
        For a time that is negative or no number, or a utilization outside (0, 1].
    """
    if not isinstance(data, dict) or "operators" not in data:
        raise GraphError('a graph is a JSON object with "operators" and "edges"')
    _check_fields("the graph", data, {"operators"}, {"edges", "num_devices", "name"})
    latency: dict[str, Measurement] = {}
    utilization: dict[str, float] = {}
    for entry in _entries(data, "operators"):
        where = f"operator {entry.get('name')!r}"
        _check_fields(where, entry, {"name", "latency_ms"}, {"utilization"})
        operator = _name(entry["name"], where)
        if operator in latency:
            raise GraphError(f"{where} is there twice")
        latency[operator] = Measurement(_time_ms(entry, "latency_ms", where))
        if "utilization" in entry:
            share = entry["utilization"]
            if not 0.0 < _number(share) <= 1.0:
                raise CostError(f"{where}: utilization must be in (0, 1], got {share!r}")
            utilization[operator] = float(share)
    transfer: dict[tuple[str, str], Measurement] = {}
    for entry in _entries(data, "edges"):
        where = f"edge {entry.get('src')!r} -> {entry.get('dst')!r}"
        _check_fields(where, entry, {"src", "dst", "transfer_ms"}, set())
        edge = (_name(entry["src"], where), _name(entry["dst"], where))
        for end in edge:
            if end not in latency:
                raise GraphError(f"{where}: there is no operator {end!r}")
        if edge in transfer:
            raise GraphError(f"{where} is there twice")
        transfer[edge] = Measurement(_time_ms(entry, "transfer_ms", where))
    graph = graph_of_edges(latency, transfer, name=str(data.get("name", name)))
    costs = CostTable(
        {DEVICE_MODEL: latency}, transfer=transfer, utilization={DEVICE_MODEL: utilization}
    )
    return graph, costs, _num_devices(data)


def plain_graph_data(graph: OperatorGraph, costs: CostTable, devices: int) -> dict[str, Any]:
    """Return a graph whose costs are of one device model and given for each edge, as plain JSON.

    `read_plain_graph` restores it.

    Raises
    ------
    CostError
        If the costs are of several device models, or an edge has none.
    """
    if len(costs.latency) != 1:
        raise CostError("a plain graph has costs of one device model")
    (model,) = costs.latency
    missing = [edge for edge in graph.edges if (edge.src, edge.dst) not in costs.transfer]
    if missing:
        raise CostError(
            f"edge {missing[0].src!r} -> {missing[0].dst!r} has no transfer time in the cost table"
        )
    return {
        "name": graph.name,
        "operators": [
            {
                "name": op.name,
                "latency_ms": costs.latency_ms(op.name, model),
                "utilization": costs.utilization_of(op.name, model),
            }
            for op in graph.operators
        ],
        "edges": [
            {
                "src": edge.src,
                "dst": edge.dst,
                "transfer_ms": costs.transfer[edge.src, edge.dst].ms,
            }
            for edge in graph.edges
        ],
        "num_devices": devices,
    }


def graph_of_edges(
    operators: Iterable[str], edges: Iterable[tuple[str, str]], *, name: str
) -> OperatorGraph:
    """Return the operator graph of named operators and edges, both in any order.

    Each operator writes one tensor of its own name, of no bytes: the times of its transfers are
    in a cost table.

    Raises
    ------
    GraphError
        If the edges have a cycle; the message shows one.
    """
    import networkx as nx  # here: the runtime, which may read costs, does without

    view = nx.DiGraph()
    view.add_nodes_from(operators)
    view.add_edges_from(edges)
    position = {operator: i for i, operator in enumerate(view)}
    try:
        order = list(nx.lexicographical_topological_sort(view, key=position.__getitem__))
    except nx.NetworkXUnfeasible:
        cycle = [src for src, _ in nx.find_cycle(view)]
        shown = cycle[:_SHOWN_OF_A_CYCLE] + (["..."] if len(cycle) > _SHOWN_OF_A_CYCLE else [])
        raise GraphError(f"the edges have a cycle: {' -> '.join([*shown, cycle[0]])}") from None
    return OperatorGraph(
        name,
        tuple(Operator(v, "kernel", tuple(view.predecessors(v)), (v,)) for v in order),
        tuple(Tensor(v, (0,), "float32") for v in order),
        outputs=tuple(v for v in order if view.out_degree(v) == 0),
    )


def _entries(data: dict[str, Any], field: str) -> list[dict[str, Any]]:
    entries = data.get(field, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise GraphError(f'"{field}" must be a list of JSON objects')
    return entries


def _check_fields(where: str, entry: dict[str, Any], needed: set[str], optional: set[str]) -> None:
    missing = sorted(needed - entry.keys())
    if missing:
        raise GraphError(f"{where} has no {missing[0]!r}")
    unknown = sorted(entry.keys() - needed - optional)
    if unknown:
        known = ", ".join(sorted(needed | optional))
        raise GraphError(f"{where} has an unknown field {unknown[0]!r}; known are {known}")


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise GraphError(f"{where}: a name must be a string, got {value!r}")
    return value


def _number(value: Any) -> float:
    """Return a JSON number as it is, anything else as NaN."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def _time_ms(entry: dict[str, Any], field: str, where: str) -> float:
    value = _number(entry[field])
    if not (math.isfinite(value) and value >= 0.0):
        raise CostError(f"{where}: {field} must be finite and not negative, got {entry[field]!r}")
    return value


def _num_devices(data: dict[str, Any]) -> int | None:
    count = data.get("num_devices")
    if count is None:
        return None
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_DEVICES:
        raise GraphError(
            f"num_devices must be a whole number from 1 to {MAX_DEVICES}, got {count!r:.60}"
        )
    return count
