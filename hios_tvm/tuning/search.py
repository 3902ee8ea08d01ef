"""MetaSchedule's evolutionary search over the loops of one kernel, one batch after another."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

from tvm import s_tir, tirx
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.schedule import Trace
from tvm.target import Target

from hios_tvm.backends.cpu.tuning_database import Trial
from hios_tvm.errors import UsageError
from hios_tvm.passes.apply_traces import schedulable_module

_BATCH = 16
_POPULATION = 64  # TVM's 512 take 13 s a batch, twice as long as measuring it
_CPUS = len(os.sched_getaffinity(0))  # for the search itself
_LOG = logging.getLogger(f"{__name__}.metaschedule")
_LOG.setLevel(logging.ERROR)


class Search:
    """Proposes schedules for `kernel` and learns from their times.

    Parameters
    ----------
    kernel : tirx.PrimFunc
        A kernel that no rule has scheduled.
    target, threads
        What it will run on.
    known : sequence of Trial
        Trials of earlier searches, to learn from.
    trials : int
        How many more to propose at most.

    Raises
    ------
    UsageError
        If XGBoost, which the search learns with, is not installed.
    """

    def __init__(
        self,
        kernel: tirx.PrimFunc,
        target: Target,
        threads: int,
        *,
        known: Sequence[Trial],
        trials: int,
    ) -> None:
        # The number of threads that MetaSchedule's parallel loops are for
        self._target = Target({**json.loads(str(target)), "num-cores": threads})
        with _without_tensor_intrinsics():
            self._context = ms.TuneContext(
                schedulable_module(kernel),
                target=self._target,
                space_generator=ms.space_generator.PostOrderApply(
                    sch_rules="llvm", postprocs="llvm", mutator_probs="llvm"
                ),
                search_strategy=ms.search_strategy.EvolutionarySearch(population_size=_POPULATION),
                rand_state=len(known) + 1,
                num_threads=_CPUS,
                logger=_LOG,
            ).clone()
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(self._context.mod)
        self._model = _cost_model()
        self._pending: list[ms.MeasureCandidate] = []
        self._remember(known)
        spaces = self._context.generate_design_space()
        self._context.pre_tuning(trials, _BATCH, spaces, self._database, self._model)

    def propose(self) -> list[str]:
        """Return the traces of the next batch, known ones perhaps among them; none at the end.

        `learn` must be called with their trials before the next call.
        """
        self._pending = list(self._context.generate_measure_candidates() or ())
        return [self._trace(candidate.sch) for candidate in self._pending]

    def learn(self, trials: Sequence[Trial]) -> None:
        """Take the times of what `propose` has returned last, in the same order."""
        results = [_result(trial) for trial in trials]
        self._context.notify_runner_results(self._pending, results)
        self._model.update(self._context, self._pending, results)
        for candidate, trial in zip(self._pending, trials, strict=True):
            self._commit(candidate.sch.trace, trial)

    def _remember(self, known: Sequence[Trial]) -> None:
        candidates = []
        for trial in known:
            sch = s_tir.Schedule(self._context.mod)
            Trace.apply_json_to_schedule(json.loads(trial.trace), sch)
            self._commit(sch.trace, trial)
            arguments = ms.arg_info.ArgInfo.from_entry_func(self._context.mod)
            candidates.append(ms.MeasureCandidate(sch, arguments))
        if candidates:
            results = [_result(trial) for trial in known]
            self._model.update(self._context, candidates, results)

    def _commit(self, trace: Trace, trial: Trial) -> None:
        if trial.ms is not None:
            self._database.commit_tuning_record(self._record(trace, trial.ms / 1e3))

    def _record(self, trace: Trace, seconds: float) -> ms.database.TuningRecord:
        arguments = ms.arg_info.ArgInfo.from_entry_func(self._context.mod)
        return ms.database.TuningRecord(trace, self._workload, [seconds], self._target, arguments)

    def _trace(self, sch: s_tir.Schedule) -> str:
        trace, *_ = self._record(sch.trace, 0.0).as_json()
        return json.dumps(trace)


def _result(trial: Trial) -> ms.runner.RunnerResult:
    if trial.ms is None:
        return ms.runner.RunnerResult(None, trial.failure or "not measured")
    return ms.runner.RunnerResult([trial.ms / 1e3], None)


def _cost_model() -> ms.cost_model.XGBModel:
    try:
        import xgboost  # noqa: F401  (MetaSchedule imports it late, with an error of its own)
    except ImportError as error:
        raise UsageError("tuning needs XGBoost; run: pip install 'hios-tvm[tune]'") from error
    return ms.cost_model.XGBModel(num_warmup_samples=2 * _BATCH, num_tuning_cores=_CPUS)


@contextmanager
def _without_tensor_intrinsics() -> Iterator[None]:
    """Keep `TuneContext` from importing TVM's tensor intrinsics: 13 s, and none is used here."""
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]
