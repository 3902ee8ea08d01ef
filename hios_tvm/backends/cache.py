"""Measurements kept between compiles: a SQLite database in the user's cache folder."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import platformdirs

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
_MOST_KEYS = 500  # in one query; SQLite allows 999 parameters in its smallest build


def default_cache_dir() -> Path:
    """Folder of this program's caches, by the conventions of the operating system."""
    return Path(platformdirs.user_cache_dir("hios-tvm"))


def kernel_dir(cache_dir: Path | None) -> Path | None:
    """Folder of compiled kernels in a cache folder; None where nothing is kept."""
    return None if cache_dir is None else cache_dir / "kernels"


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
            raise CostError(
                f"cannot make the cache folder {folder}: {error}; choose another with --cost-cache"
            ) from error
        with self._connection() as connection:
            connection.execute(_SCHEMA)

    def get(self, keys: Iterable[str]) -> dict[str, Measurement]:
        """Return what is known of `keys`."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Measurement] = {}
        with self._connection() as connection:
            for start in range(0, len(wanted), _MOST_KEYS):
                part = wanted[start : start + _MOST_KEYS]
                marks = ",".join("?" * len(part))
                rows = connection.execute(
                    "select key, ms, spread_ms, samples, source from measurement "
                    f"where key in ({marks})",
                    part,
                )
                found.update({key: Measurement(*values) for key, *values in rows})
        return found

    def put(self, measurements: Mapping[str, Measurement]) -> None:
        """Keep `measurements`, replacing older ones of the same keys."""
        rows = [(key, m.ms, m.spread_ms, m.samples, m.source) for key, m in measurements.items()]
        with self._connection() as connection:
            connection.executemany(
                "insert or replace into measurement values (?, ?, ?, ?, ?)", rows
            )

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            raise CostError(
                f"cannot use the cost cache {self.path}: {error}; remove the file, or choose "
                "another folder with --cost-cache"
            ) from error
