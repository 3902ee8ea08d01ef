"""A lower bound of the time of one input, where each device runs all that it has as one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np

from hios_tvm.schedulers.bounds import ROUNDING
from hios_tvm.schedulers.throughput import ThroughputProblem


def call_bound_ms(problem: ThroughputProblem) -> float:
    """Return a time below which no placement's latency is (`hios_tvm.schedulers.calls`).

    Look at one path. Each of its operators is on the host, or in a call with the neighbours on the
    path that are on the same device: it cannot leave a device and come back. Such a call also has
    all operators between its ends and those of their colours, with their time and memory. It moves
    in what it reads from operators that reach the part of the path before it, and moves out what
    those read that the part after it reaches: none of them can be in the call. The bound is the
    least time to go along the path with the devices that there are, and the largest one over some
    paths.

    Notes
    -----
    O(V^2 n^2) for V operators and paths of n, and O(n^2 D) for D devices.
    """
    if not problem.operators:
        return 0.0
    graph = _Graph.of(problem)
    order = _topological(problem)
    paths = {tuple(_longest_path(order, graph.readers, weights)) for weights in _weights(problem)}
    longest_ms = max(_along_ms(problem, graph, path) for path in paths)
    return longest_ms * (1.0 - ROUNDING)


@dataclass(frozen=True)
class _Graph:
    """Relations between operators, as matrices of zeros and ones.

    Attributes
    ----------
    readers : list of list of int
    reads : array of (V, V)
        Whether the second one reads from the first one.
    reaches : array of (V, V)
        Whether a path leads from the first one to the second one; to itself, too.
    of_colour : array of (V, C)
        Whether the operator has the colour; without one it has a colour of its own.
    """

    readers: list[list[int]]
    reads: np.ndarray
    reaches: np.ndarray
    of_colour: np.ndarray

    @staticmethod
    def of(problem: ThroughputProblem) -> _Graph:
        count = len(problem.operators)
        readers: list[list[int]] = [[] for _ in range(count)]
        reads = np.zeros((count, count), np.float32)
        for u, v in problem.edges:
            readers[u].append(v)
            reads[u, v] = 1.0
        reaches = np.eye(count, dtype=bool)
        for u in reversed(_topological(problem)):
            for v in readers[u]:
                reaches[u] |= reaches[v]
        names = [op.colour or v for v, op in enumerate(problem.operators)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        of_colour = np.zeros((count, len(numbers)), np.float32)
        of_colour[np.arange(count), [numbers[name] for name in names]] = 1.0
        return _Graph(readers, reads, reaches, of_colour)


def _topological(problem: ThroughputProblem) -> list[int]:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(problem.operators)))
    graph.add_edges_from(problem.edges)
    return list(nx.topological_sort(graph))


def _weights(problem: ThroughputProblem) -> list[list[float]]:
    """Return weights of the operators, whose longest paths may have large bounds."""
    operators = problem.operators
    latency_ms = [min(op.latency_ms) for op in operators]
    slowest_ms = [max(ms for ms in op.latency_ms if ms < math.inf) for op in operators]
    return [
        latency_ms,
        slowest_ms,
        [op.memory_bytes for op in operators],
        [ms + op.transfer_ms for ms, op in zip(latency_ms, operators, strict=True)],
        [min(2.0 * op.transfer_ms, ms) for ms, op in zip(slowest_ms, operators, strict=True)],
        [1.0] * len(operators),
    ]


def _longest_path(
    order: Sequence[int], readers: Sequence[Sequence[int]], weights: Sequence[float]
) -> list[int]:
    length = list(weights)
    following = [-1] * len(length)
    for u in reversed(order):
        for v in readers[u]:
            if following[u] < 0 or length[v] > length[following[u]]:
                following[u] = v
        if following[u] >= 0:
            length[u] += length[following[u]]
    v = max(order, key=length.__getitem__)
    path = []
    while v >= 0:
        path.append(v)
        v = following[v]
    return path


def _along_ms(problem: ThroughputProblem, graph: _Graph, path: Sequence[int]) -> float:
    """Return the least time to go along `path`."""
    host_kinds = {device.kind for device in problem.devices if device.is_host}
    count = sum(not device.is_host for device in problem.devices)
    call_ms = _calls_ms(problem, graph, path)
    least_ms = np.full((count + 1, len(path) + 1), math.inf)  # by calls, operators done
    least_ms[:, 0] = 0.0
    for done, v in enumerate(path, 1):
        times_ms = problem.operators[v].latency_ms
        host_ms = min((times_ms[kind] for kind in host_kinds), default=math.inf)
        least_ms[:, done] = least_ms[:, done - 1] + host_ms
        with_call = (least_ms[:-1, :done] + call_ms[:done, done - 1]).min(axis=1)
        least_ms[1:, done] = np.minimum(least_ms[1:, done], with_call)
    return float(least_ms[-1, -1])


def _calls_ms(problem: ThroughputProblem, graph: _Graph, path: Sequence[int]) -> np.ndarray:
    """Return the least time of a call from one operator of `path` to another.

    What reaches the operator before the first one is not in the call, nor what the operator after
    the last one reaches: the path would come back.
    """
    operators = problem.operators
    kinds = {(d.kind, d.memory_bytes) for d in problem.devices if not d.is_host}
    memory = np.array([op.memory_bytes for op in operators])
    moved_ms = np.array([op.transfer_ms for op in operators])
    after = graph.reaches[list(path[1:])].T
    is_given = np.zeros((len(path), len(operators)), bool)  # to what comes after each one
    is_given[:-1] = (graph.reads @ after.astype(np.float32)).T > 0.0
    call_ms = np.full((len(path), len(path)), math.inf)
    for first, v in enumerate(path):
        last = range(first, len(path))
        between = graph.reaches[v] & graph.reaches[:, list(path[first:])].T
        inside = (between.astype(np.float32) @ graph.of_colour) @ graph.of_colour.T > 0.0
        members = inside.astype(float)
        ms = (members * is_given[first:]) @ moved_ms
        if first:
            is_read = inside.astype(np.float32) @ graph.reads.T > 0.0
            ms += (is_read * graph.reaches[:, path[first - 1]]) @ moved_ms
        for kind, nbytes in kinds:
            time_ms = np.array([op.latency_ms[kind] for op in operators])
            misfits = (inside & np.isinf(time_ms)).any(axis=1) | (members @ memory > nbytes)
            kind_ms = ms + members @ np.where(np.isinf(time_ms), 0.0, time_ms)
            kind_ms[misfits] = math.inf
            call_ms[first, last] = np.minimum(call_ms[first, last], kind_ms)
    return call_ms
