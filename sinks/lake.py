"""The lake: Delta tables that own the offsets (protocol and failures: docs/commit-protocol.md)."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import SekishoError, UsageError
from schemas.record import Record
from schemas.tables import TABLES, TRIAGE, typed
from sinks import views
from sinks.batch import Batch, Partition, app_id, owed_id, read_id
from sinks.commits import Commit, commits
from sinks.decision import check_files, complete
from sinks.durable import make_folder
from sinks.log import DeltaLog
from sinks.parquet import TableFile
from sinks.settlement import Settled, SettledStep, Settlements
from sinks.transaction import Conflict, Transaction

__all__ = ["Commit", "Conflict", "Lake", "Settled", "SettledStep", "Transaction"]

_log = logging.getLogger(__name__)

_DT = pa.field("dt", pa.date32())
_APPEND_ONLY = ("raw", "triage")  # what nothing else could make again


class Lake:
    """An open lake. One process may hold it open many times; processes share it without a lock."""

    def __init__(self, path: Path, logs: Mapping[str, DeltaLog], repair: bool) -> None:
        """Use `Lake.open`."""
        self.path = path
        self._repair = repair
        self._logs = logs
        self._settlements = Settlements(logs)

    @classmethod
    def open(cls, path: str | Path, create: bool = True, repair: bool = True) -> "Lake":
        """Opens the lake in folder `path`, repairing what a power cut left of the logs' last entries.

        Creates what is missing, unless `create` is False: then a folder without a lake raises SekishoError,
        as do lost or damaged log entries and folders that cannot be written.

        Without `repair` nothing at all is written, so that any lake that can be read can be opened: it is to
        be read only, and a torn log entry or a missing table raises SekishoError.
        """
        folder = Path(path).absolute()
        if not (create and repair) and not exists(folder):
            raise SekishoError(f"no lake in {folder}: give the folder that a worker or a scan has written")
        if "%" in str(folder):  # deltalake decodes it as a URL and looks elsewhere
            raise UsageError(f"a lake cannot be in {folder}: choose a path without a percent sign")
        if repair:
            make_folder(folder)
        logs = {}
        for table, schema in TABLES.items():
            columns, append_only = schema.append(_DT), table in _APPEND_ONLY
            logs[table] = DeltaLog.open(folder / table, columns, append_only, repair)
        if repair:
            views.write(folder)
        return cls(folder, logs, repair)

    def offsets(self) -> dict[Partition, int]:
        """The next offset to land of every partition, after completing what a crash left undone."""
        if self._repair:
            self.redo()
        offsets = {}
        for app, version in self._logs["raw"].txns.items():
            table, partition = read_id(app)
            if table is None:
                offsets[partition] = version
        return offsets

    def is_empty(self) -> bool:
        """Whether nothing was ever landed."""
        self._logs["raw"].refresh()
        return not self._logs["raw"].txns

    def versions(self, record: Record) -> Iterator[pa.RecordBatch]:
        """All versions and tombstones of a reference record that have landed.

        Batches are typed(record) without `ingested_at`.
        Tables are read as they are when the iteration starts; call `offsets` first.
        """
        log = self._logs[record.name]
        log.refresh()
        schema = typed(record)
        schema = schema.remove(schema.get_field_index("ingested_at"))
        for file in log.files():
            try:
                with pq.ParquetFile(file) as parquet:
                    for batch in parquet.iter_batches(columns=schema.names):
                        yield batch.select(schema.names).cast(schema)
            except (OSError, pa.ArrowException) as error:
                raise SekishoError(f"cannot read {file}: restore it from a copy ({error})") from error

    def begin(self, at: datetime) -> Transaction:
        """Opens a batch; `at` (with a zone) is its ingest time."""
        return Transaction(self, at)

    def commits(self, after: int) -> Iterator[Commit]:
        """The batches that have landed since entry `after` of raw's log (-1: all), in order."""
        return commits(self._logs["raw"], after)

    def settled(self) -> Settled | None:
        """The reconciler's last step, after completing what a crash left undone; None before the first.

        In a lake that is not to be repaired it is the last that is there whole.
        """
        if self._repair:
            return self._settlements.settled()
        return self._settlements.whole()

    def settlements(self, after: int) -> Iterator[SettledStep]:
        """The reconciler's steps after step `after` (0: all), in order."""
        return self._settlements.steps(after)

    def settle(self, settled: Settled, tables: Mapping[str, pa.Table], at: datetime) -> None:
        """Commits one step of the reconciler, durably.

        Args:
            settled: the step; becomes a row of `watermark`.
            tables: new rows of finding_history, finding_event, duplicate and coverage, those that have any.
                `step` and `ingested_at` are filled in here.
            at: the time (with a zone) that becomes `ingested_at`, its UTC date the `dt`.

        Raises:
            Conflict: the step is not the one after the lake's last, since another reconciler is at work;
                nothing is written.
            SekishoError: the disk fails. If the step was decided, it is completed at the next start.
        """
        self._settlements.settle(settled, tables, at)

    def triage(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Adds rows of TRIAGE (without `ingested_at`, which becomes `at`), durably."""
        schema = TRIAGE.remove(TRIAGE.get_field_index("ingested_at"))
        batch = pa.RecordBatch.from_pylist(list(rows), schema=schema)
        if not batch.num_rows:
            return
        file = self.new_file("triage", at)
        try:
            file.append(batch)
            written = file.finish()
        except BaseException:
            file.discard()
            raise
        info = {"table": "triage", "files": [written.digest()]}
        self._logs["triage"].commit([written], {}, info, lambda: False)

    # What a transaction needs

    def new_file(self, table: str, at: datetime) -> TableFile:
        return TableFile(self.path / table, TABLES[table], at)

    def prepare(self, batch: Batch) -> None:
        """Checks, before anything names the batch's files, that it may be landed; raises Conflict if not."""
        self._logs["raw"].refresh()
        self._check_starts(batch)
        if self._owed(batch):
            self.redo()

    def land(self, batch: Batch) -> None:
        """Commits the batch to raw, which decides, then to every other table it has rows for."""
        raw = self._logs["raw"]

        def taken() -> bool:
            self._check_starts(batch)
            return False

        version = raw.commit(batch.raw, batch.raw_txns(), batch.raw_info(), taken)
        assert version is not None
        for table in batch.tables:
            self._complete(table, batch, version)

    def redo(self) -> None:
        """Commits to the other tables what raw's log says they owe, because a crash left it undone."""
        for log in self._logs.values():
            log.refresh()
        raw = self._logs["raw"]
        owed = self._owed()
        version = raw.version
        while owed:
            assert version >= 0, f"raw's log does not hold what it says is owed: {owed}"
            entry = raw.entry(version)
            if any(app in owed and owed[app] == end for app, end in entry.txns.items()):
                batch = Batch.from_info(entry.info)
                for table in batch.tables:
                    if any(owed_id(table, partition) in owed for partition in batch.partitions(table)):
                        check_files(self._logs[table], batch)
                        self._complete(table, batch, version)
                        _log.warning(
                            "completed raw's commit %d in %s, left undone by a crash", version, table
                        )
                owed = {app: end for app, end in owed.items() if entry.txns.get(app) != end}
            version -= 1

    def _complete(self, table: str, batch: Batch, raw_version: int) -> None:
        """Commits the batch's files to one table, unless somebody has done so already."""
        complete(self._logs[table], batch, raw_version)

    def _owed(self, batch: Batch | None = None) -> dict[str, int]:
        """What the tables owe, of the batch's partitions or of all: raw's owed appIds and their versions.

        At most the latest batch of a partition can be owed, since `prepare` completes it before the next.
        """
        owed = {}
        raw = self._logs["raw"]
        for app, end in list(raw.txns.items()):
            table, partition = read_id(app)
            if table is None or (batch is not None and partition not in batch.ranges):
                continue
            log = self._logs[table]
            has = log.txns.get(app_id(partition), -1)
            if has < end:
                log.refresh()
                has = log.txns.get(app_id(partition), -1)
            if has < end:
                owed[app] = end
                continue
            if has > raw.txns[app_id(partition)]:
                raw.refresh()  # a live peer may have landed more since
            if has > raw.txns[app_id(partition)]:
                raise SekishoError(
                    f"{log.table} is ahead of raw in {partition[0]}:{partition[1]}: "
                    "raw's log has lost commits, restore it from a copy"
                )
        return owed

    def _check_starts(self, batch: Batch) -> None:
        txns = self._logs["raw"].txns
        for partition, (start, _) in batch.ranges.items():
            landed = txns.get(app_id(partition), start)
            if landed != start:
                name = f"{partition[0]}:{partition[1]}"
                raise Conflict(f"{name} is landed up to {landed}, not {start}: seek to the lake's offsets")


def exists(folder: Path) -> bool:
    """Whether there is a lake in `folder`."""
    return (folder / "raw" / "_delta_log").is_dir()
