"""The cost table: all times that a scheduler may use, each with its provenance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hios_tvm.errors import CostError
from hios_tvm.schema.graph import Edge, OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.precisions import Precision
from hios_tvm.schema.strict_json import Document

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
    utilization : device model -> operator -> share of a device that it uses, in (0, 1]
        1 where absent.
    precision : device model -> precision of the kernels that were measured
        Absent where it makes no difference (CPUs), or nobody knows.
    measure_stage : function, optional
        ``(device model, groups) -> Measurement`` for stages that `joint` does not hold; each
        is asked for once and kept. Where it returns None, or is absent, the analytic model answers.
    platform : Platform, optional
        What the times were measured on.
    """

    latency: Mapping[str, Mapping[str, Measurement]]
    joint: dict[str, dict[StageKey, Measurement]] = field(default_factory=dict)
    transfer: Mapping[tuple[str, str], Measurement] = field(default_factory=dict)
    utilization: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    precision: Mapping[str, Precision] = field(default_factory=dict)
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

    def utilization_of(self, operator: str, model: str) -> float:
        """Share of a device of `model` that `operator` uses."""
        return self.utilization.get(model, {}).get(operator, 1.0)

    def least_stage_ms(self, operator: str, model: str) -> float:
        """Milliseconds that the analytic model adds to any stage at least for `operator`."""
        used = ALPHA + (1.0 - ALPHA) * self.utilization_of(operator, model)
        return used * self.latency_ms(operator, model)

    def stage_ms(self, groups: Iterable[Iterable[str]], model: str) -> float:
        """Milliseconds of a stage: measured where possible, else by the analytic model."""
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
        return self.modelled_stage_ms(key, model)

    def modelled_stage_ms(self, key: StageKey, model: str) -> float:
        """Milliseconds of a stage by the analytic model.

        That is ``a*sum(w) + (1-a)*max(max w, sum(w*u))`` over the stream groups, where w is a
        group's latency, u its utilization and a is `ALPHA`.
        """
        total = longest = work = 0.0
        for group in key:
            group_ms = 0.0
            for name in group:
                latency_ms = self.latency_ms(name, model)
                group_ms += latency_ms
                work += latency_ms * self.utilization_of(name, model)
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

    def check_precision(self, precision: Precision, platform: Platform) -> None:
        """Raise `CostError` where kernels of another precision were measured on a device."""
        for model in dict.fromkeys(device.model for device in platform.devices):
            measured = self.precision.get(model, precision)
            if measured != precision:
                raise CostError(
                    f"the costs of {model} were measured with {measured} kernels, and these are "
                    f"{precision}: give --precision {measured}, or measure them again"
                )

    def to_json(self, graph: OperatorGraph | None = None) -> str:
        """Return a cost file: the table as JSON, perhaps with the graph that it is of."""
        file = _CostFile(
            latency=self.latency,
            joint={
                model: tuple(_StageTime(**_fields(m), groups=key) for key, m in times.items())
                for model, times in self.joint.items()
            },
            transfer=tuple(
                _TransferTime(**_fields(m), src=src, dst=dst)
                for (src, dst), m in self.transfer.items()
            ),
            utilization=self.utilization,
            precision=self.precision,
            platform=self.platform,
            graph=graph,
        )
        return _FILE.to_json(file, indent=1)

    @staticmethod
    def from_json(text: str | bytes) -> CostTable:
        """Read a cost file; anything else is a `CostError`."""
        return CostTable.from_data(_FILE.parse(text))[0]

    @staticmethod
    def from_data(data: Any) -> tuple[CostTable, OperatorGraph | None]:
        """Return the table and the graph of a parsed cost file; anything else is a `CostError`."""
        file = _FILE.from_data(_upgraded(data))
        table = CostTable(
            latency=file.latency,
            joint={
                model: {stage_key(entry.groups): _measurement(entry) for entry in entries}
                for model, entries in file.joint.items()
            },
            transfer={(entry.src, entry.dst): _measurement(entry) for entry in file.transfer},
            utilization=file.utilization,
            precision=file.precision,
            platform=file.platform,
        )
        return table, file.graph


@dataclass(frozen=True, kw_only=True)
class _StageTime(Measurement):
    groups: StageKey


@dataclass(frozen=True, kw_only=True)
class _TransferTime(Measurement):
    src: str
    dst: str


@dataclass(frozen=True, kw_only=True)
class _CostFile:
    """What a cost file holds: names of JSON are strings, so that pairs are entries of lists."""

    latency: Mapping[str, Mapping[str, Measurement]]
    joint: Mapping[str, tuple[_StageTime, ...]]
    transfer: tuple[_TransferTime, ...]
    utilization: Mapping[str, Mapping[str, float]]
    precision: Mapping[str, Precision]
    platform: Platform | None
    graph: OperatorGraph | None = None


_FILE = Document(
    "cost table",
    2,
    _CostFile,
    CostError,
    "measure again with hios-tvm compile --save-costs or hios-tvm profile",
)


def _fields(measurement: Measurement) -> dict[str, Any]:
    return {field.name: getattr(measurement, field.name) for field in fields(Measurement)}


def _measurement(entry: Measurement) -> Measurement:
    return Measurement(**_fields(entry))


def _upgraded(data: Any) -> Any:
    """Return a file of version 1 as one of version 2.

    It has one utilization for all device models, which only GPUs have where there are some, and
    does not say the precision. Its platform and graph have versions of their own.
    """
    if not isinstance(data, dict) or data.get("version") != 1:
        return data
    try:
        gpus = [model for model in data["latency"] if model.startswith("cuda")]
        shares = data["utilization"]
        parts = {
            name: {key: value for key, value in data[name].items() if key != "version"}
            for name in ("platform", "graph")
            if data.get(name) is not None
        }
        models = gpus or list(data["latency"])
    except (KeyError, AttributeError, TypeError) as error:
        raise CostError(f"not a cost table of version 1: {error!r}") from error
    utilization = dict.fromkeys(models, shares) if shares else {}
    return {**data, **parts, "version": 2, "utilization": utilization, "precision": {}}
