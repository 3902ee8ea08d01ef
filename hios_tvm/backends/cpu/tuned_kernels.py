"""Which kernels get the loops of a tuning database, from what was measured; nothing is measured."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tvm import tirx
from tvm.ir import IRModule
from tvm.target import Target

from hios_tvm.backends.cpu.codegen import kernel_key
from hios_tvm.backends.cpu.tuning_database import Subject, TuningDatabase


@dataclass(frozen=True)
class TunedChoice:
    """MetaSchedule's traces by the names of kernels; `notes` say why other kernels have none."""

    traces: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose_tuned(
    kernels: IRModule,
    defaults: IRModule,
    target: Target,
    *,
    folder: Path,
    threads: Collection[int],
) -> TunedChoice:
    """Return the tuned kernels that are faster than the default ones.

    Parameters
    ----------
    kernels, defaults : IRModule
        The module before and after the rules have scheduled its kernels.
    folder : Path
        Of a tuning database.
    threads
        Numbers of cores of the devices that the kernels are for.

    Raises
    ------
    UsageError
        If the folder holds no database.
    CostError
        If the database is damaged.
    """
    database = TuningDatabase(folder)
    if len(set(threads)) != 1:
        return TunedChoice(
            notes=(
                "devices with different numbers of cores share their kernels, and tuned kernels "
                "are made for one number: default kernels are used",
            )
        )
    (count,) = set(threads)
    names = [g.name_hint for g, f in kernels.functions_items() if isinstance(f, tirx.PrimFunc)]
    records = {
        name: record
        for name in names
        if (record := database.tuned(subject_of(kernels[name], target, count))) is not None
    }
    if not records:
        return TunedChoice(notes=(_nothing_fits(database, folder, target, count),))
    comparable = {
        name: record
        for name, record in records.items()
        if record.default_kernel == kernel_key(defaults[name], target)
    }
    chosen = {name: record.trace for name, record in comparable.items() if record.wins}
    notes = [
        f"{len(chosen)} of {len(names)} kernels are tuned ones, {len(comparable) - len(chosen)} "
        f"tuned ones are not faster than the default, {len(names) - len(records)} were not tuned"
    ]
    if stale := len(records) - len(comparable):
        notes.append(
            f"{stale} tuned kernels were compared with other default kernels than today's and are "
            "not used; run hios-tvm tune again"
        )
    return TunedChoice(chosen, tuple(notes))


def choose_again(
    kernels: IRModule, defaults: IRModule, target: Target, *, traces: Mapping[str, str]
) -> TunedChoice:
    """Return the kernels that were tuned when `traces` were chosen; no database is needed.

    Parameters
    ----------
    kernels, defaults, target
        As in `choose_tuned`.
    traces
        MetaSchedule's traces by the `kernel_key` of a kernel before any rule has scheduled it.
    """
    keys = {
        g.name_hint: kernel_key(kernel, target)
        for g, kernel in kernels.functions_items()
        if isinstance(kernel, tirx.PrimFunc)
    }
    return TunedChoice({name: traces[key] for name, key in keys.items() if key in traces})


def subject_of(kernel: tirx.PrimFunc, target: Target, threads: int) -> Subject:
    """Return the name of `kernel`, before any rule, for `threads` of `target` in the database."""
    return Subject(kernel_key(kernel, target), str(target), threads)


def _nothing_fits(database: TuningDatabase, folder: Path, target: Target, threads: int) -> str:
    wanted = (str(target), threads)
    tuned_for = database.tuned_for()
    if not tuned_for:
        return f"{folder} holds no tuned kernels yet: default kernels are used"
    if wanted in tuned_for:
        return f"{folder} holds tuned kernels of other models only: default kernels are used"
    others = "; ".join(f"{text} with {_threads(count)}" for text, count in tuned_for)
    return (
        f"{folder} holds tuned kernels for {others}, and none for {target} with "
        f"{_threads(threads)}: default kernels are used"
    )


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
