"""What tuning has measured: a SQLite database in a folder of the user's choice.

Every trial is a transaction of its own. A process that is killed loses the trial that it was
measuring and nothing else, and the next one finds a whole database.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hios_tvm.errors import CostError, UsageError

LEAST_GAIN = 0.03
"""Share of the default kernel's time that a tuned one must save: less is noise."""

# The version is in the name: a program that keeps other things starts a database of its own.
_VERSION = 2
_DATABASE = f"tuning-{_VERSION}.sqlite3"
_SCHEMA = """
create table if not exists trial (
    id integer primary key,
    kernel text not null,
    target text not null,
    threads integer not null,
    trace text not null,
    ms real,
    failure text
);
create index if not exists trial_of_kernel on trial (kernel, threads);
create table if not exists tuned (
    kernel text not null,
    target text not null,
    threads integer not null,
    trace text not null,
    ms real not null,
    default_ms real not null,
    default_kernel text not null,
    trials integer not null,
    machine text not null,
    primary key (kernel, threads)
);
"""


@dataclass(frozen=True)
class Subject:
    """What is tuned: a kernel before any rule (its `kernel_key`), for a target and threads."""

    kernel: str
    target: str
    threads: int


@dataclass(frozen=True)
class Trial:
    """One candidate: MetaSchedule's trace as JSON, and its time or why there is none."""

    trace: str
    ms: float | None
    failure: str | None = None


@dataclass(frozen=True)
class TunedKernel:
    """The best candidate next to the default kernel, measured in turns on one machine.

    `default_kernel` is the `kernel_key` of the kernel that the rules made then; a comparison with
    another one says nothing. `trials` counts the trials of which this is the best.
    """

    trace: str
    ms: float
    default_ms: float
    default_kernel: str
    trials: int
    machine: str

    @property
    def wins(self) -> bool:
        """Whether the candidate is faster than the default kernel by more than noise."""
        return self.ms < (1.0 - LEAST_GAIN) * self.default_ms


class TuningDatabase:
    """Trials and their best ones; several processes may read and write at once.

    Parameters
    ----------
    folder : Path
        It and the database in it are made where they are missing, if `create` is set.

    Raises
    ------
    UsageError
        If there is no database and none can be made.
    CostError
        If the database is damaged.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.path = folder / _DATABASE
        self._mode = "rwc" if create else "ro"
        if create:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"cannot make the folder {folder}: {error}") from error
        elif not self.path.is_file():
            others = sorted(folder.glob("tuning-*.sqlite3"))
            found = f" of version {_VERSION}, but {others[-1].name}" if others else ""
            raise UsageError(
                f"{folder} holds no tuning database{found}; make one with: hios-tvm tune MODEL "
                f"--database {folder}"
            )
        with self._connection() as connection:
            if create:
                connection.executescript(_SCHEMA)
            (state,) = connection.execute("pragma quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)

    def trials(self, subject: Subject) -> list[Trial]:
        """Return the trials of `subject`, oldest first."""
        with self._connection() as connection:
            rows = connection.execute(
                "select trace, ms, failure from trial where kernel = ? and threads = ? order by id",
                (subject.kernel, subject.threads),
            )
            return [Trial(*row) for row in rows]

    def add_trial(self, subject: Subject, trial: Trial) -> None:
        """Keep one more trial of `subject`; it is on the disk when this returns."""
        with self._connection() as connection:
            connection.execute(
                "insert into trial (kernel, target, threads, trace, ms, failure) "
                "values (?, ?, ?, ?, ?, ?)",
                (*_key(subject), trial.trace, trial.ms, trial.failure),
            )

    def tuned(self, subject: Subject) -> TunedKernel | None:
        """Return the best candidate of `subject`, if it was compared with the default kernel."""
        with self._connection() as connection:
            row = connection.execute(
                "select trace, ms, default_ms, default_kernel, trials, machine from tuned "
                "where kernel = ? and threads = ?",
                (subject.kernel, subject.threads),
            ).fetchone()
        return None if row is None else TunedKernel(*row)

    def put_tuned(self, subject: Subject, tuned: TunedKernel) -> None:
        """Keep the best candidate of `subject`, replacing an older one."""
        with self._connection() as connection:
            connection.execute(
                "insert or replace into tuned values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *_key(subject),
                    tuned.trace,
                    tuned.ms,
                    tuned.default_ms,
                    tuned.default_kernel,
                    tuned.trials,
                    tuned.machine,
                ),
            )

    def tuned_for(self) -> list[tuple[str, int]]:
        """Return the targets and numbers of threads that kernels were tuned for."""
        with self._connection() as connection:
            rows = connection.execute("select distinct target, threads from tuned order by 1, 2")
            return [(str(target), int(threads)) for target, threads in rows]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        address = f"{self.path.absolute().as_uri()}?mode={self._mode}"
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=30)) as connection, connection:
                yield connection
        except sqlite3.OperationalError as error:
            raise UsageError(f"cannot use the tuning database {self.path}: {error}") from error
        except sqlite3.Error as error:
            what = " ".join(str(error).split())
            raise CostError(
                f"the tuning database {self.path} is damaged: {what}; remove the file and run "
                "hios-tvm tune again"
            ) from error


def _key(subject: Subject) -> tuple[str, str, int]:
    return subject.kernel, subject.target, subject.threads
