"""Schedules as real artifacts, run in turn: which one is the fastest on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any

from hios_tvm import runtime
from hios_tvm.artifact.write import Build, write
from hios_tvm.errors import ArtifactError
from hios_tvm.files import temporary_folder
from hios_tvm.measuring.latency import LatencySummary, latencies_of, measure_in_turn
from hios_tvm.schema.device_names import cores_of, outermost
from hios_tvm.schema.manifest import Manifest, Prediction
from hios_tvm.schema.schedule import Schedule
from hios_tvm.schema.strict_json import decode
from hios_tvm.verification.inputs import random_inputs

MOST_ENTRANTS = 2
"""Schedules that are tried, the one for a single device not counted."""

LEAST_GAIN = 0.03
"""By which share a schedule has to be faster than a simpler one."""

# Short turns with pauses, as users call: what is faster only while nothing disturbs it loses.
_TURNS = 7
_MS_PER_TURN = 100.0
_PAUSE_S = 0.2
_WARMUP_RUNS = 2
_FEWEST_RUNS = 3


@dataclass(frozen=True)
class Trial:
    """What an artifact says of a schedule that was tried out, in its `compile_info`.

    `schedule` and `prediction` are None for the one that was kept: the artifact's own.
    """

    scheduler: str
    devices: tuple[str, ...]
    predicted_ms: float
    measured_ms: float
    spread_ms: float
    schedule: Mapping[str, Any] | None = None
    prediction: Prediction | None = None


@dataclass(frozen=True)
class MeasuredSchedule:
    """A schedule that was run.

    Attributes
    ----------
    scheduler : str
    devices : tuple of str
        Those that have work.
    predicted_ms : float
    turns_ms : tuple of float
        The median latency of each turn.
    """

    scheduler: str
    devices: tuple[str, ...]
    predicted_ms: float
    turns_ms: tuple[float, ...]

    @property
    def latency(self) -> LatencySummary:
        """Sum up the turns."""
        return LatencySummary.of(self.turns_ms)

    def __str__(self) -> str:
        latency = self.latency
        return (
            f"{self.scheduler} on {', '.join(self.devices)}: {latency.median_ms:.2f} "
            f"± {latency.spread_ms:.2f} ms, predicted {self.predicted_ms:.2f} ms"
        )

    def kept(self) -> Trial:
        """Return what the artifact with this schedule says of it."""
        latency = self.latency
        return Trial(
            self.scheduler, self.devices, self.predicted_ms, latency.median_ms, latency.spread_ms
        )

    def rejected(self, schedule: Schedule, prediction: Prediction) -> Trial:
        """Return what an artifact with another schedule says of this one."""
        data = json.loads(schedule.to_json())
        return replace(self.kept(), schedule=data, prediction=prediction)

    def relative_to(self, other: MeasuredSchedule) -> float:
        """Return this one's latency over the `other`'s, both in the same turn: their median."""
        return median(own / its for own, its in zip(self.turns_ms, other.turns_ms, strict=True))


def trials_of(manifest: Manifest) -> tuple[Trial, ...]:
    """Return the schedules that were tried out; none where the artifact says something else."""
    try:
        data = manifest.compile_info.get("trials", [])
        trials: tuple[Trial, ...] = decode(tuple[Trial, ...], data, "trials")
    except ArtifactError:
        return ()
    return trials


def choose_entrants(candidates: Sequence[Schedule]) -> list[Schedule]:
    """Return the first of `candidates` that uses one device, and the best few that beat it.

    `candidates` have their makespans, the smallest first. Of devices the one with most cores is
    taken. To be tried, others have to beat it by `LEAST_GAIN`.
    """
    alone = [made for made in candidates if len(_busy_devices(made)) == 1]
    single = max(alone, key=lambda made: len(cores_of(_busy_devices(made)[0])), default=None)
    if single is None:
        return list(candidates[:MOST_ENTRANTS])
    most_ms = (1.0 - LEAST_GAIN) * (single.makespan_ms or 0.0)
    better = [made for made in candidates if (made.makespan_ms or 0.0) <= most_ms]
    return [single, *better[:MOST_ENTRANTS]]


def winner(trials: Sequence[MeasuredSchedule]) -> int:
    """Return which of `trials` is the fastest; the first one where the gain is below `LEAST_GAIN`.

    `choose_entrants` puts the simplest schedule first. Trials are compared turn by turn, because
    the machine may be slower for some turns than for others.
    """
    ratios = [trial.relative_to(trials[0]) for trial in trials]
    best = min(range(len(ratios)), key=ratios.__getitem__)
    return best if ratios[best] <= 1.0 - LEAST_GAIN else 0


def run_contest(
    schedules: Sequence[Schedule],
    builds: Sequence[Build],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[MeasuredSchedule]:
    """Run the build of each schedule, in short turns so that noise affects all of them alike.

    Only one is loaded at a time. Returns the measurement of each schedule, in the same order.
    """
    medians = _in_turns(builds, _turn, progress)
    return [
        MeasuredSchedule(
            schedule.scheduler,
            _busy_devices(schedule),
            schedule.makespan_ms or 0.0,
            tuple(turns_ms),
        )
        for schedule, turns_ms in zip(schedules, medians, strict=True)
    ]


def run_throughput_contest(
    builds: Sequence[Build],
    predicted_ms: Sequence[float],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[MeasuredSchedule]:
    """Run each build on many inputs: the times are those from one result to the next."""
    return [
        MeasuredSchedule(
            _kind(build.manifest),
            tuple(outermost(device.name for device in build.manifest.devices))
            + tuple(name for names in build.manifest.replicas for name in names),
            interval_ms,
            tuple(turns_ms),
        )
        for build, interval_ms, turns_ms in zip(
            builds, predicted_ms, _in_turns(builds, _many_turn, progress), strict=True
        )
    ]


def _kind(manifest: Manifest) -> str:
    """Return what runs many inputs, in words."""
    what = "pipeline" if manifest.in_flight > 1 else "session"
    return f"{1 + len(manifest.replicas)} {what}s" if manifest.replicas else f"one {what}"


def _in_turns(
    builds: Sequence[Build],
    turn: Callable[[Path, Sequence[float]], list[float]],
    progress: Callable[[int, int], None],
) -> list[list[float]]:
    """Return what each of `_TURNS` turns with each artifact took."""
    with temporary_folder() as folder:
        paths = [folder / f"{i}.hios" for i in range(len(builds))]
        for build, path in zip(builds, paths, strict=True):
            write(build, path)
        return measure_in_turn(
            [partial(turn, path) for path in paths],
            lambda number, _: number == _TURNS,
            pause_s=_PAUSE_S,
            progress=lambda number, i: progress(len(paths) * number + i, len(paths) * _TURNS),
        )


def _many_turn(artifact: Path, _known: Sequence[float]) -> list[float]:
    """Load an artifact; return the mean time from one result to the next, in milliseconds."""
    with runtime.load(artifact) as session:
        inputs = random_inputs(session.inputs, seed=0)
        manifest = session.manifest
        runs = _FEWEST_RUNS * (1 + len(manifest.replicas)) * manifest.in_flight
        _many_ms(session, inputs, runs)  # warms up
        total_ms = _many_ms(session, inputs, runs)
        runs *= 1 + int(_MS_PER_TURN / total_ms)
        return [_many_ms(session, inputs, runs) / runs]


def _many_ms(session: runtime.Session, inputs: Mapping[str, Any], runs: int) -> float:
    start = time.perf_counter()
    for _ in session.run_many(repeat(inputs, runs)):
        pass
    return 1000.0 * (time.perf_counter() - start)


def _turn(artifact: Path, _known: Sequence[float]) -> list[float]:
    """Load an artifact, and return the median latency of a few runs, in milliseconds."""
    latencies: list[float] = []
    with runtime.load(artifact) as session:
        inputs = random_inputs(session.inputs, seed=0)
        for _ in range(_WARMUP_RUNS):
            session.run(inputs)
        for latency_ms in latencies_of(lambda: session.run(inputs)):
            latencies.append(latency_ms)
            if len(latencies) >= _FEWEST_RUNS and sum(latencies) >= _MS_PER_TURN:
                break
    return [median(latencies)]


def _busy_devices(schedule: Schedule) -> tuple[str, ...]:
    return tuple(device.device for device in schedule if device.stages)
