"""Consecutive commits of `raw` as the input of one step of the reconciler."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rules.reconciler.given import REJECTED, StepInput, before_landing, event_schema, landed_schema
from schemas.columns import decode
from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.reference import REFERENCES
from schemas.tables import FINDING_EVENT, typed
from schemas.ticks import TICK
from sinks.lake import Commit

MOST_ROWS = 800_000  # of one step: settled well before a standby takes over, unless a single commit has more


def groups(commits: Iterable[Commit], most_rows: int | None = None) -> Iterator[list[Commit]]:
    """Consecutive commits with at most so many records together (MOST_ROWS), at least one commit each."""
    most_rows = MOST_ROWS if most_rows is None else most_rows
    group: list[Commit] = []
    total = 0
    for commit in commits:
        rows = sum(_metadata(file).num_rows for file in commit.files.get("raw", ()))
        if group and total + rows > most_rows:
            yield group
            group, total = [], 0
        group.append(commit)
        total += rows
    if group:
        yield group


def read_step(commits: Sequence[Commit]) -> StepInput:
    """What these commits landed. Raises SekishoError where a file cannot be read."""
    reading = _Reading()
    for index, commit in enumerate(commits):
        reading.add(index, commit)
    return reading.done(commits)


@dataclass
class _Reading:
    """What has been read so far of a step."""

    events: dict[str, list[pa.Table]] = field(
        default_factory=lambda: {record.name: [] for record in EVENTS.values()}
    )
    firings: list[pa.Table] = field(default_factory=list)
    rejected: list[pa.Table] = field(default_factory=list)
    references: list[Any] = field(default_factory=list)
    times: list[int] = field(default_factory=list)  # candidates for the earliest and the latest broker time
    ticks: list[int] = field(default_factory=list)

    def add(self, index: int, commit: Commit) -> None:
        for file in commit.files.get("raw", ()):
            self._add_raw(file)
        for record in EVENTS.values():
            for file in commit.files.get(record.name, ()):
                rows = _read(file, landed_schema(record))
                self._note_times(rows["broker_time"])
                commits = pa.repeat(pa.scalar(index, pa.int32()), rows.num_rows)
                self.events[record.name].append(rows.append_column("commit", commits))
        for record in REFERENCES.values():
            for file in commit.files.get(record.name, ()):
                rows = _read(file, before_landing(typed(record)))
                self._note_times(rows["broker_time"])
                self.references += [(record, batch) for batch in rows.combine_chunks().to_batches()]
        for file in commit.files.get("finding_event", ()):
            self.firings.append(_read(file, before_landing(FINDING_EVENT)))

    def done(self, commits: Sequence[Commit]) -> StepInput:
        read = {
            partition: end
            for commit in commits
            for partition, (_, end) in commit.batch.ranges.items()
            if partition[0] in REFERENCES
        }
        return StepInput(
            raw_version=commits[-1].version,
            events={
                record.name: _concat(self.events[record.name], event_schema(record))
                for record in EVENTS.values()
            },
            firings=_concat(self.firings, before_landing(FINDING_EVENT)),
            rejected=_concat(self.rejected, REJECTED),
            references=self.references,
            read=read,
            known=[commit.batch.known for commit in commits],
            broker_first=min(self.times, default=None),
            broker_last=max(self.times, default=None),
            tick=max(self.ticks, default=None),
        )

    def _add_raw(self, file: Path) -> None:
        """Rejected rows, and the times of what has no row elsewhere; values are read only of ticks."""
        try:
            with pq.ParquetFile(file, read_dictionary=["topic", "reason"]) as parquet:
                for group in range(parquet.num_row_groups):
                    rows = parquet.read_row_group(group, columns=["topic", "reason"])
                    if _are_events(rows):
                        continue
                    rows = parquet.read_row_group(group, columns=REJECTED.names)
                    accepted = rows["reason"].is_null()
                    ticks = pc.and_(pc.equal(rows["topic"], TICK.topic), accepted)
                    self.rejected.append(
                        rows.filter(pc.invert(accepted)).select(REJECTED.names).cast(REJECTED)
                    )
                    self._note_times(rows.filter(pc.invert(ticks))["broker_time"])
                    if pc.any(ticks).as_py():
                        values = parquet.read_row_group(group, columns=["value"]).filter(ticks)["value"]
                        self._add_ticks(values.combine_chunks().cast(pa.binary()))
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(file, error) from error

    def _add_ticks(self, values: pa.BinaryArray) -> None:
        at = decode(TICK, values).table["at"]
        self._note_times(at)
        self.ticks += [value for value in [pc.max(at).cast(pa.int64()).as_py()] if value is not None]

    def _note_times(self, times: pa.ChunkedArray | pa.Array) -> None:
        ends = pc.min_max(times)
        self.times += [end.value for end in (ends["min"], ends["max"]) if end.is_valid]


def _are_events(rows: pa.Table) -> bool:
    """Whether all rows of raw, read as dictionaries, are accepted events: these have rows of their own."""
    topics = {topic for chunk in rows["topic"].chunks for topic in chunk.dictionary.to_pylist()}
    return rows["reason"].null_count == rows.num_rows and topics <= EVENTS.keys()


def _read(file: Path, schema: pa.Schema) -> pa.Table:
    try:
        repeated = [field.name for field in schema if pa.types.is_dictionary(field.type)]
        with pq.ParquetFile(file, read_dictionary=repeated) as parquet:
            return parquet.read(columns=schema.names).select(schema.names).cast(schema)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, error) from error


def _metadata(file: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> SekishoError:
    return SekishoError(f"cannot read {file}: restore it from a copy ({error})")


def _concat(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    filled = [table for table in tables if table.num_rows]
    return pa.concat_tables(filled).unify_dictionaries() if filled else schema.empty_table()
