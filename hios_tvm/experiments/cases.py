"""Many schedulers on many instances: one row for each pair."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hios_tvm.errors import HiosError
from hios_tvm.experiments.comparison import compare_schedulers, options_for
from hios_tvm.experiments.parallel import run_parallel
from hios_tvm.schema.instance import Instance

INTER_ONLY = " --inter-only"
"""Ends the name of a scheduler that leaves the window out."""

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """A scheduler, perhaps without its window, on the instance that ``make(*key)`` draws.

    `make` must be importable, so that the case can run in another process.
    """

    name: str
    make: Callable[..., Instance]
    key: Key
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The result of a case; `error` says why the scheduler refused, the rest is None then."""

    name: str
    key: Key
    makespan_ms: float | None = None
    lower_bound_ms: float | None = None
    over_bound: float | None = None
    speedup: float | None = None
    transfers: int | None = None
    seconds: float | None = None
    error: str = ""


def run_cases(cases: Sequence[Case], *, jobs: int = 1) -> Iterator[Outcome]:
    """Run all cases over `jobs` processes; the outcomes come when they are ready."""
    return run_parallel(_run, cases, jobs=jobs)


def with_inter_only(schedulers: Iterable[str]) -> list[str]:
    """Put each scheduler of the paper before itself without the window.

    >>> with_inter_only(["hios-lp", "heft"])
    ['hios-lp --inter-only', 'hios-lp', 'heft']
    """
    names = []
    for name in schedulers:
        if name in ("hios-lp", "hios-mr"):
            names.append(name + INTER_ONLY)
        names.append(name)
    return names


def mean_of(
    outcomes: Iterable[Outcome], value: Callable[[Outcome], float | None], name: str, *key: Any
) -> float | None:
    """Mean of a value of the outcomes of `name` whose key starts with `key`; None where none is.

    None in `key` stands for anything.
    """
    values = [
        number
        for outcome in outcomes
        if outcome.name == name
        and all(part in (None, own) for part, own in zip(key, outcome.key, strict=False))
        and (number := value(outcome)) is not None
    ]
    return sum(values) / len(values) if values else None


def _run(case: Case) -> Outcome:
    instance = case.make(*case.key)
    scheduler = case.name.removesuffix(INTER_ONLY)
    options = options_for(scheduler, case.options)
    if case.name.endswith(INTER_ONLY):
        options["inter_only"] = True
    try:
        result = compare_schedulers(instance, [scheduler], options)[0][scheduler]
    except HiosError as error:
        return Outcome(case.name, case.key, error=str(error))
    return Outcome(
        case.name,
        case.key,
        makespan_ms=result.makespan_ms,
        lower_bound_ms=result.lower_bound_ms,
        over_bound=1.0 + result.gap,
        speedup=result.speedup,
        transfers=result.transfers,
        seconds=result.seconds,
    )
