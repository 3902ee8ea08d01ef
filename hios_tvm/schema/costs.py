"""The cost table: all times that a scheduler may use, each with its provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hios_tvm.errors import CostError
from hios_tvm.schema.graph import Edge, OperatorGraph
from hios_tvm.schema.platform import Platform

__all__ = ["ALPHA", "CostTable", "Measurement", "StageKey", "stage_key"]

COSTS_VERSION = 1

ALPHA = 0.5
"""Share of a stage that does not overlap in the analytic model (the authors' simulation)."""

StageKey = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Measurement:
    """A time in milliseconds: median, spread (interquartile range), and how it was obtained."""

    ms: float
    spread_ms: float = 0.0
    samples: int = 1
    source: str = "given"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ms) and self.ms >= 0):
            raise CostError(f"a time must be finite and not negative, got {self.ms} ms")


def stage_key(groups: Iterable[Iterable[str]]) -> StageKey:
    """Name of a stage in the table: its groups, sorted, so that their order does not count."""
    return tuple(sorted(tuple(group) for group in groups))


@dataclass(frozen=True)
class CostTable:
    """Milliseconds of operators and stages per device model, and of transfers per edge.

    Attributes
    ----------
    latency : device model -> operator -> time alone
        An operator without an entry cannot run on devices of that model.
    joint : device model -> stage -> time of its stream groups together
    transfer : (producer, consumer) -> time of the copy to another device
        An edge without an entry costs what the platform's link takes for its bytes.
    utilization : operator -> share of a device that it uses, in (0, 1]; 1 where absent
    measure_stage : function, optional
        ``(device model, groups) -> Measurement`` for stages that `joint` does not hold; each
        is asked for once and kept. Where it returns None, or is absent, the analytic model answers.
    platform : Platform, optional
        What the times were measured on.
    """

    latency: Mapping[str, Mapping[str, Measurement]]
    joint: dict[str, dict[StageKey, Measurement]] = field(default_factory=dict)
    transfer: Mapping[tuple[str, str], Measurement] = field(default_factory=dict)
    utilization: Mapping[str, float] = field(default_factory=dict)
    platform: Platform | None = None
    measure_stage: Callable[[str, StageKey], Measurement | None] | None = field(
        default=None, compare=False, repr=False
    )

    def runs_on(self, operator: str, model: str) -> bool:
        """Whether devices of `model` can run `operator`."""
        return operator in self.latency.get(model, {})

    def latency_ms(self, operator: str, model: str) -> float:
        """Milliseconds of `operator` alone on a device of `model`."""
        try:
            return self.latency[model][operator].ms
        except KeyError:
            raise CostError(
                f"the cost table has no time of operator {operator!r} on device model {model!r}"
            ) from None

    def stage_ms(self, groups: Iterable[Iterable[str]], model: str) -> float:
        """Milliseconds of a stage: measured where possible, else by the analytic model.

        The model is ``a*sum(w) + (1-a)*max(max w, sum(w*u))`` over the stream groups, where w is
        a group's latency, u its utilization and a is `ALPHA`.
        """
        key = stage_key(groups)
        if len(key) == 1:
            return sum(self.latency_ms(name, model) for name in key[0])
        known = self.joint.setdefault(model, {})
        if key not in known and self.measure_stage is not None:
            measurement = self.measure_stage(model, key)
            if measurement is not None:
                known[key] = measurement
        if key in known:
            return known[key].ms
        return self._modelled_stage_ms(key, model)

    def _modelled_stage_ms(self, key: StageKey, model: str) -> float:
        total = longest = work = 0.0
        for group in key:
            group_ms = 0.0
            for name in group:
                latency_ms = self.latency_ms(name, model)
                group_ms += latency_ms
                work += latency_ms * self.utilization.get(name, 1.0)
            total += group_ms
            longest = max(longest, group_ms)
        return ALPHA * total + (1.0 - ALPHA) * max(longest, work)

    def transfer_ms(self, edge: Edge, platform: Platform, src: str, dst: str) -> float:
        """Milliseconds of `edge` from device `src` to device `dst`; 0 on one device."""
        if src == dst:
            return 0.0
        given = self.transfer.get((edge.src, edge.dst))
        return given.ms if given is not None else platform.link(src, dst).transfer_ms(edge.nbytes)

    def check(self, graph: OperatorGraph, platform: Platform) -> None:
        """Raise `CostError` where an operator of `graph` can run on no device of `platform`."""
        models = {device.model for device in platform.devices}
        missing = [
            op.name
            for op in graph.operators
            if not any(self.runs_on(op.name, model) for model in models)
        ]
        if missing:
            raise CostError(
                f"the cost table has no time for {len(missing)} operators on device models "
                f"{', '.join(sorted(models))}, for example {missing[0]!r}; measure them again"
            )

    def to_json(self) -> str:
        """Return the table as JSON; `from_json` restores an equal one."""
        return json.dumps(
            {
                "version": COSTS_VERSION,
                "latency": {
                    model: {name: asdict(m) for name, m in times.items()}
                    for model, times in self.latency.items()
                },
                "joint": {
                    model: [{"groups": key, **asdict(m)} for key, m in times.items()]
                    for model, times in self.joint.items()
                },
                "transfer": [
                    {"src": src, "dst": dst, **asdict(m)} for (src, dst), m in self.transfer.items()
                ],
                "utilization": dict(self.utilization),
                "platform": None if self.platform is None else self.platform.to_data(),
            },
            indent=1,
        )

    @staticmethod
    def from_json(text: str) -> CostTable:
        """Read what `to_json` wrote; anything else is a `CostError`."""
        try:
            data = json.loads(text)
            if data["version"] != COSTS_VERSION:
                raise CostError(
                    f"cost table has version {data['version']!r}, this program reads version "
                    f"{COSTS_VERSION}"
                )
            return _table_from_data(data)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise CostError(f"not a cost table: {error!r}") from error


def _table_from_data(data: dict[str, Any]) -> CostTable:
    def measurement(entry: dict[str, Any]) -> Measurement:
        names = ("ms", "spread_ms", "samples", "source")
        return Measurement(**{name: entry[name] for name in names})

    platform = data["platform"]
    return CostTable(
        latency={
            model: {name: measurement(entry) for name, entry in times.items()}
            for model, times in data["latency"].items()
        },
        joint={
            model: {stage_key(entry["groups"]): measurement(entry) for entry in entries}
            for model, entries in data["joint"].items()
        },
        transfer={(entry["src"], entry["dst"]): measurement(entry) for entry in data["transfer"]},
        utilization=data["utilization"],
        platform=None if platform is None else Platform.from_data(platform),
    )
