"""Schedulers side by side on one problem."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from hios_tvm.errors import HiosError, UsageError
from hios_tvm.schedulers import SCHEDULERS, make_schedule, options_of
from hios_tvm.schedulers.evaluate import Timeline, evaluate
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.schedule import Schedule


@dataclass(frozen=True)
class Contestant:
    """What a scheduler made of a problem, and how long it took.

    `gap` is ``makespan / lower bound - 1``: no schedule is better by more. `speedup` is over one
    device, None where no single device can run everything. `transfers` counts each tensor once for
    each device that it is copied to.
    """

    schedule: Schedule
    makespan_ms: float
    lower_bound_ms: float
    speedup: float | None
    transfers: int
    seconds: float

    @property
    def gap(self) -> float:
        """How far the schedule is from the optimum at most, relative to the lower bound."""
        bound = self.lower_bound_ms
        return max(0.0, self.makespan_ms / bound - 1.0) if bound > 0.0 else 0.0  # of rounding


def compare_schedulers(
    instance: Instance,
    schedulers: Sequence[str],
    options: Mapping[str, Any] | None = None,
    *,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> tuple[dict[str, Contestant], dict[str, str]]:
    """Run each scheduler with those of the options that it has.

    Returns
    -------
    contestants : scheduler -> Contestant
    failures : scheduler -> message
        Of those that refuse the problem, such as one that is too large for ``optimal``.

    Raises
    ------
    UsageError
        If a scheduler is unknown, an option that none of them has, or a value not valid.
    HiosError
        If every scheduler refuses the problem: what the first one says.
    """
    check_options(schedulers, options or {})
    try:
        one_device_ms = schedule_instance(instance, "sequential").makespan_ms
    except HiosError:
        one_device_ms = None
    contestants: dict[str, Contestant] = {}
    failures: dict[str, HiosError] = {}
    for done, name in enumerate(schedulers):
        progress("schedule", done, len(schedulers))
        try:
            contestants[name] = _run(instance, name, options or {}, one_device_ms)
        except HiosError as error:
            failures[name] = error
    progress("schedule", len(schedulers), len(schedulers))
    if failures and not contestants:
        raise next(iter(failures.values()))
    return contestants, {name: str(error) for name, error in failures.items()}


def choose_schedulers(text: str) -> tuple[str, ...]:
    """Read a comma-separated list of schedulers, or ``all``.

    >>> choose_schedulers("hios-lp, sequential")
    ('hios-lp', 'sequential')
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if names == ("all",):
        return tuple(SCHEDULERS)
    unknown = [name for name in names if name not in SCHEDULERS]
    if unknown or not names:
        what = f"scheduler {unknown[0]!r} is unknown" if unknown else "no scheduler is named"
        raise UsageError(f"{what}; known are {', '.join(SCHEDULERS)}, and all of them as 'all'")
    return names


def check_options(schedulers: Iterable[str], options: Mapping[str, Any]) -> None:
    """Raise `UsageError` where no scheduler has an option, or one that has it refuses its value."""
    schedulers = list(schedulers)
    for option in options:
        if not any(options_for(name, {option: None}) for name in schedulers):
            raise UsageError(f"none of {', '.join(schedulers)} has an option {option!r}")
    for name in schedulers:
        options_of(name, **options_for(name, options))


def options_for(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `options` that the scheduler called `name` has."""
    known = {field.name for field in fields(SCHEDULERS[name].options)}
    return {option: value for option, value in options.items() if option in known}


def schedule_instance(
    instance: Instance, scheduler: str, options: Mapping[str, Any] = MappingProxyType({})
) -> Schedule:
    """Run a scheduler with those of `options` that it has."""
    own = options_for(scheduler, options)
    return make_schedule(scheduler, instance.graph, instance.costs, instance.platform, **own)


def parse_option(text: str) -> tuple[str, Any]:
    """Split ``NAME=VALUE``; dashes of the name are underscores, the value is JSON or a word.

    The value must be of the type that the option has.

    >>> parse_option("max-streams=3")
    ('max_streams', 3)
    """
    name, equals, word = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name:
        raise UsageError(f"option {text!r}: write NAME=VALUE, for example window=3")
    try:
        value = json.loads(word)
    except json.JSONDecodeError:
        value = word
    types = {
        option: kind
        for entry in SCHEDULERS.values()
        for option, kind in get_type_hints(entry.options).items()
    }
    if name not in types:
        known = ", ".join(sorted(types))
        raise UsageError(f"no scheduler has an option {name!r}; there are {known}")
    kind = types[name]
    accepted = get_args(kind) or (kind,)
    if float in accepted and type(value) is int:
        value = float(value)
    if type(value) not in accepted:
        expected = getattr(kind, "__name__", kind)
        raise UsageError(f"option {name} is of type {expected}, got {word!r}")
    return name, value


def _run(
    instance: Instance, name: str, options: Mapping[str, Any], one_device_ms: float | None
) -> Contestant:
    start = time.perf_counter()
    schedule = schedule_instance(instance, name, options)
    seconds = time.perf_counter() - start
    timeline = evaluate(instance.graph, instance.costs, instance.platform, schedule)
    makespan_ms = timeline.makespan_ms
    speedup = None
    if one_device_ms is not None:
        speedup = one_device_ms / makespan_ms if makespan_ms > 0.0 else 1.0
    bound_ms = schedule.lower_bound_ms or 0.0
    return Contestant(
        schedule, makespan_ms, bound_ms, speedup, _transfers(instance, timeline), seconds
    )


def _transfers(instance: Instance, timeline: Timeline) -> int:
    tensors_of = {(edge.src, edge.dst): edge.tensors for edge in instance.graph.edges}
    return len(
        {
            (tensor, span.dst_device)
            for span in timeline.transfers
            for tensor in tensors_of[span.src, span.dst]
        }
    )
