"""The whole way of tuning: from a Relax module to a database of kernels that beat the rules."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tvm import tirx
from tvm.ir import IRModule

from hios_tvm.backends.cpu.backend import packings_of
from hios_tvm.backends.cpu.codegen import kernel_key
from hios_tvm.backends.cpu.tuned_kernels import subject_of
from hios_tvm.backends.cpu.tuning_database import Subject, Trial, TunedKernel, TuningDatabase
from hios_tvm.backends.interface import PhaseProgress
from hios_tvm.backends.network import Network, lower_network
from hios_tvm.compiled_code import default_cache_dir
from hios_tvm.errors import UsageError
from hios_tvm.measuring.network_costs import network_costs
from hios_tvm.passes.schedule_kernels import has_root_block
from hios_tvm.runtime.devices import HOST
from hios_tvm.runtime.devices.kernel_calls import kernel_call
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.schema.device_names import parse_cores
from hios_tvm.tuning.candidate_bench import CandidateBench
from hios_tvm.tuning.search import Search

_FINALISTS = 3


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What `plan_tuning` and `tune_kernel` do.

    Attributes
    ----------
    device : str
        Device to tune for; a compile for devices with as many cores uses the result.
    database : Path
        Folder of the database.
    trials : int
        Candidates of each kernel; those that the database holds already count.
    share : float
        Kernels are tuned that take this share of the model's time together, the slowest first.
    target : str
        As in `CompileOptions`; this machine must be able to run it.
    cache_dir : Path, optional
        Folder of measured costs and compiled kernels; None keeps nothing.
    """

    device: str
    database: Path
    trials: int = 64
    share: float = 0.8
    target: str = "host"
    cache_dir: Path | None = field(default_factory=default_cache_dir)


@dataclass(frozen=True)
class KernelToTune:
    """A kernel that dominates: its calls in the model, and the time of one, in ms."""

    name: str
    calls: int
    ms: float
    subject: Subject
    known: int
    """Trials that the database holds."""


@dataclass(frozen=True)
class TuningPlan:
    """The kernels that dominate, the slowest first, and the time of the whole model, in ms."""

    network: Network
    database: TuningDatabase
    kernels: tuple[KernelToTune, ...]
    total_ms: float

    def tuned_ms(self) -> float:
        """Return the time of the whole model with what the database holds, on one device."""
        total = self.total_ms
        for kernel in self.kernels:
            tuned = self.database.tuned(kernel.subject)
            if tuned is not None and tuned.wins:
                total -= kernel.calls * kernel.ms * (1.0 - tuned.ms / tuned.default_ms)
        return total


def plan_tuning(
    mod: IRModule,
    options: TuneOptions,
    *,
    name: str = "model",
    progress: PhaseProgress = lambda phase, done, total: None,
) -> TuningPlan:
    """Measure the kernels of a frontend's module and return those that dominate.

    Raises
    ------
    UsageError
        If an option cannot be used, or the model has no kernel that can be tuned.
    CostError
        If the database is damaged, or this machine cannot run code for the target.
    """
    if options.trials < 1:
        raise UsageError(f"tuning needs at least one trial, got {options.trials}")
    if not 0.0 < options.share <= 1.0:
        raise UsageError(f"the share of the model's time must be in (0, 1], got {options.share}")
    database = TuningDatabase(options.database, create=True)
    progress("lower", 0, 1)
    network = lower_network(mod, options.target, name=name)
    target = network.lowered[HOST].target
    progress("lower", 1, 1)
    calls = Counter(op.kernel for op in network.graph.operators)
    tunable = [kernel for kernel in calls if has_root_block(network.kernels[kernel])]
    if not tunable:
        raise UsageError(f"model {name!r} has no kernel that can be tuned")
    costs, platform = network_costs(
        network, [options.device], cache_dir=options.cache_dir, progress=progress
    )
    model = platform.devices[0].model
    ms = {op.kernel: costs.latency_ms(op.name, model) for op in network.graph.operators}
    threads = len(parse_cores(options.device))
    plan = []
    for kernel in _dominating({k: calls[k] * ms[k] for k in tunable}, options.share):
        subject = subject_of(network.kernels[kernel], target, threads)
        known = len(database.trials(subject))
        plan.append(KernelToTune(kernel, calls[kernel], ms[kernel], subject, known))
    return TuningPlan(network, database, tuple(plan), sum(calls[k] * ms[k] for k in ms))


def tune_kernel(
    plan: TuningPlan,
    kernel: KernelToTune,
    options: TuneOptions,
    *,
    progress: PhaseProgress = lambda phase, done, total: None,
) -> TunedKernel | None:
    """Search until the database holds enough trials, and compare the best with the default.

    Each trial is kept as soon as it is measured: an exception from `progress` ends the search
    and loses nothing.

    Returns
    -------
    TunedKernel or None
        None if no candidate runs and gives the default kernel's results.
    """
    database, network, form = plan.database, plan.network, plan.network.lowered[HOST]
    unscheduled, default = network.kernels[kernel.name], form.mod[kernel.name]
    operator = next(op for op in network.graph.operators if op.kernel == kernel.name)
    call = kernel_call(form.graph, operator.name)
    trials = {trial.trace: trial for trial in database.trials(kernel.subject)}
    progress(kernel.name, min(len(trials), options.trials), options.trials)
    packings = packings_of(unscheduled, form.target)
    cores = parse_cores(options.device)
    measuring = CandidateBench(unscheduled, default, call, form.target, cores, packings)
    with closing(measuring) as bench:
        for trial in _new_trials(unscheduled, trials, kernel.subject, network, options, bench):
            database.add_trial(kernel.subject, trial)
            trials[trial.trace] = trial
            progress(kernel.name, min(len(trials), options.trials), options.trials)
        progress(kernel.name, options.trials, options.trials)
        default_kernel = kernel_key(default, form.target)
        tuned = database.tuned(kernel.subject)
        if tuned and (tuned.default_kernel, tuned.trials) == (default_kernel, len(trials)):
            return tuned
        tuned = _compared(bench, list(trials.values()), default_kernel)
    if tuned is not None:
        database.put_tuned(kernel.subject, tuned)
    return tuned


def _new_trials(
    kernel: tirx.PrimFunc,
    known: dict[str, Trial],
    subject: Subject,
    network: Network,
    options: TuneOptions,
    bench: CandidateBench,
) -> Iterator[Trial]:
    """Yield trials that are not in `known`, to which the caller adds them."""
    missing = options.trials - len(known)
    if missing <= 0:
        return
    search = Search(
        kernel,
        network.lowered[HOST].target,
        subject.threads,
        known=list(known.values()),
        trials=missing,
    )
    while traces := search.propose():
        new = [trace for trace in dict.fromkeys(traces) if trace not in known]
        for trace, library in zip(new, bench.build(new), strict=True):
            yield bench.measure(trace, library)
        search.learn([known[trace] for trace in traces])


def _compared(
    bench: CandidateBench, trials: Sequence[Trial], default_kernel: str
) -> TunedKernel | None:
    """Measure the best trials and the default kernel in turns and return the best trial."""
    timed = sorted((trial.ms, trial.trace) for trial in trials if trial.ms is not None)
    if not timed:
        return None
    finalists = [trace for _, trace in timed[:_FINALISTS]]
    default_ms, *times = bench.compare(finalists)
    ms, trace = min(zip(times, finalists, strict=True))
    return TunedKernel(
        trace=trace,
        ms=ms,
        default_ms=default_ms,
        default_kernel=default_kernel,
        trials=len(trials),
        machine=str(describe_machine()),
    )


def _dominating(total_ms: dict[str, float], share: float) -> list[str]:
    """Return the kernels that take `share` of the time together, the slowest first."""
    names: list[str] = []
    limit = share * sum(total_ms.values())
    covered = 0.0
    for name in sorted(total_ms, key=lambda kernel: -total_ms[kernel]):
        if covered >= limit:
            break
        names.append(name)
        covered += total_ms[name]
    return names
