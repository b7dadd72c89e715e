"""Every accepted event once seen, as an index that outlives steps and processes.

Its entries lie in sorted runs (`runs.py`). Four runs of one size become one of the next, so that a look-up
searches few and an entry is copied a handful of times in its life. Which runs there are is a table of the
caller's database: after a rollback or a crash the index is as of the last commit, and files that no commit
names are removed.
"""

import secrets
from pathlib import Path

import duckdb

from rules.reconciler.runs import Entries, Run, Words, concat, load, merge

_FAN = 4  # runs of one level that become one of the next
_LEVEL_0 = 1 << 12  # entries; a run of level n holds less than this times _FAN ** n
_LARGEST = 3 << 20  # entries; runs of this size are never merged again


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the table of runs where it is missing."""
    con.execute("CREATE TABLE IF NOT EXISTS seen_run (number BIGINT, name VARCHAR, entries BIGINT)")


class Seen:
    """The index over one database connection; in one transaction at a time."""

    def __init__(self, con: duckdb.DuckDBPyConnection, folder: Path | None = None) -> None:
        """Opens the index in `folder` (in memory if None) as of the last commit.

        Raises:
            SekishoError: a file of the index is missing or damaged.
        """
        self._con = con
        self._folder = None if folder is None else folder / "seen"
        if self._folder is not None:
            self._folder.mkdir(exist_ok=True)
        self._runs: list[Run] = []  # oldest first
        self._replaced: dict[str, Run] = {}  # in memory: what a rollback may need again
        self._changed_in: int | None = None  # the transaction that changed the runs last
        create(con)
        self.refresh()

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def refresh(self) -> None:
        """Goes back to what the database says: the first thing to do in a transaction."""
        if self._changed_in == self._transaction():
            return  # what this transaction has replaced is needed if it is rolled back
        rows = self._con.execute("SELECT name, entries FROM seen_run ORDER BY number").fetchall()
        if [name for name, _ in rows] != [run.name for run in self._runs]:
            self._runs = [self._open(name, entries) for name, entries in rows]
        self._replaced.clear()
        if self._folder is not None:
            names = {name for name, _ in rows}
            for path in self._folder.iterdir():
                if path.name not in names:
                    path.unlink()

    def find(self, keys: Words, low: int | None = None, high: int | None = None) -> Entries:
        """All entries with the given keys (ascending).

        `low` and `high` (µs): entries with earlier or later event times may be left out.
        """
        runs = [
            run
            for run in self._runs
            if (high is None or run.low <= high) and (low is None or run.high >= low)
        ]
        return concat(_found(run, keys) for run in runs)

    def add(self, entries: Entries) -> None:
        """Adds entries, which are in ascending order of their keys."""
        if len(entries) == 0:
            return
        self._changed_in = self._transaction()
        self._runs.append(self._merge([entries]))
        while (count := self._alike()) >= _FAN:
            merged, self._runs = self._runs[-count:], self._runs[:-count]
            self._replaced.update((run.name, run) for run in merged if self._folder is None)
            self._runs.append(self._merge([run.entries for run in merged]))
        self._con.execute("DELETE FROM seen_run")
        self._con.executemany(
            "INSERT INTO seen_run VALUES (?, ?, ?)",
            [(number, run.name, len(run)) for number, run in enumerate(self._runs)],
        )

    def _transaction(self) -> int:
        ((number,),) = self._con.execute("SELECT txid_current()").fetchall()
        return int(number)

    def _open(self, name: str, entries: int) -> Run:
        if self._folder is not None:
            return load(name, entries, self._folder)
        return next(run for run in (*self._runs, *self._replaced.values()) if run.name == name)

    def _merge(self, parts: list[Entries]) -> Run:
        return merge(secrets.token_hex(8), parts, self._folder)

    def _alike(self) -> int:
        """How many of the last runs are of the last one's level, or of one below."""
        level = _level(len(self._runs[-1]))
        count = 0
        for run in reversed(self._runs):
            if _level(len(run)) > level or len(run) >= _LARGEST:
                break
            count += 1
        return count


def _found(run: Run, keys: Words) -> Entries:
    """The run's entries with one of the keys. Its pages are let go: those that the index of fifty million
    events is searched by would be half of what the process has."""
    found = run.entries.take(run.find(keys))
    run.entries.let_go()
    return found


def _level(entries: int) -> int:
    level = 0
    while entries >= _LEVEL_0 * _FAN**level:
        level += 1
    return level
