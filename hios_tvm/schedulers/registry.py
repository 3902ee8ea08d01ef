"""All schedulers by name; the command line and the tests read this table."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from hios_tvm.errors import UsageError
from hios_tvm.schedulers.auto import AutoOptions, auto
from hios_tvm.schedulers.bounds import lower_bound_ms
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schedulers.greedy import greedy
from hios_tvm.schedulers.heft import heft
from hios_tvm.schedulers.hios_lp import LongestPathOptions, hios_lp
from hios_tvm.schedulers.hios_mr import hios_mr
from hios_tvm.schedulers.ios import IOSOptions, ios
from hios_tvm.schedulers.one_device import NoOptions
from hios_tvm.schedulers.optimal import OptimalOptions, optimal
from hios_tvm.schedulers.refine import RefineOptions, refine
from hios_tvm.schedulers.sequential import sequential
from hios_tvm.schedulers.window import WindowOptions
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule


@dataclass(frozen=True)
class Entry:
    """A scheduler and the class of its options."""

    function: Callable[[OperatorGraph, CostTable, Platform, Any], Schedule]
    options: type[Any]


SCHEDULERS: dict[str, Entry] = {
    "sequential": Entry(sequential, NoOptions),
    "greedy": Entry(greedy, NoOptions),
    "ios": Entry(ios, IOSOptions),
    "hios-lp": Entry(hios_lp, LongestPathOptions),
    "hios-mr": Entry(hios_mr, WindowOptions),
    "heft": Entry(heft, WindowOptions),
    "refine": Entry(refine, RefineOptions),
    "optimal": Entry(optimal, OptimalOptions),
    "auto": Entry(auto, AutoOptions),
}


def options_of(name: str, **options: Any) -> Any:
    """Return the options object of the scheduler called `name`.

    Raises
    ------
    UsageError
        If there is no such scheduler, or it has no such option, or a value is not valid.
    """
    if name not in SCHEDULERS:
        raise UsageError(f"scheduler {name!r} is unknown; known are {', '.join(SCHEDULERS)}")
    known = [field.name for field in fields(SCHEDULERS[name].options)]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise UsageError(
            f"scheduler {name!r} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}"
        )
    return SCHEDULERS[name].options(**options)


def make_schedule(
    name: str, graph: OperatorGraph, costs: CostTable, platform: Platform, **options: Any
) -> Schedule:
    """Run the scheduler called `name`, and evaluate what it made.

    Raises
    ------
    UsageError
        If the scheduler or an option is unknown.
    CostError
        If an operator can run on no device.

    Examples
    --------
    >>> from hios_tvm.schema.costs import Measurement
    >>> from hios_tvm.schema.graph import Operator, Tensor
    >>> graph = OperatorGraph(
    ...     "two", (Operator("a", "k", (), ("x",)), Operator("b", "k", (), ("y",))),
    ...     (Tensor("x", (1,), "float32"), Tensor("y", (1,), "float32")), outputs=("x", "y"))
    >>> costs = CostTable({"device": {"a": Measurement(2.0), "b": Measurement(3.0)}})
    >>> make_schedule("hios-lp", graph, costs, Platform.uniform(2)).makespan_ms
    3.0
    """
    parsed = options_of(name, **options)
    costs.check(graph, platform)
    schedule = SCHEDULERS[name].function(graph, costs, platform, parsed)
    return evaluated(replace(schedule, options=asdict(parsed)), graph, costs, platform)


def evaluated(
    schedule: Schedule, graph: OperatorGraph, costs: CostTable, platform: Platform
) -> Schedule:
    """Return `schedule` with its predicted makespan and the lower bound."""
    return replace(
        schedule,
        makespan_ms=evaluate(graph, costs, platform, schedule).makespan_ms,
        lower_bound_ms=lower_bound_ms(graph, costs, platform),
    )
