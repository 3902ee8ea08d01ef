"""Make a failing network as small as it can be while it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import helper

from random_networks.judge import Verdict
from random_networks.network import Array, Network
from random_networks.reference import values_of


def shrink(network: Network, verdict: Verdict, judge: Callable[[Network], Verdict]) -> Network:
    """Return the smallest part of `network` that was found to have a verdict of the same cause.

    First the outputs of one node stay, the earliest that fail; then nodes are cut off the
    beginning, and their results become inputs; then nodes are left out whose result has the shape
    and the type of one of their inputs.
    """

    def fails(candidate: Network) -> bool:
        return judge(candidate).cause == verdict.cause

    names = [name for node in network.model.graph.node for name in node.output if name]
    values = values_of(network, names)
    for make in (_fewer_outputs, _cut, _bypassed):
        network = _reduced(network, make, values, fails)
    return network


def _reduced(
    network: Network,
    candidates: Callable[[Network, dict[str, Array]], Iterable[Network]],
    values: dict[str, Array],
    fails: Callable[[Network], bool],
) -> Network:
    """Take the first candidate that fails, as long as there is one."""
    tried: set[bytes] = set()
    while True:
        for candidate in candidates(network, values):
            key = candidate.model.SerializeToString(deterministic=True)
            if key not in tried and fails(candidate):
                network = candidate
                break
            tried.add(key)
        else:
            return network


def _fewer_outputs(network: Network, values: dict[str, Array]) -> Iterator[Network]:
    """Yield networks that end in one node, small ones first, and those without one output."""
    part = _Part.of(network)
    ends = [[name for name in node.output if name] for node in part.nodes]
    parts = [part.ending_in(names) for names in ends if names != part.outputs]
    if len(part.outputs) > 1:
        parts += [part.ending_in([n for n in part.outputs if n != name]) for name in part.outputs]
    networks = [part.network(values) for part in parts]
    limit = (len(part.nodes), len(part.outputs))
    for candidate in sorted(networks, key=lambda n: len(n.operators)):
        if (len(candidate.operators), len(candidate.outputs)) < limit:
            yield candidate


def _cut(network: Network, values: dict[str, Array]) -> Iterator[Network]:
    """Yield networks without one node whose results become inputs; late nodes cut off most."""
    part = _Part.of(network)
    for node in reversed(part.nodes[:-1]):
        yield part.without(node).network(values)


def _bypassed(network: Network, values: dict[str, Array]) -> Iterator[Network]:
    """Yield networks without one node; who read its result reads one of its inputs."""
    part = _Part.of(network)
    for node in part.nodes:
        for name in node.input:
            if len(part.nodes) > 1 and len(node.output) == 1 and name in values:
                source, result = values[name], values[node.output[0]]
                if (source.shape, source.dtype) == (result.shape, result.dtype):
                    candidate = part.bypassing(node, name)
                    if candidate.is_computed:
                        yield candidate.network(values)


@dataclass(frozen=True)
class _Part:
    """Some nodes of a network, and the outputs that are wanted of them."""

    source: Network
    nodes: list[onnx.NodeProto]
    outputs: list[str]

    @staticmethod
    def of(network: Network) -> _Part:
        return _Part(network, list(network.model.graph.node), network.outputs)

    @property
    def is_computed(self) -> bool:
        """Whether a node computes each output."""
        made = {name for node in self.nodes for name in node.output}
        return made.issuperset(self.outputs)

    def ending_in(self, outputs: list[str]) -> _Part:
        return _Part(self.source, self.nodes, outputs)

    def without(self, node: onnx.NodeProto) -> _Part:
        return _Part(self.source, [n for n in self.nodes if n is not node], self.outputs)

    def bypassing(self, node: onnx.NodeProto, name: str) -> _Part:
        nodes = []
        for other in self.nodes:
            if other is not node:
                copy = onnx.NodeProto()
                copy.CopyFrom(other)
                copy.input[:] = [name if n == node.output[0] else n for n in other.input]
                nodes.append(copy)
        outputs = [name if output == node.output[0] else output for output in self.outputs]
        return _Part(self.source, nodes, outputs)

    def network(self, values: dict[str, Array]) -> Network:
        """Return the nodes that the outputs need; what none of them computes is an input."""
        needed = set(self.outputs)
        nodes: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                nodes.insert(0, node)
                needed.update(name for name in node.input if name)
        made = {name for node in nodes for name in node.output}
        old = self.source.model
        weights = [tensor for tensor in old.graph.initializer if tensor.name in needed]
        known = made | {tensor.name for tensor in weights}
        inputs = {name: values[name] for name in sorted(needed - known)}
        made_outputs = [name for name in self.outputs if name in made]
        graph = helper.make_graph(
            nodes,
            old.graph.name,
            [_value_info(name, value) for name, value in inputs.items()],
            [_value_info(name, values[name]) for name in made_outputs],
            weights,
        )
        model = helper.make_model(graph, opset_imports=old.opset_import, ir_version=old.ir_version)
        return Network(model, inputs)


def _value_info(name: str, value: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
    )
