"""The phases of a compile: lower, measure, plan a schedule, build, verify and write."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tvm.ir import IRModule

from hios_tvm.artifact.build import build
from hios_tvm.artifact.predict import predict
from hios_tvm.artifact.write import Build, described, write_described
from hios_tvm.backends import parse_targets
from hios_tvm.backends.cache import kernel_dir
from hios_tvm.backends.cpu.tuned_kernels import TunedChoice, choose_tuned
from hios_tvm.backends.interface import PhaseProgress, Progress
from hios_tvm.backends.network import Network, lower_network
from hios_tvm.compiler.compilation import Compilation
from hios_tvm.compiler.options import CompileOptions
from hios_tvm.compiler.throughput import MakeSchedule, plan_throughput
from hios_tvm.files import check_writable, temporary_folder
from hios_tvm.measuring.contest import MeasuredSchedule, choose_entrants, run_contest, winner
from hios_tvm.measuring.cost_notes import cost_notes
from hios_tvm.measuring.load import LoadMeter, load_note
from hios_tvm.measuring.network_costs import network_costs
from hios_tvm.runtime.devices import HOST, kind_of, of_kind
from hios_tvm.runtime.memory_limit import check_memory, memory_errors
from hios_tvm.schedulers import evaluated, make_schedule, options_of
from hios_tvm.schedulers.auto import candidates
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import parse_cores
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.manifest import Manifest, Prediction, Verification
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule
from hios_tvm.schema.strict_json import encode
from hios_tvm.verification.reproducer import CompileWords
from hios_tvm.verification.verifier import NOT_ASKED_FOR, Search, verify

if TYPE_CHECKING:
    from hios_tvm.verification.reference import Reference


_COPIES_TO_COMPARE = 14
"""Of inputs and outputs in memory at once: measured with 400 MB of each, and two draws."""

_WORTH_A_NOTE_S = 0.5  # what is shorter has measured next to nothing

Measured: TypeAlias = tuple[CostTable, Platform]
"""The costs of a network's operators, and the platform that they are of."""


def plan(
    network: Network,
    costs: CostTable,
    platform: Platform,
    scheduler: str = "hios-lp",
    **options: Any,
) -> Schedule:
    """Schedule the operators of a lowered network; nothing is measured or built.

    Parameters
    ----------
    network : Network
        What `lower_network` returned.
    costs : CostTable
        Milliseconds of each operator on each model of device.
    platform : Platform
        The devices, with limits of memory where they have any.
    scheduler, options
        Name in `hios_tvm.schedulers.SCHEDULERS`, and the options of that scheduler.

    Raises
    ------
    UsageError
        If the scheduler or an option is unknown.
    CostError
        If an operator can run on no device.
    ScheduleError
        If no schedule keeps to the limits of memory.
    """
    return make_schedule(scheduler, network.graph, costs, platform, **options)


def compile_model(
    mod: IRModule,
    output: str | os.PathLike[str],
    options: CompileOptions,
    *,
    name: str = "model",
    reference: Reference | None = None,
    reproducer: Path | None = None,
    progress: PhaseProgress = lambda phase, done, total: None,
) -> Compilation:
    """Compile a frontend's module and write the artifact to `output`.

    It is `lower_network`, measured costs, `plan`, `build`, a comparison with the reference and
    `write`. The file appears when everything has succeeded, never before.

    Parameters
    ----------
    mod : IRModule
    output : Path
    options : CompileOptions
    name : str
        The model's, for reports.
    reference : Reference, optional
        Such as an `OnnxReference` of the same model. The artifact is run on random inputs and
        compared with it, where it can run here, and the manifest says what came of it.
    reproducer : Path, optional
        Folder for the smallest model that differs, should the artifact be wrong.

    Raises
    ------
    UsageError, CostError, ScheduleError, CompileError
        Where an option, the costs, the schedule or code generation is at fault.
    MemoryLimitError
        If the model is larger than the memory that this process may take (`memory_limit`), or
        memory ends all the same.
    VerificationError
        If outputs differ from the reference's: nothing is written then.
    """
    output = Path(output)
    check_writable(output)  # before work is spent
    with memory_errors(f"compile {name!r}"), with_cache(options) as options:
        return _compile(mod, output, options, name, reference, reproducer, progress)


@contextmanager
def with_cache(options: CompileOptions) -> Iterator[CompileOptions]:
    """Yield options with a folder for what is measured, which is not compiled again then."""
    with ExitStack() as stack:
        if options.cache_dir is None:
            folder = stack.enter_context(temporary_folder())
            options = replace(options, cache_dir=folder)
        yield options


def _compile(
    mod: IRModule,
    output: Path,
    options: CompileOptions,
    name: str,
    reference: Reference | None,
    reproducer: Path | None,
    progress: PhaseProgress,
) -> Compilation:
    plan_one = partial(
        plan_model, mod, name=name, compared=reference is not None, progress=progress
    )
    if options.objective == "throughput":
        planned = plan_throughput(
            lambda options, make: plan_one(options, make=make), options, progress
        )
    else:
        planned = plan_one(options)
    verification = NOT_ASKED_FOR
    if reference is not None:
        with planned.phases("verify"):
            search = planned.search(reproducer)
            verification = verify(planned.build, output, mod, reference, search)
    with planned.phases("write"):
        manifest = write_described(planned.described(verification), output)
    return planned.compilation(output, manifest)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A model with its schedule and code, which is neither verified nor written yet.

    `measured` is None where a schedule was given without costs. `trials` are those of `schedules`,
    if there are several, of which the one at `best` is kept, as `build`. `phases` has the seconds
    of what was done, `notes` what options brought.
    """

    network: Network
    schedules: Sequence[Schedule]
    best: int
    build: Build
    measured: Measured | None
    trials: Sequence[MeasuredSchedule]
    phases: Phases
    notes: Sequence[str]
    options: CompileOptions

    def search(self, reproducer: Path | None) -> Search:
        """Return how to search what is wrong: on one busy device of each kind."""
        return _search(self.build.manifest, self.options, reproducer)

    def described(self, verification: Verification) -> Build:
        """Return what is to be written, but for its place."""
        graph, measured = self.network.graph, self.measured
        predictions = [
            Prediction() if measured is None else predict(graph, *measured, schedule)
            for schedule in self.schedules
        ]
        tried = [
            trial.kept() if i == self.best else trial.rejected(self.schedules[i], predictions[i])
            for i, trial in enumerate(self.trials)
        ]
        info: dict[str, Any] = {"trials": [encode(trial) for trial in tried]} if tried else {}
        if notes := self.network_notes:
            info["notes"] = notes
        prediction = predictions[self.best]
        return described(self.build, prediction, verification=verification, info=info)

    def compilation(self, output: Path, manifest: Manifest) -> Compilation:
        """Return what came of it, written to `output`."""
        costs, platform = self.measured or (None, None)
        network = self.network
        return Compilation(
            path=output,
            graph=network.graph,
            schedule=self.schedules[self.best],
            manifest=manifest,
            seconds=self.phases.seconds,
            costs=costs,
            platform=platform,
            trials=tuple(self.trials),
            notes=(*self.notes, *self.network_notes),
        )

    @property
    def network_notes(self) -> tuple[str, ...]:
        """What a user should know of the kernels; `inspect` says it too."""
        costs = cost_notes(self.network, self.measured[0]) if self.measured else ()
        return (*self.network.tuned.notes, *costs)


def plan_model(
    mod: IRModule,
    options: CompileOptions,
    name: str,
    *,
    compared: bool,
    make: MakeSchedule | None = None,
    progress: PhaseProgress = lambda phase, done, total: None,
) -> Planned:
    """Lower a model, measure it, choose a schedule and generate its code.

    `compared` says whether it will be run beside a reference, which takes memory; `make` makes the
    schedule in place of a scheduler. Other parameters, and errors, are those of `compile_model`.
    """
    phases = Phases(progress)
    with phases("lower"):
        network = _lower(mod, name, options, progress=partial(progress, "lower"))
    _check_size(network.graph, verified=compared)
    notes: list[str] = []
    options = _with_schedule(network, options, notes)
    if options.merge_convolutions:
        with phases("merge convolutions"):
            network = _merged_if_faster(mod, network, options, notes, progress)
    measured = None
    if options.schedule is None or options.costs is not None:
        meter = LoadMeter()
        with phases("measure"):
            measured = _measure(network, options, progress)
        if options.costs is None and phases.seconds["measure"] > _WORTH_A_NOTE_S:
            notes += load_note(meter.others(), "the measurements")
    with phases("schedule"):
        if make is not None and measured is not None:
            schedules = [make(network, *measured)]
        else:
            schedules = _schedules(network, measured, options)
    with phases("generate code"):
        builds = [_build(network, schedule, options, progress) for schedule in schedules]
    trials: list[MeasuredSchedule] = []
    if len(builds) > 1:
        with phases("try out"):
            trials = run_contest(schedules, builds, partial(progress, "try out"))
    best = winner(trials) if trials else 0
    return Planned(
        network=network,
        schedules=schedules,
        best=best,
        build=builds[best],
        measured=measured,
        trials=trials,
        phases=phases,
        notes=notes,
        options=options,
    )


def _with_schedule(network: Network, options: CompileOptions, notes: list[str]) -> CompileOptions:
    """Return options with the schedule that follows from a placement of nodes."""
    placement = options.placement
    if placement is None:
        return options
    if placement.schedule is not None and not placement.is_of(placement.schedule, network.graph):
        notes.append(
            "the order that the model's metadata holds is of other operators or of another "
            "placement, and was not used"
        )
    schedule = placement.schedule_on(network.graph, options.devices)
    return replace(options, schedule=schedule, placement=None)


def _check_size(graph: OperatorGraph, *, verified: bool) -> None:
    """Compare what measuring, running and comparing will take with the memory that is free."""
    operators = (operator.name for operator in graph.operators)
    nbytes = graph.weight_bytes(operators) + graph.activation_bytes
    check_memory(nbytes, f"{graph.name}, with its weights and activations,")
    if verified:
        tensors = (graph.tensor[name] for name in (*graph.inputs, *graph.outputs))
        nbytes += _COPIES_TO_COMPARE * sum(tensor.nbytes for tensor in tensors)
        check_memory(nbytes, f"{graph.name}, compared with a reference on random inputs,")


def _lower(
    mod: IRModule,
    name: str,
    options: CompileOptions,
    *,
    merge_convolutions: bool = False,
    progress: Progress = lambda done, total: None,
) -> Network:
    targets = parse_targets(options.target, options.devices, options.precision)
    return lower_network(
        mod,
        *targets.values(),
        name=name,
        merge_convolutions=merge_convolutions,
        dump_dir=options.dump_dir,
        choose=_choice_of(options),
        progress=progress,
    )


def _choice_of(options: CompileOptions) -> Callable[..., TunedChoice] | None:
    if options.database is None:
        return None
    threads = [len(parse_cores(device)) for device in of_kind(HOST, options.devices)]
    return partial(choose_tuned, folder=options.database, threads=threads)


def _merged_if_faster(
    mod: IRModule,
    network: Network,
    options: CompileOptions,
    notes: list[str],
    progress: PhaseProgress,
) -> Network:
    """Return the network with merged convolutions, or `network` where that is faster."""
    merged = _lower(mod, network.graph.name, options, merge_convolutions=True)
    counts = [
        sum("conv2d" in op.kernel for op in candidate.graph.operators)
        for candidate in (network, merged)
    ]
    if counts[0] == counts[1]:
        notes.append("no two convolutions of the network can be merged")
        return network
    apart_ms, merged_ms = (
        _predicted_ms(candidate, options, progress) for candidate in (network, merged)
    )
    is_faster = merged_ms < apart_ms
    notes.append(
        f"{counts[0]} convolutions merged into {counts[1]} should take {merged_ms:.3f} ms, apart "
        f"{apart_ms:.3f} ms: {'merged' if is_faster else 'left apart'}"
    )
    return merged if is_faster else network


def _predicted_ms(network: Network, options: CompileOptions, progress: PhaseProgress) -> float:
    measured = _measure(network, options, progress)
    schedule = plan(network, *measured, options.scheduler, **options.scheduler_options)
    return evaluate(network.graph, *measured, schedule).makespan_ms


def _measure(network: Network, options: CompileOptions, progress: PhaseProgress) -> Measured:
    """Return the given costs, or measure them, and the platform that they belong to."""
    costs, platform = network_costs(
        network,
        options.schedulable,
        given=options.costs,
        link=options.link,
        rpc=options.rpc,
        cache_dir=options.cache_dir,
        progress=progress,
    )
    return costs, platform.with_memory(options.memory)


def _schedules(
    network: Network, measured: Measured | None, options: CompileOptions
) -> list[Schedule]:
    """Return the schedule, or the best few where `auto` shall try them out on this machine."""
    if measured is None:
        assert options.schedule is not None
        schedules = [options.schedule.over(options.schedulable)]
    else:
        schedules = _evaluated_schedules(network, measured, options)
    return [schedule.without_idle_parts(options.devices) for schedule in schedules]


def _evaluated_schedules(
    network: Network, measured: Measured, options: CompileOptions
) -> list[Schedule]:
    arguments = (network.graph, *measured)
    if options.schedule is not None:
        return [evaluated(options.schedule.over(options.schedulable), *arguments)]
    is_here = options.costs is None and options.rpc is None and network.lowered.keys() == {HOST}
    if options.scheduler != "auto" or not is_here:
        return [plan(network, *measured, options.scheduler, **options.scheduler_options)]
    found = candidates(*arguments, options_of("auto", **options.scheduler_options))
    return [evaluated(schedule, *arguments) for schedule in choose_entrants(found)]


def _build(
    network: Network, schedule: Schedule, options: CompileOptions, progress: PhaseProgress
) -> Build:
    kernels = kernel_dir(options.cache_dir)
    return build(network, schedule, memory=options.memory, kernel_dir=kernels, progress=progress)


def _search(manifest: Manifest, options: CompileOptions, reproducer: Path | None) -> Search:
    busy = {program.device for program in manifest.programs if program.instructions}
    names = [device.name for device in manifest.devices if device.name in busy]
    first = {kind_of(name).kind: name for name in reversed(names)}
    merged = manifest.recipe.merge_convolutions
    words = {
        name: CompileWords(name, options.target, options.precision, options.database, merged)
        for name in first.values()
    }
    kernels = kernel_dir(options.cache_dir)
    return Search(devices=words, kernel_dir=kernels, reproducer=reproducer, rtol=options.rtol)


class Phases:
    """Notes how long each phase takes, in seconds, and reports its beginning and end."""

    def __init__(self, progress: PhaseProgress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._progress(name, 0, 1)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self._progress(name, 1, 1)
