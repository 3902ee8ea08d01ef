"""What a user should know of the costs that a network was scheduled with."""

from collections.abc import Iterable, Iterator, Mapping

from hios_tvm.backends.network import Network
from hios_tvm.passes.legalize_integer_product import INTEGER_KERNEL
from hios_tvm.passes.narrow_weights import HALF
from hios_tvm.passes.schedule_kernels import NO_RULE
from hios_tvm.runtime.devices import HOST
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.node_names import QUANTIZED_NODES

_MOST_NAMED = 3
_WORTH_A_NOTE = 0.005  # of the time
_PRODUCTS = ("conv", "matmul")  # in names of kernels
_EXACT = (INTEGER_KERNEL, "depthwise")  # of integers, also where floats hold their sums exactly


def cost_notes(network: Network, costs: CostTable) -> tuple[str, ...]:
    """Say what is estimated, what no rule knows, and what is computed in another type."""
    return (
        *_estimates(costs),
        *_without_rule(network, costs),
        *_half(network, costs),
        *_quantized(network, costs),
    )


def _estimates(costs: CostTable) -> Iterator[str]:
    for model, times in costs.latency.items():
        if any(measurement.source == "estimated" for measurement in times.values()):
            yield f"the costs of {model} are estimates, not measured"


def _without_rule(network: Network, costs: CostTable) -> Iterator[str]:
    for model, times in costs.latency.items():
        form = network.lowered.get(model.partition("/")[0])
        if form is None:
            continue
        general = {
            operator.name: operator.kernel
            for operator in form.graph.operators
            if NO_RULE in form.mod[operator.kernel].attrs
        }
        taken = {general[name]: times[name].ms for name in general.keys() & times.keys()}
        share = _share(times, general)
        if share < _WORTH_A_NOTE:
            continue
        first = sorted(taken, key=lambda kernel: -taken[kernel])[:_MOST_NAMED]
        names = ", ".join(first) + (", ..." if len(taken) > len(first) else "")
        yield (
            f"{share:.0%} of the operators' time on {model} is in kernels that no schedule rule "
            f"knows: {names}"
        )


def _half(network: Network, costs: CostTable) -> Iterator[str]:
    half = sorted(set(network.recipe.dtypes) & set(HALF))
    if not half or network.lowered.keys() != {HOST}:
        return
    conversions = [
        operator.name
        for operator in network.graph.operators
        if operator.kernel.removeprefix("fused_").startswith("cast")
    ]
    weights = [network.graph.tensor[name] for name in network.graph.constants]
    single = sum(weight.nbytes for weight in weights if weight.dtype == "float32")
    widened = single / max(1, sum(weight.nbytes for weight in weights))
    for model, times in costs.latency.items():
        yield (
            f"{' and '.join(half)} is computed in single precision on {model}, and so is "
            f"{widened:.0%} of the bytes of weights in memory; {_share(times, conversions):.0%} of "
            "the operators' time is in conversions"
        )


def _quantized(network: Network, costs: CostTable) -> Iterator[str]:
    nodes = set(map(str, network.kernels["main"].attrs.get(QUANTIZED_NODES, ())))
    found = {op.name: op.kernel for op in network.graph.operators if nodes & set(op.nodes)}
    whole = [name for name, kernel in found.items() if any(word in kernel for word in _EXACT)]
    floats = [
        name
        for name, kernel in found.items()
        if name not in whole and any(word in kernel for word in _PRODUCTS)
    ]
    for model, times in costs.latency.items():
        if not found:
            continue
        named = ", ".join(floats[:_MOST_NAMED]) + (", ..." if len(floats) > _MOST_NAMED else "")
        yield (
            f"{_share(times, found):.0%} of the operators' time on {model} is in quantized "
            f"operators: {_share(times, whole):.0%} in products of integers"
            + (f", {_share(times, floats):.0%} in products of floats ({named})" if floats else "")
        )


def _share(times: Mapping[str, Measurement], operators: Iterable[str]) -> float:
    """Return the part of the time of all operators that some of them take."""
    total = sum(measurement.ms for measurement in times.values())
    return sum(times[name].ms for name in operators if name in times) / total if total else 0.0
