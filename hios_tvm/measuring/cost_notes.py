"""What a user should know of the costs that a network was scheduled with."""

from collections.abc import Iterator

from hios_tvm.backends.network import Network
from hios_tvm.passes.schedule_kernels import NO_RULE
from hios_tvm.schema.costs import CostTable

_MOST_NAMED = 3


def cost_notes(network: Network, costs: CostTable) -> tuple[str, ...]:
    """Say which devices were scheduled with estimates, and what kernels without a rule take."""
    return (*_estimates(costs), *_without_rule(network, costs))


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
        total = sum(measurement.ms for measurement in times.values())
        if not taken or not total:
            continue
        first = sorted(taken, key=lambda kernel: -taken[kernel])[:_MOST_NAMED]
        names = ", ".join(first) + (", ..." if len(taken) > len(first) else "")
        share = sum(times[name].ms for name in general.keys() & times.keys()) / total
        yield (
            f"{share:.0%} of the operators' time on {model} is in kernels that no schedule rule "
            f"knows: {names}"
        )
