"""What the reconciler commits: step by step, one reconciler at a time, in several tables at once.

`finding_history`'s commit decides: it is made in every step, even without rows, and its `sekisho` object
names the files of the other tables. A step that is not the next is a Conflict, so a second reconciler, or one
that was frozen and wakes, writes nothing.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.errors import SekishoError
from schemas.record import TIME
from schemas.tables import TABLES
from sinks.batch import File
from sinks.decision import check_files, complete
from sinks.log import DeltaLog, Entry
from sinks.parquet import TableFile
from sinks.transaction import Conflict

_log = logging.getLogger(__name__)

APP = "reconciler"
"""The Delta `txn` appId; its version is the last step, in every table the step has touched."""

HISTORY = "finding_history"
FOLLOWING = ("finding_event", "duplicate", "coverage", "watermark")
"""In this order: whoever sees a step in `watermark` sees all of it."""


@dataclass(frozen=True)
class Settled:
    """One step: what the reconciler has read, and how far time has come with it.

    Steps count from 1. `raw_version` is the last entry of raw's log that was read. `watermark` and
    `latest_broker_time` are in µs since the epoch (UTC), None before there is one. `late_events` counts the
    step's events that came behind the watermark.
    """

    step: int
    raw_version: int
    watermark: int | None
    latest_broker_time: int | None
    late_events: int = 0

    def row(self) -> pa.Table:
        """The step's row of the table `watermark`, without `ingested_at`."""
        times = {"watermark", "latest_broker_time"}
        columns = {
            name: pa.array([value], pa.int64()).cast(TIME) if name in times else pa.array([value], pa.int64())
            for name, value in asdict(self).items()
        }
        return pa.table(columns)


@dataclass(frozen=True)
class SettledStep:
    """A step that is in the lake, with absolute paths of its Parquet files in each table it has rows for."""

    settled: Settled
    files: Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class Settlement:
    """What the deciding commit says: the step and the files of every table it has rows for."""

    settled: Settled
    history: Sequence[File]
    tables: Mapping[str, Sequence[File]]

    def files(self, table: str) -> Sequence[File]:
        return self.tables[table]

    def txns(self) -> dict[str, int]:
        return {APP: self.settled.step}

    def table_txns(self, table: str) -> dict[str, int]:
        return self.txns()

    def info(self) -> dict[str, Any]:
        """The `sekisho` object of finding_history's commit."""
        return {
            "table": HISTORY,
            **asdict(self.settled),
            "files": [file.digest() for file in self.history],
            "tables": {table: [file.to_json() for file in files] for table, files in self.tables.items()},
        }

    def table_info(self, table: str, version: int) -> dict[str, Any]:
        """The `sekisho` object of another table's commit."""
        return {
            "table": table,
            "history_version": version,
            **asdict(self.settled),
            "files": [file.digest() for file in self.tables[table]],
        }

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> "Settlement":
        """Reads `info` back; finding_history's own files are not needed again and stay out."""
        return cls(
            Settled(**{name: info[name] for name in Settled.__dataclass_fields__}),
            (),
            {table: [File.from_json(file) for file in files] for table, files in info["tables"].items()},
        )


class Settlements:
    """The reconciler's commits to one lake."""

    def __init__(self, logs: Mapping[str, DeltaLog]) -> None:
        """`logs` are the lake's, by table."""
        self._logs = logs
        self._history = logs[HISTORY]

    def settled(self) -> Settled | None:
        """The last step, after completing what a crash left undone; None before the first."""
        self.redo()
        last = self._last()
        return last[1].settled if last else None

    def whole(self) -> Settled | None:
        """The last step that is in every table, whatever a crash left undone; None before the first."""
        step = self._logs[FOLLOWING[-1]].txns.get(APP, 0)
        return next(self.steps(step - 1)).settled if step else None

    def steps(self, after: int) -> Iterator[SettledStep]:
        """The steps after step `after`, in order, as of now. Costs one small file a step."""
        self._history.refresh()
        # A step's entry has at least the step's number; others' commits come between.
        for version in range(after + 1, self._history.version + 1):
            entry = self._history.entry(version)
            if entry.txns.get(APP, 0) > after:
                yield self._step(entry)

    def settle(self, settled: Settled, tables: Mapping[str, pa.Table], at: datetime) -> None:
        """Commits a step durably; see `Lake.settle`."""
        self._check_step(settled)
        open_files = self._written(settled, tables, at)
        try:
            files = {table: [file.finish()] for table, file in open_files.items()}
            self.redo()
        except BaseException:
            _discard(open_files)
            raise
        settlement = Settlement(settled, files.pop(HISTORY, []), files)
        try:
            version = self._decide(settlement)
        except Conflict:
            _discard(open_files)
            raise
        # Any other failure leaves the files: the log may already name them.
        for table in settlement.tables:
            complete(self._logs[table], settlement, version)

    def redo(self) -> None:
        """Commits to the other tables what the last step decided, because a crash left it undone.

        Only the last step can be undone, since `settle` does this before the next.
        """
        last = self._last()
        step = last[1].settled.step if last else 0
        for table in FOLLOWING:
            log = self._logs[table]
            log.refresh()
            if log.txns.get(APP, 0) > step:
                self._check_ahead(log)
            elif last and table in last[1].tables and log.txns.get(APP, 0) < step:
                check_files(log, last[1])
                complete(log, last[1], last[0])
                _log.warning("completed the reconciler's step %d in %s, left undone by a crash", step, table)

    def _last(self) -> tuple[int, Settlement] | None:
        """The newest deciding entry of finding_history's log: its version and what it says."""
        self._history.refresh()
        if APP not in self._history.txns:
            return None
        version = self._history.version
        while (entry := self._history.entry(version)).txns.get(APP) != self._history.txns[APP]:
            version -= 1  # a commit of somebody else, which merged files
        return version, Settlement.from_info(entry.info)

    def _step(self, entry: Entry) -> SettledStep:
        settlement = Settlement.from_info(entry.info)
        paths = {table: [file.path for file in files] for table, files in settlement.tables.items()}
        if entry.info["files"]:
            paths[HISTORY] = [file["path"] for file in entry.info["files"]]
        files = {table: [self._logs[table].table / path for path in paths[table]] for table in paths}
        return SettledStep(settlement.settled, files)

    def _check_ahead(self, log: DeltaLog) -> None:
        self._history.refresh()  # a live peer may have settled more since
        if log.txns[APP] > self._history.txns.get(APP, 0):
            raise SekishoError(
                f"{log.table} is ahead of {HISTORY}: {HISTORY}'s log has lost commits, restore it from a copy"
            )

    def _check_step(self, settled: Settled) -> None:
        self._history.refresh()
        self._check_next(settled)

    def _check_next(self, settled: Settled) -> None:
        last = self._history.txns.get(APP, 0)
        if settled.step != last + 1:
            raise Conflict(f"the lake is settled up to step {last}: step {settled.step} is not the next")

    def _decide(self, settlement: Settlement) -> int:
        def taken() -> bool:
            self._check_next(settlement.settled)
            return False

        version = self._history.commit(settlement.history, settlement.txns(), settlement.info(), taken)
        assert version is not None
        return version

    def _written(
        self, settled: Settled, tables: Mapping[str, pa.Table], at: datetime
    ) -> dict[str, TableFile]:
        """One file of every table that has rows, in the order in which they are committed."""
        assert set(tables) <= {HISTORY, *FOLLOWING} - {"watermark"}, f"not the reconciler's: {sorted(tables)}"
        rows = {**tables, "watermark": settled.row()}
        files: dict[str, TableFile] = {}
        try:
            for table in (HISTORY, *FOLLOWING):
                if table in rows and rows[table].num_rows:
                    files[table] = TableFile(self._logs[table].table, TABLES[table], at)
                    for batch in _stepped(rows[table], settled.step, TABLES[table]).to_batches():
                        files[table].append(batch)
        except BaseException:
            _discard(files)
            raise
        return files


def _stepped(rows: pa.Table, step: int, schema: pa.Schema) -> pa.Table:
    """The rows in the schema's order without `ingested_at`, and with their step."""
    steps = pa.repeat(pa.scalar(step, pa.int64()), rows.num_rows)
    names = [name for name in schema.names if name not in ("step", "ingested_at")]
    return rows.select(names).append_column("step", steps)


def _discard(files: Mapping[str, TableFile]) -> None:
    for file in files.values():
        file.discard()
