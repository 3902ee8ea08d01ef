"""What a user should know of the costs that a network was scheduled with."""

from collections.abc import Iterable, Iterator, Mapping

from tvm import tirx
from tvm.ir import Call

from hios_tvm.backends.network import Network
from hios_tvm.passes.legalize_integer_product import INTEGER_KERNEL
from hios_tvm.passes.narrow_weights import HALF
from hios_tvm.passes.schedule_kernels import NO_RULE
from hios_tvm.passes.tir_trees import is_choice, nodes_of
from hios_tvm.runtime.devices import HOST
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.node_names import QUANTIZED_NODES

_MOST_NAMED = 3
_WORTH_A_NOTE = 0.005  # of the time
_EXACT = (INTEGER_KERNEL, "depthwise")  # of integers, also where floats hold their sums exactly

_ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min, Call)


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
    if not network.kernels["main"].attrs.get(QUANTIZED_NODES, ()):
        return
    operators = network.graph.operators
    whole = [op.name for op in operators if any(word in op.kernel for word in _EXACT)]
    real = [
        op.name
        for op in operators
        if op.name not in whole and _computes_real_numbers(network.kernels[op.kernel])
    ]
    for model, times in costs.latency.items():
        slowest = sorted(times.keys() & set(real), key=lambda name: -times[name].ms)
        named, rest = ", ".join(slowest[:_MOST_NAMED]), len(slowest) - _MOST_NAMED
        yield (
            f"{_share(times, whole):.0%} of the operators' time on {model} is in products of "
            f"integers, and {_share(times, real):.0%} in operators that compute real numbers"
            + (f": {named}" if named else "")
            + (f" and {rest} more" if rest > 0 else "")
        )


def _computes_real_numbers(kernel: tirx.PrimFunc) -> bool:
    results = [node for node in nodes_of(kernel.body, *_ARITHMETIC) if not is_choice(node)]
    return any(str(node.ty.dtype).startswith("float") for node in results)


def _share(times: Mapping[str, Measurement], operators: Iterable[str]) -> float:
    """Return the part of the time of all operators that some of them take."""
    total = sum(measurement.ms for measurement in times.values())
    return sum(times[name].ms for name in operators if name in times) / total if total else 0.0
