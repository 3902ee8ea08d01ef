"""What is kept between compiles: measurements in a SQLite database, and compiled kernels.

A cache saves time and is never needed: where its folder cannot be used, compiles take longer, and a
warning says why.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

from hios_tvm.compiled_code import warn_once
from hios_tvm.errors import CostError
from hios_tvm.schema.costs import Measurement

# The version is in the name: a program that measures differently starts a database of its own.
_DATABASE = "costs-1.sqlite3"
_SCHEMA = """
create table if not exists measurement (
    key text primary key,
    ms real not null,
    spread_ms real not null,
    samples integer not null,
    source text not null
) without rowid
"""
_KERNELS = "kernels-2"  # the version of how files hold code
_MOST_KEYS = 500  # in one query; SQLite allows 999 parameters in its smallest build


def kernel_dir(cache_dir: Path | None) -> Path | None:
    """Folder of compiled kernels in a cache folder; None where nothing is kept."""
    return None if cache_dir is None else cache_dir / _KERNELS


class CostCache:
    """Measurements by key, shared by all processes of a user.

    A key names all that a time depends on: the kernel's structural hash, the target, the device's
    fingerprint. Several processes may read and write at once.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _DATABASE
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            warn_once(f"costs are not kept: {error}")
        self._use(lambda connection: connection.execute(_SCHEMA))

    def get(self, keys: Iterable[str]) -> dict[str, Measurement]:
        """Return what is known of `keys`."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Measurement] = {}

        def read(connection: sqlite3.Connection) -> None:
            for start in range(0, len(wanted), _MOST_KEYS):
                part = wanted[start : start + _MOST_KEYS]
                marks = ",".join("?" * len(part))
                rows = connection.execute(
                    "select key, ms, spread_ms, samples, source from measurement "
                    f"where key in ({marks})",
                    part,
                )
                found.update({key: Measurement(*values) for key, *values in rows})

        self._use(read)
        return found

    def put(self, measurements: Mapping[str, Measurement]) -> None:
        """Keep `measurements`, replacing older ones of the same keys."""
        rows = [(key, m.ms, m.spread_ms, m.samples, m.source) for key, m in measurements.items()]
        statement = "insert or replace into measurement values (?, ?, ?, ?, ?)"
        self._use(lambda connection: connection.executemany(statement, rows))

    def _use(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Call `work` with the open database; warn where it is read-only, or the disk is full."""
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                work(connection)
        except sqlite3.OperationalError as error:
            warn_once(f"costs are not kept: {self.path}: {error}")
        except sqlite3.Error as error:
            raise CostError(
                f"cannot use the cost cache {self.path}: {error}; remove the file, or choose "
                "another folder with --cost-cache"
            ) from error
